//! `bench`: measures the speed of a disk, by size, number in flight and kind of the requests, and by the
//! number of connections.
//!
//! `load` makes the requests, `histogram` keeps their latencies, `page` draws charts.

mod histogram;
mod load;
mod page;

use std::{fs, path::PathBuf, time::Duration};

use clap::Args;
use human::{chain, exact_size, parse_duration, parse_size};
use nbd::wire::TransmissionFlags;
use nbd_client::Connector;
use serde_json::{Value, json};

use self::load::{Case, Mode, Outcome};
use super::{
    CommandError,
    print::{print, print_json},
};
use crate::target::Target;

const EXAMPLES: &str = "\
Examples:
  guest-tools bench
  guest-tools bench --mode randread --size 4k --depth 1,16 --connections 1,4
  guest-tools bench --mode read,write --size 256k --depth 4 --destroy --json nbd+vsock://2/scratch
  guest-tools bench --json > before.json
  guest-tools bench --compare before.json --html speed.html

Every combination of what is listed is a case. Latency is from the request's leaving to its answer's
end. A connection that fails ends its case with an error in its row, and the others go on.

Keys of --json: uri, size (bytes of the export), cases; each case has mode, size, depth, connections,
seconds, requests, rate (a second), bytes_per_second, latency (ns: p50, p90, p99, p999, max),
cpu_per_request (ns of this program's processor time), failed (connections), error (or null).";

/// What was said.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Bench {
    #[command(flatten)]
    target: Target,
    /// What the requests are
    #[arg(long, value_delimiter = ',', default_value = "randread", value_enum)]
    mode: Vec<Mode>,
    /// Bytes of a request
    #[arg(long, value_name = "SIZE", value_delimiter = ',', default_values = ["4k", "256k"], value_parser = parse_size)]
    size: Vec<u64>,
    /// Requests under way on each connection
    #[arg(long, value_name = "N", value_delimiter = ',', default_values = ["1", "16"], value_parser = clap::value_parser!(u16).range(1..=1024))]
    depth: Vec<u16>,
    /// Connections at the same time
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1", value_parser = clap::value_parser!(u16).range(1..=256))]
    connections: Vec<u16>,
    /// For how long each case is counted
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = parse_duration)]
    time: Duration,
    /// For how long each case runs before
    #[arg(long, value_name = "TIME", default_value = "300ms", value_parser = parse_duration)]
    warm_up: Duration,
    /// Yes, what is on the disk may be lost; for the modes that write
    #[arg(long)]
    destroy: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Draw a page of it all, which needs nothing but itself
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// What an earlier run printed with --json, to stand beside this one on the page
    #[arg(long, value_name = "FILE", requires = "html")]
    compare: Vec<PathBuf>,
}

pub(crate) fn run(words: &Bench, connector: &Connector) -> Result<(), CommandError> {
    let uri = &words.target.uri;
    let client = connector.open(uri)?;
    let (export, flags) = (client.described().size, client.described().flags);
    let (unit, longest) =
        (u64::from(client.terms().blocks.minimum.max(1)), client.longest_payload());
    client.close();
    let before = words.compare.iter().map(earlier).collect::<Result<Vec<_>, _>>()?;
    let changes = words.mode.iter().any(|mode| mode.changes());
    if changes && !words.destroy {
        return Err(CommandError::Destroy);
    }
    if changes && flags.contains(TransmissionFlags::READ_ONLY) {
        return Err(CommandError::Bench("the export is read-only: use the modes that read".into()));
    }
    for size in &words.size {
        if *size == 0 || *size > export.min(longest) || !size.is_multiple_of(unit) {
            let limits = format!("multiples of {unit} up to {}", export.min(longest));
            return Err(CommandError::Bench(format!(
                "requests of {size} bytes: it takes {limits}"
            )));
        }
    }
    let mut cases = Vec::new();
    let (mut count, mut why) = (0, None);
    if !words.json {
        print(HEADING)?;
    }
    for mode in &words.mode {
        for size in &words.size {
            for depth in &words.depth {
                for connections in &words.connections {
                    let (depth, connections) = (usize::from(*depth), usize::from(*connections));
                    let (mode, size) = (*mode, *size);
                    let (warm_up, time) = (words.warm_up, words.time);
                    let case = Case { mode, size, export, depth, connections, warm_up, time };
                    let outcome = load::run(connector, uri, case);
                    let told = told(case, &outcome);
                    if !words.json {
                        print(&row(case, &outcome))?;
                    }
                    cases.push(told);
                    count += outcome.failed;
                    why = why.or(outcome.why);
                }
            }
        }
    }
    let all = json!({ "uri": uri.to_string(), "size": export, "cases": cases });
    if let Some(path) = &words.html {
        let runs: Vec<_> = before.iter().chain([&all]).collect();
        fs::write(path, page::page(&runs))
            .map_err(|source| CommandError::Open { path: path.clone(), source })?;
    }
    if words.json {
        print_json(&all)?;
    }
    if count > 0 { Err(CommandError::Connections { count, source: why }) } else { Ok(()) }
}

