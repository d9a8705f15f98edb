//! Classifies an inherited descriptor: a listener, a connection and its peer, or unusable.
//!
//! `activation` and `stdio` call it.

use std::{
    fs::File,
    io,
    net::{SocketAddr, SocketAddrV4, SocketAddrV6},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::FileTypeExt,
    },
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, SockType, SockaddrLike, SockaddrStorage, getpeername, getsockname,
        getsockopt,
        sockopt::{self, AcceptConn, PeerCredentials},
    },
};
use vsock_cid::Cid;

use super::{tcp, unix};
use crate::peer::Peer;

/// The socket families that the agent listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Vsock,
    Tcp,
    Unix,
}

/// What a descriptor turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Listener(Kind),
    Connection(Peer),
    Pipe,
    /// Something that cannot be served, in words.
    Other(&'static str),
}

/// Classifies a descriptor, without changing it.
pub(super) fn find_out(fd: BorrowedFd<'_>) -> io::Result<Found> {
    let file_type = File::from(fd.try_clone_to_owned()?).metadata()?.file_type();
    if file_type.is_fifo() {
        return Ok(Found::Pipe);
    }
    if !file_type.is_socket() {
        return Ok(Found::Other(match file_type {
            it if it.is_file() => "a file",
            it if it.is_dir() => "a directory",
            it if it.is_block_device() => "a block device",
            _ if nix::unistd::isatty(fd) == Ok(true) => "a terminal",
            it if it.is_char_device() => "a character device",
            _ => "not a socket",
        }));
    }
    match getsockopt(&fd, sockopt::SockType)? {
        SockType::Stream => {}
        SockType::Datagram => return Ok(Found::Other("a datagram socket")),
        _ => return Ok(Found::Other("not a stream socket")),
    }
    let raw = std::os::fd::AsRawFd::as_raw_fd(&fd);
    let kind = match getsockname::<SockaddrStorage>(raw)?.family() {
        Some(AddressFamily::Vsock) => Kind::Vsock,
        Some(AddressFamily::Inet | AddressFamily::Inet6) => Kind::Tcp,
        Some(AddressFamily::Unix) => Kind::Unix,
        _ => return Ok(Found::Other("a socket that is neither TCP, Unix nor vsock")),
    };
    if getsockopt(&fd, AcceptConn)? {
        return Ok(Found::Listener(kind));
    }
    match peer(fd, kind) {
        Ok(peer) => Ok(Found::Connection(peer)),
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => {
            Ok(Found::Other("a socket that neither listens nor is connected (any more)"))
        }
        Err(error) => Err(error),
    }
}

/// The peer of a connected socket.
fn peer(fd: BorrowedFd<'_>, kind: Kind) -> io::Result<Peer> {
    let raw = std::os::fd::AsRawFd::as_raw_fd(&fd);
    let far: SockaddrStorage = getpeername(raw)?;
    Ok(match kind {
        Kind::Vsock => {
            let near: SockaddrStorage = getsockname(raw)?;
            let (far, near) = (far.as_vsock_addr(), near.as_vsock_addr());
            let (far, near) = far.zip(near).ok_or(Errno::EAFNOSUPPORT)?;
            let (cid, to) = (Cid::new(far.cid()), Cid::new(near.cid()));
            Peer::Vsock { cid, port: far.port(), to }
        }
        Kind::Tcp => Peer::Tcp(tcp::plain(address(&far).ok_or(Errno::EAFNOSUPPORT)?)),
        Kind::Unix => {
            let who = getsockopt(&fd, PeerCredentials)?;
            Peer::Unix { pid: who.pid(), uid: who.uid(), gid: who.gid() }
        }
    })
}

/// The address as the standard library's type.
pub(super) fn address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|it| SocketAddrV4::from(*it).into());
    v4.or_else(|| address.as_sockaddr_in6().map(|it| SocketAddrV6::from(*it).into()))
}

/// Sets the same options on a connection as on one that was accepted here.
pub(super) fn prepare(stream: &impl AsFd, peer: &Peer) {
    match peer {
        Peer::Tcp(_) => tcp::prepare(stream, peer),
        Peer::Unix { .. } => unix::prepare(stream),
        Peer::Vsock { .. } => super::vsock::prepare(stream),
        Peer::Vm { .. } | Peer::Pipe => {}
    }
}
