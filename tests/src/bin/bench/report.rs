//! The table, as text and as JSON, and whether the goals are met.

use serde_json::{Value, json};

use crate::{
    Failure, Options, Rig,
    case::{Bound, Case, Figure, Goal},
    measure::{CALM, Sample},
    server::Kind,
    stats::Spread,
};

/// The measurements of one server in one case.
#[derive(Debug)]
struct Row {
    kind: Kind,
    serves: &'static str,
    samples: Vec<Sample>,
}

impl Row {
    fn spread(&self, figure: impl Fn(&Sample) -> f64) -> Spread {
        Spread::of(self.samples.iter().map(figure))
    }

    /// A figure divided by another server's figure of the same round. A disturbance that lasts
    /// longer than a round affects both.
    fn by(&self, other: &Self, figure: impl Fn(&Sample) -> f64) -> Spread {
        let pairs = self.samples.iter().zip(&other.samples);
        Spread::of(pairs.map(|(own, other)| figure(own) / figure(other)))
    }
}

#[derive(Debug)]
struct Entry {
    case: &'static Case,
    rows: Vec<Row>,
}

/// How the agent meets a goal.
#[derive(Debug)]
struct Verdict {
    goal: Goal,
    value: Spread,
    /// The value that is compared with the goal.
    counts: f64,
    met: bool,
}

impl Entry {
    fn row(&self, kind: Kind) -> Option<&Row> {
        self.rows.iter().find(|row| row.kind == kind)
    }

    /// The server that others are compared with: nbdkit, or the agent if it is compared with a
    /// variant of itself.
    fn yardstick(&self) -> Option<&Row> {
        self.row(Kind::Nbdkit).or_else(|| self.row(Kind::Agent))
    }

    /// The ratio to nbdkit, which most goals are about.
    fn ratio(&self, row: &Row, figure: impl Fn(&Sample) -> f64) -> Option<Spread> {
        Some(row.by(self.row(Kind::Nbdkit)?, figure))
    }

    /// `None` if a figure that it needs was not measured.
    fn verdict(&self, goal: Goal) -> Option<Verdict> {
        let agent = self.row(Kind::Agent)?;
        let value = match goal.figure {
            Figure::Rate => self.ratio(agent, |sample| sample.rate)?,
            Figure::Cpu => self.ratio(agent, |sample| sample.server_us)?,
            Figure::P50 => self.ratio(agent, |sample| sample.p50)?,
            Figure::RateByQemu => agent.by(self.row(Kind::QemuNbd)?, |sample| sample.rate),
            Figure::CpuByQemu => agent.by(self.row(Kind::QemuNbd)?, |sample| sample.server_us),
            Figure::RateByFio => agent.by(self.row(Kind::Fio)?, |sample| sample.rate),
            Figure::IdleKib => agent.spread(|s| s.idle.map_or(f64::NAN, |i| i.bytes / 1024.0)),
            Figure::IdleLoss => {
                agent.spread(|s| s.idle.map_or(f64::NAN, |i| (1.0 - i.kept) * 100.0))
            }
        };
        // Later rounds reuse the memory of the first one, so only the maximum of all rounds is the
        // cost.
        let counts = if goal.figure == Figure::IdleKib { value.most } else { value.median };
        Some(Verdict { goal, value, counts, met: goal.bound.is_met(counts) })
    }

    fn verdicts(&self) -> impl Iterator<Item = Verdict> {
        self.case.goals.iter().filter_map(|&goal| self.verdict(goal))
    }
}

#[derive(Debug)]
pub(crate) struct Report {
    entries: Vec<Entry>,
    how: Value,
}

impl Report {
    pub(crate) fn new(options: &Options) -> Self {
        let how = json!({
            "rounds": options.rounds,
            "seconds": options.seconds,
            "pin": options.pin,
            "structured_replies": !options.simple,
            "client_poll": options.client_poll,
        });
        Self { entries: Vec::new(), how }
    }

