//! A connection to a running QEMU: commands, each with a deadline, and events.
//!
//! A client has one owner and no task of its own. The call that waits for a reply or an event reads from the
//! socket. Each future may be dropped at any point.

use std::{
    collections::{BTreeSet, VecDeque},
    io::{self, IoSlice},
    os::fd::{AsRawFd, BorrowedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use qapi::{
    Execute,
    qmp::{QmpCommand, getfd, qmp_capabilities},
};
use serde_json::value::RawValue;
use tokio::{io::Interest, net::UnixStream, time};

use super::{
    codec::{Event, Lines, Message, decode, shown},
    error::{Error, Step, Why},
};

/// Most events in the queue. When it is full, the oldest event is dropped and counted.
const EVENTS_MAX: usize = 256;
/// Most bytes of the lines of these events.
const EVENT_BYTES_MAX: usize = 2 << 20;
/// Most commands that were given up before their reply came. At this bound the connection counts as failed.
const ABANDONED_MAX: usize = 64;
/// Most bytes of one read from the socket.
const RECEIVED_MAX: usize = 64 << 10;

/// How long QEMU may take to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// From the connect to the end of the greeting.
    pub greeting: Duration,
    /// From sending a command to its reply.
    pub command: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { greeting: Duration::from_secs(5), command: Duration::from_secs(10) }
    }
}

/// An event, or the number of events that were lost.
#[derive(Debug, Clone)]
pub enum Heard {
    /// An event.
    Event(Event),
    /// The queue was full and this many events were dropped. Ask QEMU for the state that they would have reported.
    Lost(u64),
}

/// A connection whose capabilities are negotiated.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    socket: PathBuf,
    limits: Limits,
    lines: Lines,
    received: Box<[u8]>,
    events: Events,
    last_id: u64,
    /// Ids of commands whose future was dropped, or whose deadline passed, before the reply came.
    abandoned: BTreeSet<u64>,
    /// Client and QEMU are out of step; the connection is not used any more.
    failed: bool,
}

#[derive(Debug, Default)]
struct Events {
    queue: VecDeque<(Event, usize)>,
    bytes: usize,
    lost: u64,
}

impl Events {
    /// Adds an event whose line has `len` bytes. Where there is no room, the oldest events are dropped.
    fn push(&mut self, event: Event, len: usize) {
        self.bytes += len;
        self.queue.push_back((event, len));
        while self.queue.len() > EVENTS_MAX || self.bytes > EVENT_BYTES_MAX {
            let Some((_, len)) = self.queue.pop_front() else { break };
            self.bytes -= len;
            self.lost += 1;
        }
    }

    fn pop(&mut self) -> Option<Heard> {
        if self.lost > 0 {
            return Some(Heard::Lost(std::mem::take(&mut self.lost)));
        }
        let (event, len) = self.queue.pop_front()?;
        self.bytes -= len;
        Some(Heard::Event(event))
    }
}

/// What kind of message a line was.
enum Taken {
    Greeting,
    Event,
    Reply(u64, Result<Box<RawValue>, super::Refusal>),
}

impl Client {
    /// Connects to QEMU's socket of `-qmp`, reads the greeting, and negotiates no capabilities.
    ///
    /// # Errors
    /// [`Error`]: the socket cannot be connected to, does not greet as QMP, or is silent for `limits.greeting`.
    pub async fn connect(socket: &Path, limits: Limits) -> Result<Self, Error> {
        let error = |step, why| Error::new(socket, step, why);
        let deadline = time::Instant::now() + limits.greeting;
        // A connect waits while the backlog is full.
        let stream = time::timeout_at(deadline, UnixStream::connect(socket))
            .await
            .map_err(|_| error(Step::Connect, Why::Deadline(limits.greeting)))?
            .map_err(|source| error(Step::Connect, Why::Io(source)))?;
        let mut client = Self {
            stream,
            socket: socket.into(),
            limits,
            lines: Lines::default(),
            received: vec![0; RECEIVED_MAX].into(),
            events: Events::default(),
            last_id: 0,
            abandoned: BTreeSet::new(),
            failed: false,
        };
        match time::timeout_at(deadline, client.message(true)).await {
            Err(_) => return Err(error(Step::Greeting, Why::Deadline(limits.greeting))),
            Ok(Err(why)) => return Err(error(Step::Greeting, why)),
            // `message(true)` returns nothing but a greeting.
            Ok(Ok(_)) => {}
        }
        client.execute(&qmp_capabilities { enable: None }).await?;
        Ok(client)
    }

