//! What `tracing` calls: an event becomes a line, is charged to somebody, and goes into the queues.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tracing::{
    Event, Metadata, Subscriber,
    level_filters::LevelFilter,
    span::{Attributes, Id, Record},
    subscriber::Interest,
};

use super::{
    allowance::{Ledger, Verdict, name_party},
    line::Line,
    queue::Queue,
};

/// How long the end of the agent waits for a target that takes nothing.
pub(super) const AT_EXIT: Duration = Duration::from_secs(1);
/// The same while the agent starts.
pub(super) const SETTLED: Duration = Duration::from_secs(1);
/// How long HUP waits for the file to be opened again. Whoever has moved it away wants to know that
/// nothing is written to it any more; connections are not accepted meanwhile.
const REOPENED: Duration = Duration::from_millis(250);
/// How long a panic waits until its message is written: another one may end the process at once.
const HASTE: Duration = Duration::from_millis(20);

/// The log of the process.
#[derive(Debug)]
pub(super) struct Logger {
    /// What is said at all; the rest costs the comparison of a number.
    most: LevelFilter,
    branches: Vec<Branch>,
    ledger: Ledger,
    /// The progress of all queues when a panic has waited in vain.
    stuck_at: AtomicU64,
}

/// A target, and what of all that is said goes there.
#[derive(Debug)]
pub(super) struct Branch {
    pub(super) queue: Arc<Queue>,
    pub(super) most: LevelFilter,
}

impl Logger {
    pub(super) fn new(most: LevelFilter, branches: Vec<Branch>) -> Self {
        Self { most, branches, ledger: Ledger::default(), stuck_at: AtomicU64::new(u64::MAX) }
    }

    pub(super) fn start_threads(self: &Arc<Self>) -> io::Result<()> {
        for branch in &self.branches {
            let logger = Arc::downgrade(self);
            branch.queue.start(move || {
                if let Some(logger) = logger.upgrade() {
                    logger.tell();
                }
            })?;
        }
        Ok(())
    }

    /// Says what was suppressed and not told yet.
    pub(super) fn tell(&self) {
        for line in self.ledger.tell() {
            self.write(&line);
        }
    }

    pub(super) fn flush(&self, deadline: Instant) {
        for branch in &self.branches {
            branch.queue.flush(deadline);
        }
    }

    pub(super) fn reopen(&self) {
        let deadline = Instant::now() + REOPENED;
        for branch in &self.branches {
            branch.queue.reopen(deadline);
        }
    }

    /// Gives the line about a panic a moment to be written. No panic waits for a target that has kept
    /// another one waiting and has taken nothing since.
    pub(super) fn hasten(&self) {
        let progress = || self.branches.iter().map(|branch| branch.queue.progress()).sum();
        if self.stuck_at.load(Ordering::Relaxed) == progress() {
            return;
        }
        let deadline = Instant::now() + HASTE;
        let written = self.branches.iter().all(|branch| branch.queue.flush(deadline));
        let stuck_at = if written { u64::MAX } else { progress() };
        self.stuck_at.store(stuck_at, Ordering::Relaxed);
    }

    fn write(&self, line: &Line) {
        for branch in self.branches.iter().filter(|branch| line.level <= branch.most) {
            branch.queue.push(line);
        }
    }

    fn take(&self, event: &Event<'_>) {
        match self.ledger.charge(event, Instant::now()) {
            Verdict::Written => self.write(&name_party(Line::of(event))),
            Verdict::Suppressed => {}
            Verdict::SuppressedFirst(at) => {
                if let Some(branch) = self.branches.first() {
                    branch.queue.tell_at(at);
                }
            }
        }
    }
}

/// The logger as `tracing` knows it.
pub(super) struct Shared(pub(super) Arc<Logger>);

impl Subscriber for Shared {
    fn register_callsite(&self, about: &'static Metadata<'static>) -> Interest {
        if self.enabled(about) { Interest::always() } else { Interest::never() }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.0.most)
    }

    fn enabled(&self, about: &Metadata<'_>) -> bool {
        !about.is_span() && *about.level() <= self.0.most
    }

    fn event(&self, event: &Event<'_>) {
        self.0.take(event);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
