//! One VM, from the connection of its VMM to its end: the messages of the VMM and the packets of the guest. One thread
//! processes them, and never blocks on the VMM, the guest or a session.

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::Arc,
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
};

use crate::{
    device::Device,
    line::PATIENCE,
    memory::Quota,
    ring::Which,
    setup::{Earlier, Setup},
    vhost_user::{
        Refused,
        handler::Handler,
        transport::{Incoming, Transport, TransportError},
    },
};

/// Events of epoll.
const VMM: u64 = 0;
const WAKE: u64 = 1;
const KICK_RX: u64 = 2;
const KICK_TX: u64 = 3;
const LISTENER: u64 = 4;

/// Most messages of the VMM that are processed before the guest has its turn.
const MESSAGES: usize = 16;
/// Consecutive kicks without work after which the thread pauses, so that a VM that only kicks does not use up a core.
const IDLE_KICKS: u32 = 64;
const IDLE_PAUSE: Duration = Duration::from_millis(1);

/// What the thread of a VM waits for.
#[derive(Debug)]
pub(crate) struct Events {
    epoll: Epoll,
    kicks: [Option<OwnedFd>; 2],
    /// There is work for the queues without a kick.
    pub(crate) look: bool,
}

impl Events {
    fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Self { epoll, kicks: [None, None], look: false })
    }

    /// Waits for a queue's kick eventfd, and no longer for the queue's previous one.
    pub(crate) fn set_kick(&mut self, which: Which, kick: Option<OwnedFd>) -> io::Result<()> {
        let (slot, token) = match which {
            Which::Rx => (&mut self.kicks[0], KICK_RX),
            Which::Tx => (&mut self.kicks[1], KICK_TX),
        };
        // Closing it is not enough: the VMM has it open too, and epoll would report it until the VMM closes it.
        if let Some(old) = slot.take() {
            self.epoll.delete(&old)?;
        }
        if let Some(new) = kick {
            // Edge-triggered, so the eventfd need not be read: each kick is one event, even if the eventfd is full
            // or a semaphore (EFD_SEMAPHORE).
            let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
            self.epoll.add(&new, EpollEvent::new(flags, token))?;
            *slot = Some(new);
        }
        Ok(())
    }
}

/// Why a VM is no longer served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    /// The VMM has disconnected.
    #[error("it has gone")]
    Gone,
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("{0}")]
    System(#[from] io::Error),
}

impl From<TransportError> for End {
    fn from(error: TransportError) -> Self {
        match error {
            TransportError::Refused(refused) => Self::Refused(refused),
            TransportError::System(error) => Self::System(error),
        }
    }
}

impl From<Errno> for End {
    fn from(error: Errno) -> Self {
        Self::System(error.into())
    }
}

/// A connected VM.
pub(crate) struct Vm<'a> {
    device: Arc<Device>,
    transport: Transport,
    handler: Handler,
    events: Events,
    /// The listener, to notice another VMM meanwhile.
    listener: Option<BorrowedFd<'a>>,
    /// More messages of the VMM may wait.
    messages: bool,
    /// More packets wait than were taken last.
    more: bool,
    /// A connection waits for room.
    waiting: bool,
    idle_kicks: u32,
}

