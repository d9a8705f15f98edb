//! How the connection set-up waits. Dialling, the TLS handshake and the negotiation are asynchronous
//! functions that never block: they call a `Wait` when a socket is not ready. A program with a
//! runtime implements `Wait` on its reactor. `Block` waits with poll(2) and needs no runtime.

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs},
    os::fd::BorrowedFd,
    pin::pin,
    task::{Context, Poll, Waker},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, poll},
};

use crate::timeout::poll_timeout;

/// What to wait for on a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Bytes, the end of the stream or an error can be read.
    Readable,
    /// Bytes can be written, or a connection attempt has ended.
    Writable,
}

/// Waits for sockets, time and names on behalf of a connection that is being set up.
pub trait Wait: Sync {
    /// Waits until the socket is ready for `event`, or until the deadline; `None` is no deadline. A
    /// spurious `true` is allowed.
    ///
    /// Returns `false` if the deadline has passed first.
    ///
    /// # Errors
    /// The system's, if it cannot watch the socket.
    fn ready(
        &self,
        socket: BorrowedFd<'_>,
        event: Event,
        until: Option<Instant>,
    ) -> impl Future<Output = io::Result<bool>> + Send;

    /// Waits for this long.
    fn sleep(&self, time: Duration) -> impl Future<Output = ()> + Send;

    /// Looks up the addresses of a host with getaddrinfo(3), which blocks its thread while the
    /// system's resolver waits for its name servers.
    ///
    /// # Errors
    /// The resolver's, if the name has no address.
    fn resolve(
        &self,
        host: &str,
        port: u16,
    ) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send;
}

/// Waits on the calling thread.
#[derive(Debug, Clone, Copy)]
pub struct Block;

impl Wait for Block {
    async fn ready(
        &self,
        socket: BorrowedFd<'_>,
        event: Event,
        until: Option<Instant>,
    ) -> io::Result<bool> {
        let flags = match event {
            Event::Readable => PollFlags::POLLIN,
            Event::Writable => PollFlags::POLLOUT,
        };
        loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            match poll(&mut [PollFd::new(socket, flags)], poll_timeout(left)) {
                Ok(n) => return Ok(n > 0),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    async fn sleep(&self, time: Duration) {
        thread::sleep(time);
    }

    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok((host, port).to_socket_addrs()?.collect())
    }
}

/// Runs a future that waits only through `Block`: one poll completes it.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(done) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return done;
        }
        thread::yield_now();
    }
}
