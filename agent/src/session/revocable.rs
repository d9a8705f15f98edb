//! A session whose peer is let in for a time: it ends with the agent, or with what lets it in.
//!
//! Sessions of other peers do not come this way, and pay nothing for it.

#[cfg(test)]
mod tests;

use std::{future, pin::pin};

use tokio::sync::watch;

use super::{End, Life};
use crate::access::Revocation;

/// Runs `session` with a life that ends when the agent's does, or at the revocation.
pub(super) async fn run(
    session: impl AsyncFnOnce(watch::Receiver<Life>) -> End,
    mut life: watch::Receiver<Life>,
    mut revocation: Revocation,
) -> End {
    let (own, own_life) = watch::channel(*life.borrow_and_update());
    let mut revoked = None;
    let end = {
        let passing_on = async {
            loop {
                tokio::select! {
                    biased;
                    why = revocation.revoked() => {
                        revoked = Some(why);
                        own.send_replace(Life::Ending);
                        break;
                    }
                    Ok(()) = life.changed() => {
                        own.send_replace(*life.borrow_and_update());
                    }
                    else => break,
                }
            }
            // The session has the last word.
            future::pending::<()>().await;
        };
        tokio::select! {
            // First, so that nothing new is begun for a guest that is gone.
            biased;
            () = pin!(passing_on) => End::Cut,
            end = session(own_life) => end,
        }
    };
    match revoked {
        Some(why) if end == End::Cut => End::Revoked(why),
        _ => end,
    }
}