    pub(crate) fn add(&mut self, case: &'static Case, samples: Vec<Vec<Sample>>, rigs: &[Rig]) {
        let rows = rigs
            .iter()
            .zip(samples)
            .map(|(rig, samples)| Row { kind: rig.kind(), serves: rig.serves(), samples })
            .collect();
        self.entries.push(Entry { case, rows });
    }

    pub(crate) fn passed(&self) -> bool {
        self.entries.iter().flat_map(Entry::verdicts).all(|verdict| verdict.met)
    }

    pub(crate) fn print_table(&self) {
        for entry in &self.entries {
            print_entry(entry);
        }
        let verdicts: Vec<Verdict> = self.entries.iter().flat_map(Entry::verdicts).collect();
        if !verdicts.is_empty() {
            let met = verdicts.iter().filter(|verdict| verdict.met).count();
            println!("{met} of {} goals met", verdicts.len());
        }
        let others = self.others();
        println!(
            "meanwhile other processes used {:.0} % of a core in the median round, {:.0} % at most{}",
            others.median * 100.0,
            others.most * 100.0,
            if others.median > CALM {
                ": too busy a machine for these figures to count"
            } else {
                ""
            },
        );
    }

    /// How much other processes used the machine in the rounds that counted.
    fn others(&self) -> Spread {
        let rows = self.entries.iter().flat_map(|entry| &entry.rows);
        Spread::of(rows.flat_map(|row| &row.samples).map(|sample| sample.others))
    }

    pub(crate) fn print_json(&self) -> Result<(), Failure> {
        let cases: Vec<Value> = self.entries.iter().map(entry_json).collect();
        let all = json!({
            "how": self.how,
            "passed": self.passed(),
            "others_cpu": spread_json(self.others()),
            "cases": cases,
        });
        println!("{}", serde_json::to_string_pretty(&all)?);
        Ok(())
    }
}

fn print_entry(entry: &Entry) {
    println!("{}", entry.case.name);
    println!(
        "  {:<9} {:<15} {:>10} {:>15} {:>8} {:>10} {:>10} {:>8} {:>8}   by {}: rate, CPU, p50",
        "",
        "serves",
        "requests/s",
        "range",
        "MB/s",
        "server us",
        "client us",
        "p50 us",
        "p99 us",
        entry.yardstick().map_or_else(|| "nothing".to_owned(), |row| row.kind.to_string()),
    );
    for row in &entry.rows {
        let rate = row.spread(|sample| sample.rate);
        let ratios = entry.yardstick().map(|other| {
            [
                row.by(other, |sample| sample.rate),
                row.by(other, |sample| sample.server_us),
                row.by(other, |sample| sample.p50),
            ]
        });
        let ratios: Vec<String> = ratios
            .into_iter()
            .flatten()
            .map(|Spread { median, least, most }| format!("{median:.3} ({least:.3}-{most:.3})"))
            .collect();
        println!(
            "  {:<9} {:<14} {:>10.0} {:>15} {:>8.0} {:>10.2} {:>10.2} {:>8.1} {:>8.1}   {}",
            row.kind,
            row.serves,
            rate.median,
            format!("{:.0}-{:.0}", rate.least, rate.most),
            rate.median * f64::from(entry.case.load.block) / 1e6,
            row.spread(|sample| sample.server_us).median,
            row.spread(|sample| sample.client_us).median,
            row.spread(|sample| sample.p50).median,
            row.spread(|sample| sample.p99).median,
            ratios.join("  "),
        );
    }
    for row in entry.rows.iter().filter(|_| entry.case.idle > 0) {
        let idle = |figure: fn(crate::measure::Idle) -> f64| {
            row.spread(|sample| sample.idle.map_or(f64::NAN, figure))
        };
        let loss = idle(|idle| (1.0 - idle.kept) * 100.0);
        println!(
            "  {:<9} an idle connection: {:.1} KiB, {:.1} threads; all idle: {:.2} % of a core; \
             the busy one loses {:.1} % ({:.1} to {:.1})",
            row.kind,
            idle(|idle| idle.bytes / 1024.0).most,
            idle(|idle| idle.threads).median,
            idle(|idle| idle.cpu * 100.0).median,
            loss.median,
            loss.least,
            loss.most,
        );
    }
    for verdict in entry.verdicts() {
        println!(
            "  {} {}: {:.2}, goal {}",
            if verdict.met { "met   " } else { "MISSED" },
            figure_name(verdict.goal.figure),
            verdict.counts,
            bound_text(verdict.goal.bound),
        );
    }
    println!();
}

