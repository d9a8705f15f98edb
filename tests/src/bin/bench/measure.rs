//! One round of one server: a sample.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    Failure,
    content::Content,
    load::{Client, Load, Tally, Window},
    server::Server,
    stats::percentile,
};

/// How every round is run.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) rounds: usize,
    pub(crate) span: Duration,
    pub(crate) structured: bool,
    pub(crate) poll: u32,
}

/// The figures of one round of one server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// Requests a second, all connections together.
    pub(crate) rate: f64,
    /// Server CPU per request, microseconds.
    pub(crate) server_us: f64,
    /// Client CPU per request, microseconds.
    pub(crate) client_us: f64,
    /// Latency, microseconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) idle: Option<Idle>,
}

/// What idle connections cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Idle {
    /// Memory of the server for each, bytes.
    pub(crate) bytes: f64,
    /// Threads of the server for each.
    pub(crate) threads: f64,
    /// CPU of the server while all are idle, share of one core.
    pub(crate) cpu: f64,
    /// Rate of the busy connection beside them, by its rate alone just before.
    pub(crate) kept: f64,
}

impl Bench {
    /// `connections` times `load` at once, for the span.
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
        // A tenth before the window warms caches and lets the scheduler settle.
        let start = Instant::now() + self.span / 10;
        let window = Window { start, stop: start + self.span };
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
        Ok(sample(&tallies))
    }

    /// One busy connection alone, and then again beside `idle` ones.
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
        let kept = beside.rate / alone.rate;
        Ok(Sample { idle: Some(Idle { bytes, threads, cpu, kept }), ..beside })
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
        idle: None,
    }
}