    /// The path of the socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Runs a command. After its deadline the connection can still be used if QEMU had received the whole
    /// command; a reply that comes later is discarded.
    ///
    /// # Errors
    /// [`Error`]: QEMU refused the command ([`Error::refusal`]), did not answer within `limits.command`, or sent
    /// something else than QMP.
    pub async fn execute<C: QmpCommand>(&mut self, command: &C) -> Result<C::Ok, Error> {
        self.run(command, None).await
    }

    /// Passes QEMU a copy of a descriptor. Later commands refer to it by `name`.
    ///
    /// # Errors
    /// As [`Client::execute`].
    pub async fn pass(&mut self, name: &str, fd: BorrowedFd<'_>) -> Result<(), Error> {
        self.run(&getfd { fdname: name.into() }, Some(fd)).await.map(drop)
    }

    /// Waits for the next event, without a deadline.
    ///
    /// # Errors
    /// [`Error`]: the connection ended, or QEMU sent something else than QMP.
    pub async fn event(&mut self) -> Result<Heard, Error> {
        loop {
            if let Some(heard) = self.events.pop() {
                return Ok(heard);
            }
            let error = |why| Error::new(&self.socket, Step::Events, why);
            if self.failed {
                return Err(error(Why::Failed));
            }
            match self.message(false).await {
                // The reply to a command that was given up.
                Ok(Taken::Reply(id, _)) if self.abandoned.remove(&id) => {}
                Ok(Taken::Reply(id, _)) => {
                    self.failed = true;
                    let why = Why::Stray { id: id.to_string() };
                    return Err(Error::new(&self.socket, Step::Events, why));
                }
                Ok(Taken::Event | Taken::Greeting) => {}
                Err(why) => return Err(Error::new(&self.socket, Step::Events, why)),
            }
        }
    }

