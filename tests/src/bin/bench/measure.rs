//! One round of one server, which results in a sample.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use nix::time::ClockId;

use crate::{
    Failure,
    content::Content,
    load::{Client, Load, Tally, Window},
    server::Server,
    stats::percentile,
};

/// The settings of every round.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) rounds: usize,
    pub(crate) span: Duration,
    pub(crate) structured: bool,
    pub(crate) poll: u32,
    /// How often a round is repeated because other processes disturbed it.
    pub(crate) retries: usize,
}

/// The share of one core that other processes may use during a round.
pub(crate) const CALM: f64 = 0.1;

/// The figures of one round of one server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// Requests per second, all connections together.
    pub(crate) rate: f64,
    /// Server CPU per request, in microseconds.
    pub(crate) server_us: f64,
    /// Client CPU per request, in microseconds.
    pub(crate) client_us: f64,
    /// Latencies, in microseconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    /// CPU that other processes than server and client used meanwhile, as a share of one core.
    pub(crate) others: f64,
    pub(crate) idle: Option<Idle>,
}

/// The cost of idle connections.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Idle {
    /// The server's memory per idle connection, in bytes.
    pub(crate) bytes: f64,
    /// The server's threads per idle connection.
    pub(crate) threads: f64,
    /// The server's CPU while all connections are idle, as a share of one core.
    pub(crate) cpu: f64,
    /// The rate of the busy connection beside idle ones, divided by its rate alone.
    pub(crate) kept: f64,
}

impl Bench {
    /// Takes a sample. While other processes use the machine it is repeated, and the calmest one
    /// counts.
    pub(crate) fn calm(
        &self,
        sample: impl Fn() -> Result<Sample, Failure>,
    ) -> Result<Sample, Failure> {
        let mut best = sample()?;
        for _ in 0..self.retries {
            if best.others <= CALM {
                break;
            }
            let again = sample()?;
            if again.others < best.others {
                best = again;
            }
        }
        Ok(best)
    }

    /// Runs `load` on `connections` connections at once, for the span.
    pub(crate) fn load(
        &self,
        server: &Server,
        content: &Content,
        load: &Load,
        connections: usize,
    ) -> Result<Sample, Failure> {
        let clients = (0..connections)
            .map(|nth| {
                let session = server.connect(self.structured)?;
                Ok(Client::new(session, *load, content, (nth, connections), self.poll))
            })
            .collect::<Result<Vec<_>, Failure>>()?;
        let clock = server.cpu_clock()?;
        // A tenth of the span before the window warms caches and lets the scheduler settle.
        let start = Instant::now() + self.span / 10;
        let window = Window { start, stop: start + self.span };
        let before = Usage::now(clock)?;
        let tallies = thread::scope(|scope| {
            let threads: Vec<_> = clients
                .into_iter()
                .map(|client| scope.spawn(move || client.run(window, clock)))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().map_err(|_| Failure::from("the client panicked"))?)
                .collect::<Result<Vec<_>, _>>()
        })?;
        let others = Usage::now(clock)?.others_since(&before);
        Ok(Sample { others, ..sample(&tallies) })
    }

    /// Runs one busy connection alone, beside `idle` ones, and alone again, so that a drift of the
    /// machine affects both equally.
    pub(crate) fn idle(
        &self,
        server: &Server,
        content: &Content,
        load: &Load,
        idle: usize,
    ) -> Result<Sample, Failure> {
        let alone = self.load(server, content, load, 1)?;
        let (memory, threads) = (server.memory()?, server.threads()?);
        let mut sessions = Vec::with_capacity(idle);
        let mut block = vec![0; load.block as usize];
        for nth in 0..idle {
            let mut session = server
                .connect(self.structured)
                .map_err(|failure| format!("connection {nth} of {idle}: {failure}"))?;
            session.read(nth as u64 * u64::from(load.block), &mut block)?;
            sessions.push(session);
        }
        let each = |before: f64, after: f64| (after - before) / idle as f64;
        let bytes = each(memory as f64, server.memory()? as f64);
        let threads = each(threads as f64, server.threads()? as f64);
        let clock = server.cpu_clock()?;
        let (began, cpu) = (Instant::now(), Duration::from(clock.now()?));
        thread::sleep(self.span / 4);
        let cpu = Duration::from(clock.now()?).saturating_sub(cpu);
        let cpu = cpu.as_secs_f64() / began.elapsed().as_secs_f64();
        let beside = self.load(server, content, load, 1)?;
        for session in sessions {
            session.close()?;
        }
        let again = self.load(server, content, load, 1)?;
        let kept = beside.rate / f64::midpoint(alone.rate, again.rate);
        let others = alone.others.max(beside.others).max(again.others);
        let idle = Some(Idle { bytes, threads, cpu, kept });
        Ok(Sample { others, idle, ..beside })
    }
}

fn sample(tallies: &[Tally]) -> Sample {
    let mut latencies: Vec<u32> =
        tallies.iter().flat_map(|tally| tally.latencies.iter().copied()).collect();
    latencies.sort_unstable();
    let requests = latencies.len().max(1) as f64;
    let mean = |figure: fn(&Tally) -> Duration| {
        tallies.iter().map(|tally| figure(tally).as_secs_f64()).sum::<f64>() / tallies.len() as f64
    };
    let (wall, server) = (mean(|tally| tally.wall), mean(|tally| tally.server_cpu));
    let client = mean(|tally| tally.client_cpu) * tallies.len() as f64;
    Sample {
        rate: requests / wall,
        server_us: server * 1e6 / requests,
        client_us: client * 1e6 / requests,
        p50: percentile(&latencies, 50) / 1e3,
        p99: percentile(&latencies, 99) / 1e3,
        others: 0.0,
        idle: None,
    }
}

/// CPU time used so far.
#[derive(Debug)]
struct Usage {
    at: Instant,
    /// Used by the server and the client.
    ours: Duration,
    /// Used by everything on this machine.
    all: Duration,
}

impl Usage {
    fn now(server: ClockId) -> Result<Self, Failure> {
        let client = Duration::from(ClockId::CLOCK_PROCESS_CPUTIME_ID.now()?);
        Ok(Self {
            at: Instant::now(),
            ours: client + Duration::from(server.now()?),
            all: machine_busy_now()?,
        })
    }

    /// As a share of one core. The kernel counts in ticks of 10 ms.
    fn others_since(&self, before: &Self) -> f64 {
        let all = self.all.saturating_sub(before.all);
        let others = all.saturating_sub(self.ours.saturating_sub(before.ours));
        others.as_secs_f64() / (self.at - before.at).as_secs_f64()
    }
}

/// The processor time that this machine has used so far.
pub(crate) fn machine_busy_now() -> Result<Duration, Failure> {
    machine_busy(&fs::read_to_string("/proc/stat")?)
}

/// User, nice, system, irq, softirq and steal time of all cores, from the text of /proc/stat.
fn machine_busy(stat: &str) -> Result<Duration, Failure> {
    let ticks: Vec<u64> = stat
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("cpu "))
        .map(|line| line.split_whitespace().map_while(|word| word.parse().ok()).collect())
        .unwrap_or_default();
    match ticks[..] {
        [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] => {
            Ok(Duration::from_millis((user + nice + system + irq + softirq + steal) * 10))
        }
        _ => Err("the first line of /proc/stat is not as proc(5) has it".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_waiting_are_not_busy() {
        let stat = "cpu  10 1 20 5000 300 2 3 4 7 7\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(machine_busy(stat).unwrap(), Duration::from_millis(400));
        assert!(machine_busy("intr 1 2 3").is_err());
    }
}
