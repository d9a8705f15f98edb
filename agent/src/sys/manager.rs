//! The service manager's socket: notifications and the descriptors that the manager keeps, sd_notify(3).
//!
//! `fd_store` and `command::supervise` call it. No `unsafe` in here.

use std::{
    env, io,
    io::IoSlice,
    os::{
        fd::{AsRawFd, BorrowedFd},
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg},
};

/// The manager's address, of which NOTIFY_SOCKET has the path, or the abstract name after an `@`. `None` if there is no
/// manager.
pub(crate) fn address() -> Option<io::Result<SocketAddr>> {
    let socket = env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty())?;
    Some(match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(&socket),
    })
}

/// How long a message waits for room in the manager's socket. A manager that runs receives within milliseconds.
const ROOM_WITHIN: Duration = Duration::from_secs(1);

/// A connection to the manager's socket. It stays usable after a change of the user.
#[derive(Debug)]
pub(crate) struct Manager(UnixDatagram);

impl Manager {
    /// Connects to the manager that NOTIFY_SOCKET names. `None` if there is none.
    pub(crate) fn from_environment() -> io::Result<Option<Self>> {
        address().map(|to| Self::connect(&to?)).transpose()
    }

    fn connect(to: &SocketAddr) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(to)?;
        socket.set_write_timeout(Some(ROOM_WITHIN))?;
        Ok(Self(socket))
    }

    /// Sends `text`, and a descriptor with it.
    ///
    /// # Errors
    /// The manager has gone, or its socket had no room for `ROOM_WITHIN`.
    pub(crate) fn send(&self, text: &str, file: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let files: Vec<_> = file.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&files)];
        let control = if files.is_empty() { &rights[..0] } else { &rights };
        let text = [IoSlice::new(text.as_bytes())];
        loop {
            let flags = MsgFlags::MSG_NOSIGNAL;
            match sendmsg::<UnixAddr>(self.0.as_raw_fd(), &text, control, flags, None) {
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Err(io::ErrorKind::TimedOut.into()),
                sent => return Ok(sent.map(drop)?),
            }
        }
    }
}

#[cfg(test)]
impl From<UnixDatagram> for Manager {
    fn from(connected: UnixDatagram) -> Self {
        Self(connected)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_manager_that_receives_nothing_holds_a_message_up_for_a_moment_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let manager = Manager::connect(&SocketAddr::from_pathname(&path).unwrap()).unwrap();
        let start = Instant::now();
        let error = (0..10_000).find_map(|_| manager.send("STATUS=", None).err()).unwrap();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(start.elapsed() >= ROOM_WITHIN, "{:?}", start.elapsed());
        drop(socket);
        assert!(manager.send("STATUS=", None).is_err());
    }
}
