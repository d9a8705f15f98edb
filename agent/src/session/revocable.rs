//! A session whose peer is admitted for a limited time. It ends with the agent, or when the permission of its peer
//! ends.
//!
//! Sessions of other peers do not run through this module, and it costs them nothing.

#[cfg(test)]
mod tests;

use std::{future, pin::pin, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::end::{End, Life};
use crate::access::Revocation;

/// How long a client whose permission ended has for its requests in flight, before it is cut off.
const GRACE: Duration = Duration::from_secs(5);

/// The permission of a peer has ended.
#[derive(Debug)]
pub(super) struct Over {
    /// The reason, for the session's line in the log.
    pub(super) why: Arc<str>,
    pub(super) when: When,
}

/// When the session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    Now,
    /// After the requests that were received are done, and all writes are durable.
    AfterRequests,
}

/// Waits for a revocation, which ends a session at once.
pub(super) async fn revoked(mut revocation: Revocation) -> Over {
    Over { why: revocation.revoked().await, when: When::Now }
}

/// Runs `session` with a `Life` of its own. That ends when the agent's does, or when `over` completes.
pub(super) async fn run(
    session: impl AsyncFnOnce(watch::Receiver<Life>) -> End,
    mut life: watch::Receiver<Life>,
    over: impl Future<Output = Over>,
) -> End {
    let (own, own_life) = watch::channel(*life.borrow_and_update());
    // A `Life` only advances.
    let reach = |life: Life| {
        own.send_if_modified(|own| {
            let goes_on = life > *own;
            *own = life.max(*own);
            goes_on
        });
    };
    let mut why = None;
    let end = {
        let passing_on = async {
            let mut over = pin!(over);
            let mut deadline = None;
            loop {
                tokio::select! {
                    biased;
                    over = &mut over, if why.is_none() => {
                        why = Some(over.why);
                        match over.when {
                            When::Now => reach(Life::Ending),
                            When::AfterRequests => {
                                reach(Life::Draining);
                                deadline = Some(Instant::now() + GRACE);
                            }
                        }
                    }
                    () = at(deadline) => {
                        deadline = None;
                        reach(Life::Ending);
                    }
                    Ok(()) = life.changed() => reach(*life.borrow_and_update()),
                }
            }
        };
        tokio::select! {
            // First, so that nothing new is begun for a guest that is gone.
            biased;
            () = pin!(passing_on) => End::Cut,
            end = session(own_life) => end,
        }
    };
    match why {
        Some(why) if matches!(end, End::Cut | End::ShutDown) => End::Revoked(why),
        _ => end,
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => future::pending().await,
    }
}
