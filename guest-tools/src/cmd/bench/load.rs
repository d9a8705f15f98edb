//! One case: a number of connections, each on its own thread with a number of requests in flight, for
//! a given time. Counting begins after a warm-up and ends before the last requests are answered.

use std::{
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use nbd::{Uri, wire::CommandFlags};
use nbd_client::{ClientError, Connector, Order, Verb};
use nix::sys::resource::{UsageWho, getrusage};

use super::histogram::Histogram;

/// What the requests are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Mode {
    /// One after the other, each connection from a place of its own
    Read,
    Randread,
    Write,
    Randwrite,
    /// Two random reads for one random write
    Mixed,
    Zero,
}

impl Mode {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Randread => "randread",
            Self::Write => "write",
            Self::Randwrite => "randwrite",
            Self::Mixed => "mixed",
            Self::Zero => "zero",
        }
    }

    pub(super) const fn changes(self) -> bool {
        !matches!(self, Self::Read | Self::Randread)
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    pub(super) mode: Mode,
    /// The length of a request, in bytes.
    pub(super) size: u64,
    /// The size of the export, in bytes.
    pub(super) export: u64,
    pub(super) depth: usize,
    pub(super) connections: usize,
    pub(super) warm_up: Duration,
    pub(super) time: Duration,
}

/// The result of a case.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) requests: u64,
    pub(super) latencies: Histogram,
    /// How many connections failed, and why the first one did.
    pub(super) failed: usize,
    pub(super) why: Option<ClientError>,
    /// Processor time of all threads of this program, during the counted time and around it.
    pub(super) cpu: Duration,
}

pub(super) fn run(connector: &Connector, uri: &Uri, case: Case) -> Outcome {
    let before = cpu();
    // All connections exist before any of them begins, so that they count the same seconds.
    let ready = &Barrier::new(case.connections);
    let ends = thread::scope(|scope| {
        let threads: Vec<_> = (0..case.connections)
            .map(|n| scope.spawn(move || one((connector, uri), case, n as u64, ready)))
            .collect();
        threads.into_iter().map(thread::ScopedJoinHandle::join).collect::<Vec<_>>()
    });
    let mut all = Outcome { cpu: cpu().saturating_sub(before), ..Outcome::default() };
    for end in ends {
        match end {
            Ok(Ok(latencies)) => {
                all.requests += latencies.count();
                all.latencies.add(&latencies);
            }
            Ok(Err(why)) => {
                all.failed += 1;
                all.why.get_or_insert(why);
            }
            Err(_) => all.failed += 1,
        }
    }
    all
}

fn cpu() -> Duration {
    let of = |time: nix::sys::time::TimeVal| {
        let (seconds, micros) = (time.tv_sec(), time.tv_usec());
        Duration::from_secs(seconds.try_into().unwrap_or(0))
            + Duration::from_micros(micros.try_into().unwrap_or(0))
    };
    getrusage(UsageWho::RUSAGE_SELF)
        .map_or(Duration::ZERO, |usage| of(usage.user_time()) + of(usage.system_time()))
}

/// Chooses the offsets of a connection's requests.
struct Places {
    random: bool,
    state: u64,
    next: u64,
    blocks: u64,
    size: u64,
}

impl Places {
    fn new(case: Case, size: u64, n: u64) -> Self {
        let random = matches!(case.mode, Mode::Randread | Mode::Randwrite | Mode::Mixed);
        let blocks = (size / case.size).max(1);
        let next = blocks / case.connections.max(1) as u64 * n;
        Self {
            random,
            state: (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
            next,
            blocks,
            size: case.size,
        }
    }

    /// A pseudorandom number (xorshift).
    fn roll(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    fn place(&mut self) -> u64 {
        let block = if self.random { self.roll() } else { self.next };
        self.next += 1;
        block % self.blocks * self.size
    }
}

fn one(
    (connector, uri): (&Connector, &Uri),
    case: Case,
    n: u64,
    ready: &Barrier,
) -> Result<Histogram, ClientError> {
    let opened = connector.reopen(uri, case.export);
    ready.wait();
    let mut client = opened?;
    let mut places = Places::new(case, client.described().size, n);
    let mut spare: Vec<Vec<u8>> = Vec::new();
    let mut order = |spare: Vec<u8>| {
        let at = places.place();
        let write = |mut bytes: Vec<u8>| {
            if bytes.is_empty() {
                bytes = vec![0x5a; usize::try_from(case.size).unwrap_or(usize::MAX)];
            }
            Order::write(at, bytes, false)
        };
        match case.mode {
            Mode::Write | Mode::Randwrite => write(spare),
            Mode::Mixed if places.roll().is_multiple_of(3) => write(spare),
            Mode::Read | Mode::Randread | Mode::Mixed => Order::read(at, case.size, spare),
            Mode::Zero => Order::bare(Verb::Zero(CommandFlags::empty()), at, case.size),
        }
    };
    let begun = Instant::now();
    let (from, until) = (begun + case.warm_up, begun + case.warm_up + case.time);
    let mut sent = vec![begun; case.depth];
    for (n, sent) in (0..).zip(&mut sent) {
        *sent = Instant::now();
        client.submit(order(Vec::new()).tagged(n))?;
    }
    let mut latencies = Histogram::default();
    while client.under_way() > 0 {
        let done = client.next_good()?;
        let now = Instant::now();
        let tag = done.order.tag;
        let Some(sent) = usize::try_from(tag).ok().and_then(|n| sent.get_mut(n)) else { continue };
        if now >= from && now < until {
            latencies.put(now - *sent);
        }
        spare.push(done.order.bytes);
        if now < until {
            *sent = now;
            client.submit(order(spare.pop().unwrap_or_default()).tagged(tag))?;
        }
    }
    client.close();
    Ok(latencies)
}
