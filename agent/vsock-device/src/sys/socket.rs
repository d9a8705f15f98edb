//! Receives bytes and descriptors from another process over a Unix socket.

use std::{
    io, mem,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

use crate::foreign::Foreign;

/// Most descriptors that the kernel allows in a message (SCM_MAX_FD).
const MOST_FILES: usize = 253;

/// Bytes of a descriptor's number.
const NUMBER: usize = size_of::<RawFd>();

/// What one call received.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) bytes: usize,
    /// The descriptors. They have O_CLOEXEC from the moment they are received.
    pub(crate) files: Vec<Foreign>,
    /// The sender sent more descriptors than this process may have.
    pub(crate) cut: bool,
}

/// Room for the descriptors of one message, in words, since the kernel's headers in it are aligned.
const ROOM: usize = (size_of::<libc::cmsghdr>() + MOST_FILES * NUMBER).div_ceil(8) + 1;

/// Sets whether `peek` begins at the first byte that was not consumed (SO_PEEK_OFF of socket(7)).
pub(crate) fn peek_from_start(socket: BorrowedFd<'_>) -> io::Result<()> {
    let start: libc::c_int = 0;
    let len = libc::socklen_t::try_from(size_of_val(&start)).map_err(io::Error::other)?;
    // SAFETY: the option is a number, which is borrowed for the call.
    let result = unsafe {
        let value = (&raw const start).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEEK_OFF, value, len)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether `receive` takes what it receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Take {
    /// The bytes and the descriptors leave the socket.
    Off,
    /// They stay in the socket, and copies are returned. The next look begins after them. Linux adds the descriptors of
    /// the next write that has any if none of these bytes has some.
    Look,
}

/// Receives the bytes that have arrived, without blocking. No bytes: the end of the stream.
///
/// # Errors
/// `WouldBlock`, if nothing has arrived.
pub(crate) fn receive(socket: BorrowedFd<'_>, into: &mut [u8], take: Take) -> io::Result<Received> {
    let mut slice = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    let mut control = [0_u64; ROOM];
    // SAFETY: a C structure of integers and pointers: zeroes are valid.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut slice;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    let look = if take == Take::Look { libc::MSG_PEEK } else { 0 };
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT | look;
    // SAFETY: the one slice and the room for descriptors are borrowed for the call; the kernel writes no
    // more than their lengths, which the message has.
    let n = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let bytes = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
    let mut files = Vec::new();
    // SAFETY: the kernel has filled the message, and the room it points to is there.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    // SAFETY: null, or a header within the room, which the macros keep to.
    while let Some(header) = unsafe { next.as_ref() } {
        if header.cmsg_level == libc::SOL_SOCKET && header.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: computes an address within the room.
            let data = unsafe { libc::CMSG_DATA(header) };
            let begin = data.addr() - ptr::from_ref(header).addr();
            #[allow(clippy::useless_conversion, reason = "another type with musl")]
            let len = usize::try_from(header.cmsg_len).unwrap_or(0).saturating_sub(begin);
            for i in 0..len / NUMBER {
                // SAFETY: the kernel wrote so many numbers there.
                let number = unsafe { data.add(i * NUMBER).cast::<[u8; NUMBER]>().read() };
                // SAFETY: each is a new descriptor of this process, and nothing else owns it.
                let file = unsafe { OwnedFd::from_raw_fd(RawFd::from_ne_bytes(number)) };
                files.push(Foreign::new(file));
            }
        }
        // SAFETY: as for the first header.
        next = unsafe { libc::CMSG_NXTHDR(&raw const message, header) };
    }
    Ok(Received { bytes, files, cut: message.msg_flags & libc::MSG_CTRUNC != 0 })
}

#[cfg(test)]
mod tests {
    use std::{
        io::IoSlice,
        os::{fd::AsFd, unix::net::UnixStream},
    };

    use nix::{
        fcntl::{FcntlArg, FdFlag, fcntl},
        sys::socket::{ControlMessage, MsgFlags, sendmsg},
    };

    use super::*;

    #[test]
    fn descriptors_come_closed_on_exec_and_all_of_them_are_taken() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let numbers = vec![null.as_raw_fd(); MOST_FILES];
        sendmsg::<()>(
            theirs.as_raw_fd(),
            &[IoSlice::new(b"12345")],
            &[ControlMessage::ScmRights(&numbers)],
            MsgFlags::empty(),
            None,
        )
        .unwrap();
        let mut bytes = [0; 3];
        peek_from_start(ours.as_fd()).unwrap();
        for expected in [(3, MOST_FILES), (2, MOST_FILES)] {
            let received = receive(ours.as_fd(), &mut bytes, Take::Look).unwrap();
            assert_eq!((received.bytes, received.files.len()), expected);
        }
        let received = receive(ours.as_fd(), &mut bytes, Take::Off).unwrap();
        assert_eq!((received.bytes, received.cut, &bytes), (3, false, b"123"));
        assert_eq!(received.files.len(), MOST_FILES);
        for file in &received.files {
            assert_eq!(fcntl(file, FcntlArg::F_GETFD), Ok(FdFlag::FD_CLOEXEC.bits()));
        }
        let received = receive(ours.as_fd(), &mut bytes, Take::Off).unwrap();
        assert_eq!((received.bytes, received.files.len()), (2, 0));
        let nothing = receive(ours.as_fd(), &mut bytes, Take::Off).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        drop(theirs);
        assert_eq!(receive(ours.as_fd(), &mut bytes, Take::Off).unwrap().bytes, 0);
    }
}
