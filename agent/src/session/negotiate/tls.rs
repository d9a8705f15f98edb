//! NBD_OPT_STARTTLS: whether TLS is offered, and the handshake.

use nbd::negotiate::Tls;
use tokio::{sync::watch, time::timeout};

use super::{
    super::{
        end::{End, Life},
        rules::Rules,
    },
    incoming::FAREWELL,
};
use crate::{tls::Policy, transport::Transport};

/// What the negotiation says of TLS.
pub(super) fn offer(policy: &Policy) -> Tls {
    match policy {
        Policy::Off => Tls::Off,
        Policy::On(_) => Tls::On,
        Policy::Require(_) => Tls::Require,
    }
}

/// Runs the TLS handshake. If the agent shuts down meanwhile, it cannot tell the client so before the handshake is
/// complete.
pub(super) async fn secure(
    stream: Transport,
    rules: &Rules,
    life: &watch::Receiver<Life>,
) -> Result<Transport, End> {
    let (Transport::Plain(socket), Some(acceptor)) = (stream, rules.tls.acceptor()) else {
        tracing::error!("our bug: TLS was started twice, or without certificates");
        return Err(End::Cut);
    };
    let mut life = life.clone();
    let leaving = async {
        // An error: the agent has ended.
        let draining = life.wait_for(|life| *life != Life::Serving).await;
        if draining.is_ok_and(|life| *life == Life::Draining) {
            let ending = life.wait_for(|life| *life == Life::Ending);
            return match timeout(FAREWELL, ending).await {
                Ok(_) => End::Cut,
                Err(_) => End::ShutDown,
            };
        }
        End::Cut
    };
    tokio::select! {
        secure = Transport::secure(socket, &acceptor) => secure.map_err(End::Tls),
        end = leaving => Err(end),
    }
}
