//! Descriptors that a VMM has sent and that were not examined yet.
//!
//! The VMM decides how long it takes to close one: a socket may have to send its last bytes first (SO_LINGER), and a
//! file may be of a filesystem that another process provides. That must not block the thread that serves the VM.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        LazyLock,
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    thread,
};

/// Most descriptors that wait to be closed. Beyond that the thread of the VM that sent them closes them.
const WAITING: usize = 64;

/// The thread that closes them. `None`: no thread could be started, and the VM's thread closes them.
static CLOSER: LazyLock<Option<SyncSender<OwnedFd>>> = LazyLock::new(|| {
    let (sender, receiver) = sync_channel(WAITING);
    let closer = thread::Builder::new().name("vhost-user-close".into());
    closer.spawn(move || receiver.into_iter().for_each(drop)).ok().map(|_| sender)
});

/// Such a descriptor. When it is dropped, another thread closes it.
#[derive(Debug)]
pub(crate) struct Foreign(Option<OwnedFd>);

impl Foreign {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self(Some(fd))
    }

    /// The descriptor, after an examination showed that closing it does not block.
    pub(crate) fn known(mut self) -> OwnedFd {
        self.0.take().expect("only a drop takes it before")
    }
}

impl AsFd for Foreign {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_ref().expect("only a drop takes it before").as_fd()
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        if let (Some(fd), Some(closer)) = (self.0.take(), &*CLOSER)
            && let Err(TrySendError::Full(fd) | TrySendError::Disconnected(fd)) =
                closer.try_send(fd)
        {
            drop(fd);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        net::{TcpListener, TcpStream},
        time::{Duration, Instant},
    };

    use nix::sys::socket::{setsockopt, sockopt::Linger};

    use super::*;

    #[test]
    fn a_socket_that_lingers_does_not_block_the_thread_that_drops_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let _peer = listener.accept().unwrap();
        let linger = libc::linger { l_onoff: 1, l_linger: 20 };
        setsockopt(&stream, Linger, &linger).unwrap();
        stream.set_nonblocking(true).unwrap();
        while stream.write(&[0; 65536]).is_ok() {}
        let start = Instant::now();
        stream.set_nonblocking(false).unwrap();
        drop(Foreign::new(stream.into()));
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    }
}