impl<'a> Vm<'a> {
    pub(crate) fn new(
        socket: UnixStream,
        device: Arc<Device>,
        quota: Arc<Quota>,
        listener: Option<BorrowedFd<'a>>,
        setup: Setup,
    ) -> io::Result<Self> {
        let transport = Transport::new(socket)?;
        let events = Events::new()?;
        let add = |fd: BorrowedFd<'_>, token, flags| {
            events.epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN | flags, token))
        };
        add(transport.as_fd(), VMM, EpollFlags::EPOLLET)?;
        add(device.wakes(), WAKE, EpollFlags::EPOLLET)?;
        if let Some(listener) = listener {
            add(listener, LISTENER, EpollFlags::EPOLLONESHOT)?;
        }
        let handler = Handler::new(Arc::clone(&device), quota, setup);
        Ok(Self {
            device,
            transport,
            handler,
            events,
            listener,
            messages: false,
            more: false,
            waiting: false,
            idle_kicks: 0,
        })
    }

    /// Begins, with what an earlier process has left. Returns the number of its connections, which have ended.
    pub(crate) fn resume(&mut self, earlier: Earlier) -> Result<usize, End> {
        for (header, body, files) in earlier.messages {
            self.handler.handle(header, &body, files, &mut self.events)?;
        }
        let ended = self.device.resume();
        // A message that was executed and is still in the socket is executed again, and answered then. The VMM sends
        // no other message before it has its reply.
        let owed = Some(earlier.reply).filter(|reply| !reply.is_empty());
        if let Some(reply) = owed
            && !self.transport.has_input()?
        {
            self.transport.send(&reply)?;
        }
        self.handler.setup.commit(None);
        (self.messages, self.events.look) = (true, true);
        Ok(ended)
    }

    /// Serves the VM to its end.
    ///
    /// # Errors
    /// Why it ended.
    pub(crate) fn run(&mut self) -> Result<(), End> {
        loop {
            let timeout = if self.waiting {
                // A connection that was called and has not sent within this time is passed over.
                EpollTimeout::try_from(PATIENCE).unwrap_or(EpollTimeout::NONE)
            } else {
                EpollTimeout::NONE
            };
            self.turn(timeout)?;
        }
    }

    /// Waits for events, at most this long, and processes them. Returns their number.
    pub(crate) fn turn(&mut self, most: EpollTimeout) -> Result<usize, End> {
        let mut happened = [EpollEvent::empty(); 8];
        let busy = self.more || self.messages || self.events.look;
        let timeout = if busy { EpollTimeout::ZERO } else { most };
        let count = match self.events.epoll.wait(&mut happened, timeout) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        let (mut room, mut look, mut kicked) = (self.waiting, self.more, false);
        let mut messages = std::mem::take(&mut self.messages);
        for event in &happened[..count] {
            match event.data() {
                VMM => messages = true,
                KICK_RX => (room, kicked) = (true, true),
                KICK_TX => (look, kicked) = (true, true),
                WAKE => (room, look) = (true, true),
                LISTENER => self.device.log().warn(format_args!(
                    "another VMM waits here, and has to until this VM has gone: one path is one VM"
                )),
                _ => {}
            }
        }
        if messages {
            self.hear()?;
        }
        if std::mem::take(&mut self.events.look) {
            (room, look) = (true, true);
        }
        let mut packets = 0;
        if look {
            let taken = self.device.look(kicked);
            (packets, self.more) = (taken.packets, taken.more);
        }
        if room {
            self.waiting = self.device.make_room(kicked);
        }
        self.rest(kicked && packets == 0 && !self.waiting);
        Ok(count)
    }

    /// Whether the next turn is to run without waiting for an event.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn has_more(&self) -> bool {
        self.more || self.messages
    }

    /// Counts kicks without work, and pauses after too many.
    fn rest(&mut self, idle_kick: bool) {
        self.idle_kicks = if idle_kick { self.idle_kicks + 1 } else { 0 };
        if self.idle_kicks >= IDLE_KICKS {
            thread::sleep(IDLE_PAUSE);
        }
    }

    /// Processes the VMM's messages.
    ///
    /// A message is executed, then recorded, then removed from the socket, then answered. Where the process ends between
    /// two of these, the next one executes the message again, which has no other effect, or sends the reply again.
    fn hear(&mut self) -> Result<(), End> {
        let stuck = self.transport.is_stuck();
        self.transport.send(&[])?;
        self.messages = true;
        for _ in 0..MESSAGES {
            if self.transport.is_stuck() {
                self.messages = false;
                break;
            }
            match self.transport.receive()? {
                Incoming::Message(header, body, files) => {
                    let events = &mut self.events;
                    let reply = self.handler.handle(header, &body, files, events)?;
                    self.handler.setup.commit(reply.as_deref());
                    self.transport.consume()?;
                    if let Some(reply) = reply {
                        self.transport.send(&reply)?;
                        self.handler.setup.commit(None);
                    }
                }
                Incoming::Nothing => {
                    self.messages = false;
                    break;
                }
                Incoming::End => return Err(End::Gone),
            }
        }
        if stuck != self.transport.is_stuck() {
            let flags = if stuck { EpollFlags::EPOLLIN } else { EpollFlags::EPOLLOUT };
            let mut event = EpollEvent::new(flags | EpollFlags::EPOLLET, VMM);
            self.events.epoll.modify(self.transport.as_fd(), &mut event)?;
        }
        Ok(())
    }
}

impl Drop for Vm<'_> {
    fn drop(&mut self) {
        self.handler.setup.end();
        self.device.end();
        if let Some(listener) = self.listener {
            self.events.epoll.delete(listener).ok();
        }
    }
}

#[cfg(test)]
mod survival;
#[cfg(test)]
mod tests;
