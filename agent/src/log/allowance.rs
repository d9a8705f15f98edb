//! Limits the number of lines, so that no peer fills a disk with log. There is a token bucket for each party that lines
//! are charged to, one for all parties together, and one for each place in the code for lines that are charged to no
//! party.
//!
//! The code that logs does not name the party. `session` runs everything that it does for a client within that client's
//! `Allowance` (`Allowance::charge`). So all lines from there are charged, including those of layers and disks. A line
//! from elsewhere, or from a thread without a charged party, is limited by its place in the code.
//!
//! No party can suppress the lines that another party, or the host's administrator, needs. A line about lost data
//! (target `disk::LOSS`) is limited by its place in the code and not charged to a party, so a party that floods the log
//! cannot suppress the line about its own loss. Each party also has a small reserve for times when others have used up
//! the common allowance.

use std::{
    cell::RefCell,
    collections::HashMap,
    future::poll_fn,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use disk::LOSS;
use tracing::{Event, Level, callsite::Identifier};

use super::line::Line;

/// Lines per second of one party in the long run, and at most in one burst.
const PARTY: Rate = Rate { per_second: 20, burst: 200 };
/// Lines of all parties together, because a peer may have many addresses.
const PARTIES: Rate = Rate { per_second: 100, burst: 2000 };
/// Lines of one party while the others have used up `PARTIES`.
const RESERVE: Rate = Rate { per_second: 1, burst: 5 };
/// Lines from the reserves of all parties together.
const RESERVES: Rate = Rate { per_second: 50, burst: 500 };
/// Lines from one place in the code that are charged to no party. At start there is one for each listener.
const PLACE: Rate = Rate { per_second: 20, burst: 1000 };

/// How long suppressed lines are counted before a line reports their number.
const PERIOD: Duration = Duration::from_secs(5);
/// Maximum number of parties that are named per period. The lines of all others are added up.
const MOST_NAMED: usize = 32;

thread_local! {
    /// The party that this thread's lines are charged to now.
    static CHARGED: RefCell<Option<Arc<Allowance>>> = const { RefCell::new(None) };
}

/// The share of the log that one party may use.
#[derive(Debug)]
pub(crate) struct Allowance {
    name: String,
    buckets: Mutex<Buckets>,
}

#[derive(Debug)]
struct Buckets {
    own: Bucket,
    reserve: Bucket,
}

impl Allowance {
    /// An allowance for the party of that name.
    pub(crate) fn new(name: impl Into<String>) -> Self {
        let buckets = Buckets { own: Bucket::full(PARTY), reserve: Bucket::full(RESERVE) };
        Self { name: name.into(), buckets: Mutex::new(buckets) }
    }

    /// Calls `does` and charges its lines to this party.
    pub(crate) fn scope<T>(self: &Arc<Self>, does: impl FnOnce() -> T) -> T {
        let mut here = Some(Arc::clone(self));
        let _charged = Charged::enter(&mut here);
        does()
    }

    /// Runs `future` and charges its lines to this party, on any thread that polls it.
    pub(crate) async fn charge<T>(self: Arc<Self>, future: impl Future<Output = T>) -> T {
        let mut here = Some(self);
        let mut future = pin!(future);
        poll_fn(|context| {
            let _charged = Charged::enter(&mut here);
            future.as_mut().poll(context)
        })
        .await
    }
}

/// Adds the party that this thread's lines are charged to, if the line does not name a peer.
pub(super) fn name_party(line: Line) -> Line {
    with_party(|party| match party {
        Some(party) if line.level <= Level::INFO && !line.has("peer") => {
            line.with("tenant", &party.name)
        }
        _ => line,
    })
}

/// Calls `does` with the party that this thread's lines are charged to now.
fn with_party<T>(does: impl FnOnce(Option<&Arc<Allowance>>) -> T) -> T {
    let mut does = Some(does);
    let called = CHARGED.try_with(|party| {
        let does = does.take()?;
        Some(does(party.borrow().as_ref()))
    });
    match (called, does) {
        (Ok(Some(done)), _) => done,
        // The thread is ending.
        (_, Some(does)) => does(None),
        _ => unreachable!("it was called, or is still there"),
    }
}

/// Charges lines to a party until it is dropped. The `Arc` is moved in and out and not cloned, because this happens at
/// every poll of a session.
struct Charged<'a> {
    slot: &'a mut Option<Arc<Allowance>>,
    before: Option<Arc<Allowance>>,
}

impl<'a> Charged<'a> {
    fn enter(slot: &'a mut Option<Arc<Allowance>>) -> Self {
        let before = CHARGED.replace(slot.take());
        Self { slot, before }
    }
}

impl Drop for Charged<'_> {
    fn drop(&mut self) {
        *self.slot = CHARGED.replace(self.before.take());
    }
}

#[derive(Debug, Clone, Copy)]
struct Rate {
    per_second: u32,
    burst: u32,
}

#[derive(Debug)]
struct Bucket {
    rate: Rate,
    tokens: f64,
    filled: Option<Instant>,
}

impl Bucket {
    fn full(rate: Rate) -> Self {
        Self { rate, tokens: rate.burst.into(), filled: None }
    }

