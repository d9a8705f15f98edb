//! Connects to the remote server and enters an export, by nbd-client's set-up on tokio. No thread waits for the
//! network.

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs},
    os::fd::BorrowedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use nbd::{Framing, negotiate::Listed, uri::Place, wire::BASE_ALLOCATION};
use nbd_client::{
    ClientError, Timeout,
    connect::{Connected, Negotiation},
    dial::{self, DialError},
    wait::{Event, Wait},
};
use tokio::time::{sleep, timeout, timeout_at};

use super::certificates::Tls;
use crate::{shell, sys::socket::Socket, tenant::Tenant};

/// How long connecting may take.
const CONNECT: Timeout = Timeout::new(Duration::from_secs(10));
/// How long the negotiation may take, including the TLS handshake.
const NEGOTIATE: Duration = Duration::from_secs(30);

/// Waits on the runtime of the current thread, for a client of a tenant. `None` at the start, on a thread with no other
/// task.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reactor<'a>(pub(super) Option<&'a Arc<Tenant>>);

impl Wait for Reactor<'_> {
    async fn ready(
        &self,
        socket: BorrowedFd<'_>,
        event: Event,
        until: Option<Instant>,
    ) -> io::Result<bool> {
        let socket = Socket::new(socket.try_clone_to_owned()?, None)?;
        let ready = async {
            match event {
                Event::Readable => socket.readable().await,
                Event::Writable => socket.writable().await,
            }
        };
        match until {
            Some(until) => timeout_at(until.into(), ready)
                .await
                .map_or(Ok(false), |ready| ready.map(|()| true)),
            None => ready.await.map(|()| true),
        }
    }

    async fn sleep(&self, time: Duration) {
        sleep(time).await;
    }

    /// Looks up a name by a call that blocks. The limit for commands bounds how many clients of a tenant wait for
    /// lookups at the same time.
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let of = (host.to_owned(), port);
        let ask = move || of.to_socket_addrs().map(Vec::from_iter);
        let Some(tenant) = self.0 else { return ask() };
        let _turn = shell::turn(tenant).await;
        let asked = tenant.run(ask).await;
        asked.unwrap_or_else(|| Err(io::Error::other("a bug in agent: the name's lookup panicked")))
    }
}

/// Connects to the server at `place`.
pub(super) async fn dial(
    place: &Place,
    far: &str,
    tenant: Option<&Arc<Tenant>>,
) -> Result<nbd_client::socket::Socket, DialError> {
    dial::dial(place, far, CONNECT, &Reactor(tenant)).await
}

/// Enters an export of the server at the other end of the socket.
pub(super) async fn enter(
    (far, tls): (&str, &Tls),
    socket: nbd_client::socket::Socket,
    export: &str,
) -> Result<Connected, ClientError> {
    let tls = tls.now();
    within(far, async {
        let means = (Timeout::new(Duration::ZERO), Reactor(None));
        let begun = Negotiation::begin(far, socket, tls.security(), Framing::Extended, means);
        let (talk, ready) = begun.await?;
        talk.enter(ready, export, Some(BASE_ALLOCATION)).await
    })
    .await
}

/// Asks the server for its list of exports.
pub(super) async fn list(
    (far, tls): (&str, &Tls),
    socket: nbd_client::socket::Socket,
) -> Result<Vec<Listed>, ClientError> {
    let tls = tls.now();
    within(far, async {
        let means = (Timeout::new(Duration::ZERO), Reactor(None));
        let begun = Negotiation::begin(far, socket, tls.security(), Framing::Extended, means);
        let (talk, ready) = begun.await?;
        talk.list(ready).await
    })
    .await
}

async fn within<T>(
    far: &str,
    talk: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    let late = || ClientError::lost(far, "negotiating", Timeout::new(NEGOTIATE).expired());
    timeout(NEGOTIATE, talk).await.unwrap_or_else(|_| Err(late()))
}