    async fn run<C: QmpCommand>(
        &mut self,
        command: &C,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<C::Ok, Error> {
        let step = Step::Command(C::NAME);
        let error = |socket: &Path, why| Error::new(socket, step, why);
        if self.failed {
            return Err(error(&self.socket, Why::Failed));
        }
        let limit = self.limits.command;
        let result = match time::timeout(limit, self.exchange(command, fd)).await {
            Ok(Ok(result)) => result,
            Ok(Err(why)) => return Err(error(&self.socket, why)),
            Err(_) => return Err(error(&self.socket, Why::Deadline(limit))),
        };
        let value = result.map_err(|refusal| error(&self.socket, Why::Refused(refusal)))?;
        serde_json::from_str(value.get())
            .map_err(|form| error(&self.socket, Why::Form(form.into())))
    }

    /// Sends a command and reads until its reply comes.
    async fn exchange<C: QmpCommand>(
        &mut self,
        command: &C,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<Result<Box<RawValue>, super::Refusal>, Why> {
        self.last_id += 1;
        let id = self.last_id;
        let message = Execute::<&C, u64>::with_id(command, id);
        let mut line = serde_json::to_vec(&message).map_err(Why::Unwritable)?;
        line.push(b'\n');
        // Until everything is sent: dropping the future leaves half a line sent.
        self.failed = true;
        if let Err(error) = self.send(&line, fd).await {
            // QEMU may have said why before it closed the connection.
            return Err(self.last_words(id).await.unwrap_or(Why::Io(error)));
        }
        self.failed = self.abandoned.len() >= ABANDONED_MAX;
        self.abandoned.insert(id);
        loop {
            match self.message(false).await? {
                Taken::Reply(of, result) if of == id => {
                    self.abandoned.remove(&id);
                    return Ok(result);
                }
                // The reply to a command that was given up.
                Taken::Reply(of, _) if self.abandoned.remove(&of) => {}
                Taken::Reply(of, _) => {
                    self.failed = true;
                    return Err(Why::Stray { id: of.to_string() });
                }
                Taken::Event | Taken::Greeting => {}
            }
        }
    }

    /// Why the connection ended, if the bytes received before its end tell.
    async fn last_words(&mut self, id: u64) -> Option<Why> {
        loop {
            match self.message(false).await {
                Ok(Taken::Reply(of, _)) if of == id || !self.abandoned.remove(&of) => {
                    return Some(Why::Stray { id: of.to_string() });
                }
                Ok(_) => {}
                Err(Why::Io(_)) => return None,
                Err(why) => return Some(why),
            }
        }
    }

    /// Sends a line. The descriptor goes with its first byte.
    async fn send(&self, line: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let mut sent = 0;
        if let Some(fd) = fd {
            let fds = [fd.as_raw_fd()];
            sent = self
                .stream
                .async_io(Interest::WRITABLE, || {
                    let control = [ControlMessage::ScmRights(&fds)];
                    let flags = MsgFlags::MSG_NOSIGNAL;
                    let bytes = [IoSlice::new(line)];
                    let socket = self.stream.as_raw_fd();
                    sendmsg::<UnixAddr>(socket, &bytes, &control, flags, None).map_err(Into::into)
                })
                .await?;
        }
        while let Some(rest) = line.get(sent..).filter(|rest| !rest.is_empty()) {
            self.stream.writable().await?;
            match self.stream.try_write(rest) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads the next message, and queues it if it is an event. After an error the connection has failed. Dropping
    /// the future loses nothing.
    async fn message(&mut self, greeting: bool) -> Result<Taken, Why> {
        let taken = self.read(greeting).await;
        self.failed |= taken.is_err();
        taken
    }

    async fn read(&mut self, greeting: bool) -> Result<Taken, Why> {
        loop {
            if let Some(line) = self.lines.take()? {
                return match decode(line)? {
                    Message::Greeting(_) if greeting => Ok(Taken::Greeting),
                    Message::Event(event) if !greeting => {
                        self.events.push(event, line.len());
                        Ok(Taken::Event)
                    }
                    Message::Reply { id: None, result: Err(refusal) } => {
                        Err(Why::NotUnderstood(refusal))
                    }
                    Message::Reply { id, result } if !greeting => {
                        let text = id.map_or("missing", RawValue::get);
                        let id = text.parse();
                        let id = id.map_err(|_| Why::Stray { id: shown(text.as_bytes()) })?;
                        Ok(Taken::Reply(id, result.map(ToOwned::to_owned)))
                    }
                    _ if greeting => Err(Why::NoGreeting(shown(line))),
                    _ => Err(Why::Greeted),
                };
            }
            self.stream.readable().await.map_err(Why::Io)?;
            match self.stream.try_read(&mut self.received) {
                Ok(0) => {
                    return Err(match self.lines.pending() {
                        0 => Why::Closed,
                        pending => Why::ClosedInside(pending),
                    });
                }
                Ok(count) => self.lines.push(self.received.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(Why::Io(error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str) -> Event {
        Event { name: name.into(), data: None, timestamp: None }
    }

    #[test]
    fn a_full_queue_keeps_the_newest_events_and_counts_the_others() {
        let mut events = Events::default();
        for number in 0..EVENTS_MAX + 10 {
            events.push(event(&number.to_string()), 10);
        }
        assert!(matches!(events.pop(), Some(Heard::Lost(10))));
        assert!(matches!(events.pop(), Some(Heard::Event(event)) if event.name == "10"));
        while events.pop().is_some() {}
        assert_eq!(events.bytes, 0);
        for _ in 0..5 {
            events.push(event("big"), EVENT_BYTES_MAX / 2);
        }
        assert_eq!((events.queue.len(), events.lost), (2, 3));
    }
}
