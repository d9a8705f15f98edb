//! A session whose peer is let in for a time: it ends with the agent, or with what lets it in.
//!
//! Sessions of other peers do not come this way, and pay nothing for it.

#[cfg(test)]
mod tests;

use std::{future, pin::pin, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{End, Life};
use crate::access::Revocation;

/// How long the requests of a client that may not stay have until it is cut off.
const GRACE: Duration = Duration::from_secs(5);

/// What lets a peer in has come to its end.
#[derive(Debug)]
pub(super) struct Over {
    /// For the session's line in the log.
    pub(super) why: Arc<str>,
    pub(super) when: When,
}

/// When the session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    Now,
    /// When the requests that were taken in are done, and what was written is durable.
    AfterRequests,
}

/// Waits for a revocation, which ends a session at once.
pub(super) async fn revoked(mut revocation: Revocation) -> Over {
    Over { why: revocation.revoked().await, when: When::Now }
}

/// Runs `session` with a life that ends when the agent's does, or with what `over` waits for.
pub(super) async fn run(
    session: impl AsyncFnOnce(watch::Receiver<Life>) -> End,
    mut life: watch::Receiver<Life>,
    over: impl Future<Output = Over>,
) -> End {
    let (own, own_life) = watch::channel(*life.borrow_and_update());
    // A life only goes on.
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
