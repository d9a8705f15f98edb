//! A connection that has a thread to itself, and may block it.
//!
//! A write to the page cache costs less than handing it to another thread and back. But it may block, when the kernel
//! has much to write back or the filesystem needs room. So a connection on a shared thread must not execute it in
//! place. A connection with many such writes gets a thread of its own, and executes them in place. After a write that
//! took long, the next ones are handed over again for a while, so that the connection's other requests make progress.

use std::{
    io,
    panic::resume_unwind,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use disk::{Answer, Disk, DiskError, Op};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Sleep, sleep},
};

use super::{
    super::{
        end::{End, Life},
        operation::caught,
    },
    Transmission,
};
use crate::tenant::{OwnThread, Tenant};

/// The number of writes after which a thread of its own pays.
const WRITES: u32 = 32;
/// A connection without a request for this long returns its thread.
const IDLE: Duration = if cfg!(test) { Duration::from_millis(300) } else { Duration::from_secs(5) };
/// A write in place that takes this long has waited for something.
const SLOW: Duration = Duration::from_millis(2);
/// How long writes are handed over after a slow one.
const PAUSE: Duration = Duration::from_millis(50);

/// Where a connection runs.
#[derive(Debug)]
pub(super) enum Where {
    /// On a thread with others. `writes` counts those that could have been executed in place since it last asked for a
    /// thread of its own.
    Shared { writes: u32 },
    /// On a thread of its own.
    Alone {
        /// The time of the next check whether it is idle; `requests` is its count at the last check.
        tick: Pin<Box<Sleep>>,
        requests: u64,
        /// Nothing is executed in place until then.
        paused: Option<Instant>,
    },
}

impl Default for Where {
    fn default() -> Self {
        Self::Shared { writes: 0 }
    }
}

impl Where {
    /// Executes in place a request that is brief but may block. `None` if that is not allowed here.
    pub(super) fn try_execute(
        &mut self,
        disk: &dyn Disk,
        op: &mut Op<'_>,
        answer: &mut Answer,
    ) -> Option<Result<(), DiskError>> {
        if !disk.is_brief(op.asked()) {
            return None;
        }
        let paused = match self {
            Self::Shared { writes } => {
                *writes += 1;
                return None;
            }
            Self::Alone { paused, .. } => paused,
        };
        let started = Instant::now();
        if paused.is_some_and(|until| started < until) {
            return None;
        }
        let (verb, range) = (op.verb(), op.range());
        let done = caught(verb, range, || disk::execute_all(disk, op, answer).map(drop));
        *paused = (started.elapsed() >= SLOW).then(|| Instant::now() + PAUSE);
        Some(done)
    }

    /// Whether a thread of its own would pay.
    pub(super) const fn wants_thread(&self) -> bool {
        matches!(self, Self::Shared { writes: WRITES.. })
    }

    /// Waits for the next check whether the connection is idle; forever on a shared thread.
    pub(super) async fn tick(&mut self) {
        match self {
            Self::Shared { .. } => std::future::pending().await,
            Self::Alone { tick, .. } => tick.as_mut().await,
        }
    }

    /// Whether the connection has had no request since the last check.
    pub(super) fn is_idle(&mut self, now: u64) -> bool {
        match self {
            Self::Shared { .. } => false,
            Self::Alone { tick, requests, .. } => {
                tick.set(sleep(IDLE));
                std::mem::replace(requests, now) == now
            }
        }
    }
}

/// Why `Transmission::serve` returned.
#[derive(Debug)]
pub(super) enum Stop {
    /// The connection is over.
    End(End),
    /// The connection is to run on another thread.
    Move,
}

impl Transmission {
    /// Serves the connection to its end, on whichever thread is best.
    pub(super) async fn carry(
        mut self: Box<Self>,
        life: &mut watch::Receiver<Life>,
    ) -> (Box<Self>, End) {
        loop {
            if let Stop::End(end) = self.serve(life).await {
                return (self, end);
            }
            self.runs = Where::default();
            let tenant = Arc::clone(&self.failures.tenant);
            if let Some(thread) = self.own_thread(&tenant) {
                loop {
                    // Boxed: few connections get here, and otherwise each one would hold the memory for this future.
                    let alone = Box::pin(self.carry_alone(&tenant, &thread, life.clone()));
                    let (back, end) = alone.await;
                    self = back;
                    let moved = self.move_here();
                    if let Some(end) = end {
                        return (self, end);
                    }
                    match moved {
                        Ok(()) => break,
                        Err(error) => {
                            tracing::debug!("a connection stays on its own thread: {error}");
                        }
                    }
                }
            }
        }
    }

    /// Gets a thread for the connection and moves the stream to it. `None` if there is no thread: the connection stays
    /// where it is.
    fn own_thread(&mut self, tenant: &Arc<Tenant>) -> Option<OwnThread> {
        let moved = tenant.own_thread().and_then(|thread| {
            let Some(thread) = thread else { return Ok(None) };
            let _there = thread.handle().enter();
            self.move_here()?;
            Ok(Some(thread))
        });
        moved.unwrap_or_else(|error| {
            tracing::debug!(
                "no thread for this connection alone; it stays on its shared thread: {error}"
            );
            None
        })
    }

    /// Registers the stream with the event loop of the current thread, or of the runtime that was entered.
    fn move_here(&mut self) -> io::Result<()> {
        self.stream.wire_mut().move_here()?;
        self.watchdog = None;
        Ok(())
    }

    /// Runs on `thread` until the connection's end, or until it is idle.
    async fn carry_alone(
        mut self: Box<Self>,
        tenant: &Tenant,
        thread: &OwnThread,
        mut life: watch::Receiver<Life>,
    ) -> (Box<Self>, Option<End>) {
        let serving = async move {
            let tick = Box::pin(sleep(IDLE));
            self.runs = Where::Alone { tick, requests: self.traffic.requests, paused: None };
            let stop = self.serve(&mut life).await;
            self.runs = Where::default();
            match stop {
                Stop::End(end) => (self, Some(end)),
                Stop::Move => (self, None),
            }
        };
        let serving = Arc::clone(tenant.log()).charge(Box::pin(serving));
        let mut task = Task(thread.handle().spawn(serving));
        match (&mut task.0).await {
            Ok(stopped) => stopped,
            // It panicked: only a dropped `Task` aborts it.
            Err(error) => resume_unwind(error.into_panic()),
        }
    }
}

/// Aborts the task when the waiting future is dropped.
struct Task<T>(JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests;
