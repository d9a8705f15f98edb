//! Requests that wait for a medium: out to the blocking pool, back as finished ones.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use nbd::{transmit::Checked, wire::Request};
use tokio::task::JoinSet;

use super::{succession::Member, transmit::op};
use disk::{Answer, Data, Disk, DiskError, Kind, Op, Pages, Verb, perform_all};

/// A request that came back.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) request: Request,
    pub(super) checked: Checked,
    pub(super) result: Result<Answer, DiskError>,
}

/// The requests of one connection that are out.
#[derive(Debug)]
pub(super) struct Blocking {
    tasks: JoinSet<Finished>,
    /// One that `some` has caught and `reap` has not yet given on.
    caught: Option<Finished>,
    /// Most that may be out at once.
    threads: usize,
    /// Payload bytes of those that are out.
    bytes: u64,
    /// The disk holds requests (`Disk::hold`).
    pub(super) holds: bool,
    /// Each request that is out has it: who follows this connection waits for them.
    member: Option<Arc<Member>>,
}

impl Blocking {
    pub(super) fn new(threads: usize, holds: bool, member: Option<Arc<Member>>) -> Self {
        let tasks = JoinSet::new();
        Self { tasks, caught: None, threads: threads.max(1), bytes: 0, holds, member }
    }

    /// Nothing is out.
    pub(super) fn is_empty(&self) -> bool {
        self.tasks.is_empty() && self.caught.is_none()
    }

    /// Another may go out.
    pub(super) fn has_room(&self, max_bytes: u64) -> bool {
        self.tasks.len() < self.threads && self.bytes < max_bytes
    }

    /// Performs a request on the blocking pool, once the disk holds it no longer; `pages` is a
    /// write's payload.
    pub(super) fn launch(
        &mut self,
        disk: Arc<dyn Disk>,
        request: Request,
        checked: Checked,
        (verb, range): (Verb, (u64, u64)),
        pages: Option<Pages>,
    ) {
        self.bytes += payload(checked);
        let member = self.member.clone();
        let finish = move |disk: &dyn Disk| {
            // Beyond the session, if that ends before.
            let _member = member;
            let mut pages = pages.unwrap_or_default();
            let mut op = op(checked, Data::Pages(&mut pages));
            Finished { request, checked, result: perform(disk, &mut op) }
        };
        if self.holds {
            self.tasks.spawn(async move {
                disk.hold(verb, range).await;
                let done = tokio::task::spawn_blocking(move || finish(&*disk)).await;
                done.expect("panics are caught inside, and nothing aborts it")
            });
        } else {
            self.tasks.spawn_blocking(move || finish(&*disk));
        }
    }

    /// Gives every request that has come back to `each`.
    pub(super) fn reap(&mut self, mut each: impl FnMut(Finished)) {
        let Self { tasks, caught, bytes, .. } = self;
        let joined = std::iter::from_fn(|| tasks.try_join_next()).filter_map(Result::ok);
        for finished in caught.take().into_iter().chain(joined) {
            *bytes -= payload(finished.checked);
            each(finished);
        }
    }

    /// Waits until `reap` has something to give; for ever if nothing is out.
    pub(super) async fn some(&mut self) {
        if self.caught.is_some() {
            return;
        }
        match self.tasks.join_next().await {
            // A task cannot fail: panics are caught inside, and nothing aborts it.
            Some(finished) => self.caught = finished.ok(),
            None => std::future::pending().await,
        }
    }

    /// Makes durable what the disk was given; an error is only logged, since nobody is left to be
    /// told.
    pub(super) async fn flush(&mut self, disk: Arc<dyn Disk>) {
        let flushed = tokio::task::spawn_blocking(move || perform(&*disk, &mut Op::Flush)).await;
        if let Ok(Err(error)) = flushed {
            tracing::error!(%error, source = ?error.source, "the last flush failed");
        }
    }
}

/// A panic in a disk is our bug and fails the one request.
fn perform(disk: &dyn Disk, op: &mut Op<'_>) -> Result<Answer, DiskError> {
    let (verb, range) = (op.verb(), op.range());
    let mut answer = Answer::default();
    let done = catch_unwind(AssertUnwindSafe(|| perform_all(disk, op, &mut answer)));
    done.unwrap_or_else(|_| {
        tracing::error!(?verb, ?range, "our bug: a disk panicked");
        Err(DiskError::new(Kind::Io, verb, range))
    })
    .map(|()| answer)
}

fn payload(checked: Checked) -> u64 {
    match checked {
        Checked::Read { len, .. } | Checked::Write { len, .. } => len.into(),
        _ => 0,
    }
}
