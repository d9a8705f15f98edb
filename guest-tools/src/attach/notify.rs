//! Messages to systemd (its notifications) and to the log (lines on standard error). Neither ever
//! blocks: the log itself may be on the disk that the relay serves.

use std::{
    env,
    ffi::OsStr,
    io::{self, Write},
    os::{
        fd::AsFd,
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Writes one line to standard error, if that does not block.
pub(super) fn tell(text: &str) {
    let line = format!("guest-tools: {text}\n");
    let stderr = io::stderr();
    let room = PollFd::new(stderr.as_fd(), PollFlags::POLLOUT);
    let takes = poll(&mut [room], PollTimeout::ZERO).is_ok_and(|ready| ready > 0);
    if takes {
        // If it fails, there is nowhere else to report it.
        stderr.lock().write_all(line.as_bytes()).ok();
    }
}

/// Notifies systemd ("READY=1", "STATUS=..."), if it waits for notifications.
pub(super) fn notify(words: &str) {
    let Some(place) = env::var_os("NOTIFY_SOCKET") else { return };
    // systemd may be gone or late. The text is only for people to read.
    drop(send(&place, words));
}

fn send(place: &OsStr, words: &str) -> io::Result<()> {
    let address = match place.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(place)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to_addr(words.as_bytes(), &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_hears_by_a_path_and_by_an_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let by_path = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str(), "READY=1").unwrap();
        let name = format!("guest-tools-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let by_name = UnixDatagram::bind_addr(&address).unwrap();
        send(OsStr::new(&format!("@{name}")), "STATUS=x").unwrap();
        let mut words = [0; 16];
        assert_eq!(by_path.recv(&mut words).unwrap(), 7);
        assert_eq!(by_name.recv(&mut words).unwrap(), 8);
        assert_eq!(&words[..8], b"STATUS=x");
    }
}