fn spread_json(spread: Spread) -> Value {
    json!({ "median": spread.median, "least": spread.least, "most": spread.most })
}

fn entry_json(entry: &Entry) -> Value {
    let rows: Vec<Value> = entry
        .rows
        .iter()
        .map(|row| {
            let mut value = json!({
                "server": row.kind.to_string(),
                "serves": row.serves,
                "requests_per_second": spread_json(row.spread(|sample| sample.rate)),
                "server_us": spread_json(row.spread(|sample| sample.server_us)),
                "client_us": spread_json(row.spread(|sample| sample.client_us)),
                "p50_us": spread_json(row.spread(|sample| sample.p50)),
                "p99_us": spread_json(row.spread(|sample| sample.p99)),
                "by_nbdkit": {
                    "rate": entry.ratio(row, |sample| sample.rate).map(spread_json),
                    "cpu": entry.ratio(row, |sample| sample.server_us).map(spread_json),
                    "p50": entry.ratio(row, |sample| sample.p50).map(spread_json),
                },
            });
            if entry.case.idle > 0 {
                let idle = |figure: fn(crate::measure::Idle) -> f64| {
                    spread_json(row.spread(|sample| sample.idle.map_or(f64::NAN, figure)))
                };
                value["idle"] = json!({
                    "connections": entry.case.idle,
                    "bytes_each": idle(|idle| idle.bytes),
                    "threads_each": idle(|idle| idle.threads),
                    "cpu_all": idle(|idle| idle.cpu),
                    "rate_kept": idle(|idle| idle.kept),
                });
            }
            value
        })
        .collect();
    let goals: Vec<Value> = entry
        .verdicts()
        .map(|verdict| {
            json!({
                "figure": figure_name(verdict.goal.figure),
                "goal": bound_text(verdict.goal.bound),
                "value": verdict.counts,
                "rounds": spread_json(verdict.value),
                "met": verdict.met,
            })
        })
        .collect();
    json!({ "case": entry.case.name, "servers": rows, "goals": goals })
}

/// Prints the cases that can be measured.
pub(crate) fn list(cases: &[&Case]) {
    for case in cases {
        println!("{}", case.name);
        for goal in case.goals {
            println!("    {} {}", figure_name(goal.figure), bound_text(goal.bound));
        }
    }
}

fn figure_name(figure: Figure) -> &'static str {
    match figure {
        Figure::Rate => "requests a second by nbdkit's",
        Figure::Cpu => "server CPU per request by nbdkit's",
        Figure::P50 => "median latency by nbdkit's",
        Figure::RateByQemu => "requests a second by qemu-nbd's",
        Figure::CpuByQemu => "server CPU per request by qemu-nbd's",
        Figure::RateByFio => "requests a second by fio's",
        Figure::IdleKib => "memory of an idle connection, KiB",
        Figure::IdleLoss => "rate lost beside idle connections, %",
    }
}

fn bound_text(bound: Bound) -> String {
    match bound {
        Bound::AtLeast(bound) => format!(">= {bound}"),
        Bound::AtMost(bound) => format!("<= {bound}"),
        Bound::Under(bound) => format!("< {bound}"),
    }
}
