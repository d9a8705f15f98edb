//! The subscriber that `tracing` calls: turns an event into a line, charges it to a party, and queues it.

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

/// How long the agent's exit waits for a target that takes no lines.
pub(super) const AT_EXIT: Duration = Duration::from_secs(1);
/// As `AT_EXIT`, while the agent starts.
pub(super) const SETTLED: Duration = Duration::from_secs(1);
/// How long HUP waits until the file is open again. A caller that has moved the file away wants to know when the agent
/// has stopped writing to it. No connections are accepted meanwhile.
const REOPENED: Duration = Duration::from_millis(250);
/// How long a panic waits until its message is written, because another panic may end the process at once.
const HASTE: Duration = Duration::from_millis(20);

/// The log of the process.
#[derive(Debug)]
pub(super) struct Logger {
    /// The most verbose level that is logged. Other events cost one comparison.
    most: LevelFilter,
    branches: Vec<Branch>,
    ledger: Ledger,
    /// The progress of all queues when a panic last waited in vain.
    stuck_at: AtomicU64,
}

/// A target, and the most verbose level that is written to it.
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

    /// Reports the lines that were suppressed and not reported yet.
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

    /// Gives the line about a panic a moment to be written. Returns at once if an earlier panic waited in vain and the
    /// targets have taken nothing since.
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

/// The logger in the form that `tracing` takes.
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