    fn has_one(&mut self, now: Instant) -> bool {
        let passed = self.filled.map_or(0.0, |at| now.saturating_duration_since(at).as_secs_f64());
        let filled = self.tokens + passed * f64::from(self.rate.per_second);
        self.tokens = filled.min(self.rate.burst.into());
        self.filled = Some(now);
        self.tokens >= 1.0
    }

    fn take(&mut self) {
        self.tokens -= 1.0;
    }
}

/// Accounts of the lines that were written and suppressed.
#[derive(Debug)]
pub(super) struct Ledger(Mutex<Accounts>);

#[derive(Debug)]
struct Accounts {
    parties: Bucket,
    reserves: Bucket,
    places: HashMap<Identifier, Bucket>,
    suppressed: Suppressed,
}

#[derive(Debug, Default)]
struct Suppressed {
    parties: HashMap<String, u64>,
    places: HashMap<Identifier, Example>,
    /// Lines of the parties beyond `MOST_NAMED`.
    others: u64,
}

/// Suppressed lines from one place.
#[derive(Debug)]
struct Example {
    lines: u64,
    /// The message of the first one.
    message: String,
}

/// Whether a line is written.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Written,
    Suppressed,
    /// Suppressed, and the first such line in a while. `Ledger::tell` must be called at this time.
    SuppressedFirst(Instant),
}

impl Default for Ledger {
    fn default() -> Self {
        Self(Mutex::new(Accounts {
            parties: Bucket::full(PARTIES),
            reserves: Bucket::full(RESERVES),
            places: HashMap::new(),
            suppressed: Suppressed::default(),
        }))
    }
}

impl Ledger {
    /// Charges a line to its party or place, and decides whether it is written.
    pub(super) fn charge(&self, event: &Event<'_>, now: Instant) -> Verdict {
        if *event.metadata().level() > Level::INFO {
            // Only -v logs these lines, and it logs all of them.
            return Verdict::Written;
        }
        with_party(|party| {
            let by_place = party.is_none() || event.metadata().target() == LOSS;
            if by_place && self.place_has_one(event, now) {
                return Verdict::Written;
            }
            match party {
                Some(party) => self.charge_party(party, now),
                None => self.suppress_of_place(event, now),
            }
        })
    }

    fn charge_party(&self, party: &Allowance, now: Instant) -> Verdict {
        let mut own = lock(&party.buckets);
        let mut accounts = lock(&self.0);
        let accounts = &mut *accounts;
        if own.own.has_one(now) {
            if accounts.parties.has_one(now) {
                own.own.take();
                accounts.parties.take();
                return Verdict::Written;
            }
            if own.reserve.has_one(now) && accounts.reserves.has_one(now) {
                own.own.take();
                own.reserve.take();
                accounts.reserves.take();
                return Verdict::Written;
            }
        }
        let suppressed = &mut accounts.suppressed;
        let first = suppressed.is_empty();
        if let Some(count) = suppressed.parties.get_mut(&party.name) {
            *count += 1;
        } else if suppressed.parties.len() < MOST_NAMED {
            suppressed.parties.insert(party.name.clone(), 1);
        } else {
            suppressed.others += 1;
        }
        Verdict::suppressed(first, now)
    }

    /// Takes a line from the bucket of the event's place.
    fn place_has_one(&self, event: &Event<'_>, now: Instant) -> bool {
        let place = event.metadata().callsite();
        let mut accounts = lock(&self.0);
        let bucket = accounts.places.entry(place).or_insert_with(|| Bucket::full(PLACE));
        let has_one = bucket.has_one(now);
        if has_one {
            bucket.take();
        }
        has_one
    }

    fn suppress_of_place(&self, event: &Event<'_>, now: Instant) -> Verdict {
        let mut accounts = lock(&self.0);
        let suppressed = &mut accounts.suppressed;
        let first = suppressed.is_empty();
        let example = suppressed.places.entry(event.metadata().callsite());
        let new = || Example { lines: 0, message: Line::of(event).message().to_owned() };
        example.or_insert_with(new).lines += 1;
        Verdict::suppressed(first, now)
    }

    /// Lines that report how many were suppressed since the previous call.
    pub(super) fn tell(&self) -> Vec<Line> {
        let suppressed = std::mem::take(&mut lock(&self.0).suppressed);
        let line = |message, lines| Line::new(Level::WARN, message, &[("lines", lines)]);
        let parties = suppressed.parties.into_iter().map(|(name, lines)| {
            line("lines of the log were left out: more than a client may cause", lines)
                .with("tenant", &name)
        });
        let others = Some(suppressed.others).filter(|lines| *lines > 0).map(|lines| {
            line(
                "lines of the log were left out: of more clients, beside those that are named",
                lines,
            )
        });
        let places = suppressed.places.into_values().map(|Example { lines, message }| {
            line("lines of the log were left out: too many of one kind", lines)
                .with("first", &message)
        });
        parties.chain(others).chain(places).collect()
    }
}

impl Suppressed {
    fn is_empty(&self) -> bool {
        self.parties.is_empty() && self.places.is_empty() && self.others == 0
    }
}

impl Verdict {
    fn suppressed(first: bool, now: Instant) -> Self {
        if first { Self::SuppressedFirst(now + PERIOD) } else { Self::Suppressed }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
