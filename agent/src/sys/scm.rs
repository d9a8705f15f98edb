//! Datagrams of Unix sockets with the sender's process and descriptors: SCM_CREDENTIALS and SCM_RIGHTS of unix(7).
//!
//! `command::supervise` receives the notifications of its child here.

use std::{
    io,
    io::IoSliceMut,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    process,
};

use nix::{
    cmsg_space,
    errno::Errno,
    sys::socket::{
        AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
        UnixCredentials, bind, getsockname, recvmsg, setsockopt, socket, sockopt,
    },
};

/// Maximum number of descriptors in one message: `SCM_MAX_FD` of Linux.
const MOST_FILES: usize = 253;
/// `KCMP_FILE` of kcmp(2).
const KCMP_FILE: libc::c_long = 0;

/// A received datagram.
#[derive(Debug)]
pub(crate) struct Datagram<'a> {
    /// Empty if it was longer than the buffer.
    pub(crate) bytes: &'a [u8],
    /// The process that sent it, as the kernel says. 0 if that process is outside of this PID namespace.
    pub(crate) sender: i32,
    pub(crate) files: Vec<OwnedFd>,
}

/// A non-blocking datagram socket with an abstract name that the kernel chose. Returns the name as NOTIFY_SOCKET takes
/// it.
pub(crate) fn named_socket() -> io::Result<(OwnedFd, String)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
    setsockopt(&socket, sockopt::PassCred, &true)?;
    bind(socket.as_raw_fd(), &UnixAddr::new_unnamed())?;
    let address: UnixAddr = getsockname(socket.as_raw_fd())?;
    let name = address.as_abstract().and_then(|name| std::str::from_utf8(name).ok());
    let name = name.ok_or(io::ErrorKind::AddrNotAvailable)?;
    Ok((socket, format!("@{name}")))
}

/// Receives a datagram, if there is one. Every descriptor that arrives is owned, so that none can leak.
pub(crate) fn receive<'a>(
    socket: &OwnedFd,
    buffer: &'a mut [u8],
) -> io::Result<Option<Datagram<'a>>> {
    let mut control = cmsg_space!(UnixCredentials, [RawFd; MOST_FILES]);
    let mut into = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let received = loop {
        match recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut into, Some(&mut control), flags) {
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return Ok(None),
            received => break received?,
        }
    };
    let (mut sender, mut files) = (0, Vec::new());
    for message in received.cmsgs()? {
        match message {
            ControlMessageOwned::ScmCredentials(credentials) => sender = credentials.pid(),
            ControlMessageOwned::ScmRights(numbers) => {
                // SAFETY: the kernel has just opened these descriptors for this process, and nothing else knows them.
                files.extend(numbers.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
            _ => {}
        }
    }
    let whole = !received.flags.contains(MsgFlags::MSG_TRUNC);
    let len = if whole { received.bytes } else { 0 };
    Ok(Some(Datagram { bytes: &buffer[..len], sender, files }))
}

/// Whether two descriptors are one open file (kcmp(2)). False if the kernel does not say.
pub(crate) fn is_one_open_file(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    let own = libc::c_long::from(process::id().cast_signed());
    let [one, other] = [one, other].map(|fd| libc::c_long::from(fd.as_raw_fd()));
    // SAFETY: the call takes numbers and no memory.
    let differs = unsafe { libc::syscall(libc::SYS_kcmp, own, own, KCMP_FILE, one, other) };
    differs == 0
}

#[cfg(test)]
mod tests {
    use std::os::{
        fd::AsFd,
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    };

    use super::*;

    #[test]
    fn a_datagram_says_which_process_sent_it() {
        let (socket, name) = named_socket().unwrap();
        let mut buffer = [0; 8];
        assert!(receive(&socket, &mut buffer).unwrap().is_none());
        let to = SocketAddr::from_abstract_name(name.strip_prefix('@').unwrap()).unwrap();
        let sender = UnixDatagram::unbound().unwrap();
        for (sent, expected) in [("READY=1", "READY=1"), ("it is too long", "")] {
            sender.send_to_addr(sent.as_bytes(), &to).unwrap();
            let received = receive(&socket, &mut buffer).unwrap().unwrap();
            assert_eq!(received.bytes, expected.as_bytes());
            assert_eq!(received.sender.cast_unsigned(), process::id());
            assert!(received.files.is_empty());
        }
    }

    #[test]
    fn an_open_file_is_known_by_its_duplicates() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let other = std::fs::File::open("/dev/null").unwrap();
        let same = file.try_clone().unwrap();
        assert!(is_one_open_file(file.as_fd(), same.as_fd()));
        assert!(!is_one_open_file(file.as_fd(), other.as_fd()));
    }
}
