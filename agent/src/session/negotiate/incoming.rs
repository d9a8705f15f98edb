//! The bytes of a negotiation, while the agent lives or begins to shut down.

use std::{
    io::{self, IoSliceMut},
    time::Duration,
};

use nbd::{Buffer, negotiate::Server};
use tokio::sync::watch;

use super::super::end::{End, Life};
use crate::transport::Transport;

/// How long a client has for its next option if the agent begins to shut down during the negotiation.
pub(super) const FAREWELL: Duration = Duration::from_millis(500);

/// Waits for bytes. When the agent shuts down, a client learns it from the answer to its next option. A client that
/// sends none within `FAREWELL` does not delay the agent.
pub(super) async fn receive(
    stream: &mut Transport,
    buffer: &mut Buffer,
    server: &mut Server,
    life: &mut watch::Receiver<Life>,
) -> Result<(), End> {
    loop {
        let patience = match look(server, life)? {
            Life::Serving => Duration::MAX,
            _ => FAREWELL,
        };
        match stream.try_recv(&mut [IoSliceMut::new(buffer.spare())]) {
            Ok(0) if buffer.is_empty() => return Err(End::Closed),
            Ok(0) => return Err(End::ClosedInside),
            Ok(n) => {
                buffer.added(n);
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(End::from_receive(&error)),
        }
        tokio::select! {
            ready = stream.readable() => ready.map_err(|error| End::from_receive(&error))?,
            Ok(()) = life.changed() => life.mark_changed(),
            () = tokio::time::sleep(patience), if patience < Duration::MAX => {
                return Err(End::ShutDown);
            }
        }
    }
}

/// Has the state machine refuse further options once the agent shuts down.
pub(super) fn look(server: &mut Server, life: &mut watch::Receiver<Life>) -> Result<Life, End> {
    let life = *life.borrow_and_update();
    match life {
        Life::Serving => {}
        Life::Draining => server.drain(),
        Life::Ending => return Err(End::Cut),
    }
    Ok(life)
}