fn earlier(path: &PathBuf) -> Result<Value, CommandError> {
    let wrong = |source| CommandError::Open { path: path.clone(), source };
    let text = fs::read_to_string(path).map_err(wrong)?;
    let run: Value = serde_json::from_str(&text).map_err(|error| wrong(error.into()))?;
    if run["cases"].is_array() {
        return Ok(run);
    }
    Err(wrong(std::io::Error::other("it is not what 'guest-tools bench --json' prints")))
}

const PERCENTILES: [(&str, u64); 4] = [("p50", 5000), ("p90", 9000), ("p99", 9900), ("p999", 9990)];

fn told(case: Case, outcome: &Outcome) -> Value {
    let seconds = case.time.as_secs_f64();
    let Outcome { requests, latencies, failed, why, cpu } = outcome;
    let mut latency: serde_json::Map<_, _> = PERCENTILES
        .iter()
        .map(|(name, of)| ((*name).to_owned(), nanos(latencies.percentile(*of)).into()))
        .collect();
    latency.insert("max".to_owned(), nanos(latencies.longest()).into());
    json!({
        "mode": case.mode.name(),
        "size": case.size,
        "depth": case.depth,
        "connections": case.connections,
        "seconds": seconds,
        "requests": requests,
        "rate": rate(case, outcome),
        "bytes_per_second": rate(case, outcome) * float(case.size),
        "latency": latency,
        "cpu_per_request": cpu_each(case, outcome, *cpu),
        "failed": failed,
        "error": why.as_ref().map(|why| chain(why).to_string()),
    })
}

const HEADING: &str =
    "mode        size depth conns   requests/s     MiB/s   p50 us   p99 us   max us\n";

fn row(case: Case, outcome: &Outcome) -> String {
    let rate = rate(case, outcome);
    let micros = |latency: Duration| latency.as_secs_f64() * 1e6;
    let mut text = format!(
        "{:9} {:>6} {:>5} {:>5} {rate:>12.0} {:>9.1} {:>8.1} {:>8.1} {:>8.0}\n",
        case.mode.name(),
        exact_size(case.size).unwrap_or_else(|| case.size.to_string()),
        case.depth,
        case.connections,
        rate * float(case.size) / f64::from(1 << 20),
        micros(outcome.latencies.percentile(5000)),
        micros(outcome.latencies.percentile(9900)),
        micros(outcome.latencies.longest()),
    );
    if outcome.failed > 0 {
        let why = outcome.why.as_ref().map_or_else(String::new, |why| chain(why).to_string());
        let (failed, gap) = (outcome.failed, "");
        text = format!("{text}{gap:10}{failed} connections failed: {why}\n");
    }
    text
}

fn rate(case: Case, outcome: &Outcome) -> f64 {
    float(outcome.requests) / case.time.as_secs_f64().max(1e-9)
}

/// Processor time per request. The warm-up and the end take processor time too; their share is
/// subtracted in proportion to their duration.
fn cpu_each(case: Case, outcome: &Outcome, cpu: Duration) -> f64 {
    let part = case.time.as_secs_f64() / (case.time + case.warm_up).as_secs_f64().max(1e-9);
    cpu.as_secs_f64() * 1e9 * part / float(outcome.requests.max(1))
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Exact up to 2^53, which no count here reaches.
#[allow(clippy::cast_precision_loss, reason = "numbers for people")]
const fn float(number: u64) -> f64 {
    number as f64
}
