//! A path on which VMs connect, one after the other.
//!
//! One thread accepts a VMM and serves its VM. It blocks neither on them nor on a disk.

use std::{
    fmt, io,
    os::{
        fd::AsFd,
        unix::net::{UnixListener, UnixStream},
    },
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::{EfdFlags, EventFd},
};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::{
    connection::Connection,
    connections::MAX_CONNECTIONS,
    device::Device,
    log::Log,
    memory::Quota,
    place::Place,
    vm::{End, Vm},
};

/// Pause after a VMM was refused or disconnected at once, so that a VMM that connects in a loop costs little.
const PAUSE: Duration = Duration::from_millis(50);
/// The time between two attempts to log the count of suppressed lines while no VM is connected.
const SETTLE: Duration = Duration::from_secs(2);

/// Serves the VMs of one path until it is dropped. A VM that is connected then is still served to its end.
pub struct Host {
    place: Place,
    accepted: Receiver<Connection>,
    end: Arc<EventFd>,
}

impl Host {
    /// Starts the thread. `listener` is bound to the path of `place`.
    ///
    /// # Errors
    /// The thread or its descriptors cannot be made.
    pub fn start(listener: UnixListener, place: Place) -> io::Result<Self> {
        // A VM has at most that many connections.
        let (sender, accepted) = channel(MAX_CONNECTIONS);
        let end = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        listener.set_nonblocking(true)?;
        let backend = Backend {
            listener,
            log: Arc::new(Log::new(Arc::clone(&place.path))),
            place: place.clone(),
            accepted: sender,
            quota: Arc::new(Quota::new()),
            end: Arc::clone(&end),
        };
        thread::Builder::new().name("vhost-user".into()).spawn(move || backend.serve())?;
        Ok(Self { place, accepted, end })
    }

    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Waits for the next connection of a guest.
    ///
    /// # Errors
    /// The thread has ended.
    pub async fn accept(&mut self) -> io::Result<Connection> {
        // The thread ends only when this is dropped.
        self.accepted.recv().await.ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.end.write(1).ok();
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("place", &self.place).finish_non_exhaustive()
    }
}

/// The state of the thread.
struct Backend {
    listener: UnixListener,
    log: Arc<Log>,
    place: Place,
    accepted: Sender<Connection>,
    quota: Arc<Quota>,
    end: Arc<EventFd>,
}

impl Backend {
    /// Serves one VM after the other.
    fn serve(&self) {
        loop {
            let socket = match self.next() {
                Ok(Some(socket)) => socket,
                Ok(None) => return,
                Err(error) => {
                    self.log.warn(format_args!("cannot take the next VMM: {error}"));
                    thread::sleep(PAUSE);
                    continue;
                }
            };
            let begun = Instant::now();
            match self.one(socket) {
                End::Gone => self.log.info(format_args!("the VM is gone: waiting for the next")),
                end => self.log.warn(format_args!("{end}; waiting for the next VM")),
            }
            thread::sleep(PAUSE.saturating_sub(begun.elapsed()));
        }
    }

    /// Waits for the next VMM. `None`: the thread is to end.
    fn next(&self) -> io::Result<Option<UnixStream>> {
        loop {
            let mut fds = [self.listener.as_fd(), self.end.as_fd()]
                .map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            let timeout = if self.log.settle() { PollTimeout::NONE } else { settle() };
            match poll(&mut fds, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
            if fds[1].any() == Some(true) {
                return Ok(None);
            }
            match self.listener.accept() {
                Ok((socket, _)) => return Ok(Some(socket)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Serves one VM to its end.
    fn one(&self, socket: UnixStream) -> End {
        let (log, accepted) = (Arc::clone(&self.log), self.accepted.clone());
        let device = Device::new(&self.place, log, accepted, &self.quota);
        let started = device.and_then(|device| {
            let listener = Some(self.listener.as_fd());
            Vm::new(socket, Arc::new(device), Arc::clone(&self.quota), listener)
        });
        match started {
            Ok(mut vm) => {
                self.log.info(format_args!("a VM is connected"));
                vm.run()
            }
            Err(error) => End::System(error),
        }
    }
}

fn settle() -> PollTimeout {
    PollTimeout::try_from(SETTLE).unwrap_or(PollTimeout::NONE)
}
