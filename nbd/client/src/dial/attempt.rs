//! One attempt to connect a socket, which never blocks.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrLike, connect as nix_connect, getsockopt,
        socket, sockopt,
    },
};

use crate::{
    socket::Socket,
    timeout::Timeout,
    wait::{Event, Wait},
};

/// The interval at which a Unix socket whose queue is full is tried again, because no event reports
/// that there is room.
const PAUSE: Duration = Duration::from_millis(20);

/// Connects to one address.
pub(super) async fn connect(
    family: AddressFamily,
    address: &(impl SockaddrLike + Sync),
    timeout: Timeout,
    wait: &impl Wait,
) -> io::Result<Socket> {
    let until = timeout.deadline();
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(family, SockType::Stream, flags, None)?;
    loop {
        match nix_connect(fd.as_raw_fd(), address) {
            Ok(()) => return Socket::new(fd),
            Err(Errno::EINPROGRESS | Errno::EINTR) => break,
            // The server does not accept as fast as clients connect.
            Err(Errno::EAGAIN) => {
                if until.is_some_and(|until| Instant::now() >= until) {
                    return Err(timeout.expired());
                }
                wait.sleep(PAUSE).await;
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    if !wait.ready(fd.as_fd(), Event::Writable, until).await? {
        return Err(timeout.expired());
    }
    match getsockopt(&fd, sockopt::SocketError)? {
        0 => Socket::new(fd),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}
