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
    keeper::{Keeper, Left, Names, Takeover},
    log::Log,
    memory::Quota,
    place::Place,
    record::Record,
    setup::{Earlier, Setup},
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
    /// Starts the thread. `listener` is bound to the path of `place`. With a `keeper` a VM survives the end of this
    /// process. `left` is what an earlier process has left of a VM; empty if nothing.
    ///
    /// # Errors
    /// The thread or its descriptors cannot be made.
    pub fn start(
        listener: UnixListener,
        place: Place,
        keeper: Option<Arc<dyn Keeper>>,
        left: Left,
    ) -> io::Result<Self> {
        // A VM has at most that many connections.
        let (sender, accepted) = channel(MAX_CONNECTIONS);
        let end = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        listener.set_nonblocking(true)?;
        let log = Arc::new(Log::new(Arc::clone(&place.path)));
        let backend = Backend {
            listener,
            names: keeper.map(|keeper| Names::new(keeper, Arc::clone(&log))),
            log,
            place: place.clone(),
            accepted: sender,
            quota: Arc::new(Quota::new()),
            end: Arc::clone(&end),
        };
        thread::Builder::new().name("vhost-user".into()).spawn(move || backend.serve(left))?;
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
    /// `None`: nobody keeps descriptors.
    names: Option<Names>,
    log: Arc<Log>,
    place: Place,
    accepted: Sender<Connection>,
    quota: Arc<Quota>,
    end: Arc<EventFd>,
}

impl Backend {
    /// Serves one VM after the other, first that of an earlier process.
    fn serve(&self, left: Left) {
        if let Some(names) = &self.names
            && !left.is_empty()
        {
            let all: Vec<_> = left.iter().map(|(name, _)| name.clone()).collect();
            if let Err(end) = self.again(left, names) {
                self.ended(&end);
                for name in &all {
                    names.forget(name);
                }
            }
        }
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
            if let Err(end) = self.one(socket) {
                self.ended(&end);
            }
            thread::sleep(PAUSE.saturating_sub(begun.elapsed()));
        }
    }

    fn ended(&self, end: &End) {
        match end {
            End::Gone => self.log.info(format_args!("the VM is gone: waiting for the next")),
            end => self.log.warn(format_args!("{end}; waiting for the next VM")),
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

    /// Serves the VM of an earlier process to its end.
    fn again(&self, left: Left, names: &Names) -> Result<(), End> {
        let begun = Instant::now();
        let Takeover { vmm, record, setup, earlier } = Takeover::of(left, names)?;
        let (mut vm, ended) = self.begin(vmm, Some(record), setup, earlier)?;
        self.log.info(format_args!(
            "the VM of the agent before is taken over after {} us: {ended} connections of its guest have ended",
            begun.elapsed().as_micros()
        ));
        vm.run()
    }

    /// Serves one VM to its end.
    fn one(&self, socket: UnixStream) -> Result<(), End> {
        let kept = self.names.clone().and_then(|names| names.begin(&socket));
        let record = kept.as_ref().map(|(record, _)| Arc::clone(record));
        let (mut vm, _) = self.begin(socket, record, Setup::new(kept), Earlier::default())?;
        self.log.info(format_args!("a VM is connected"));
        vm.run()
    }

    fn begin(
        &self,
        socket: UnixStream,
        record: Option<Arc<Record>>,
        setup: Setup,
        earlier: Earlier,
    ) -> Result<(Vm<'_>, usize), End> {
        let (log, accepted) = (Arc::clone(&self.log), self.accepted.clone());
        let device = Device::new(&self.place, log, accepted, &self.quota, record)?;
        let listener = Some(self.listener.as_fd());
        let mut vm = Vm::new(socket, Arc::new(device), Arc::clone(&self.quota), listener, setup)?;
        let ended = vm.resume(earlier)?;
        Ok((vm, ended))
    }
}

fn settle() -> PollTimeout {
    PollTimeout::try_from(SETTLE).unwrap_or(PollTimeout::NONE)
}
