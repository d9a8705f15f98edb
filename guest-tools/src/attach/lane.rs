//! The kernel's end of one socket pair: requests in, replies out, without waiting. The kernel is
//! trusted with what it says, but what makes no sense ends the lane with an error and not with a
//! guess. `relay` owns the lanes; nothing here knows the server.

use std::{
    collections::VecDeque,
    io::{self, IoSlice, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
};

use nbd::{
    Violation,
    wire::{Command, Errno, Request, SimpleReply},
};

/// Received at once, bytes.
const RECEIVE: usize = 128 << 10;
/// The longest payload of the kernel's driver: its `max_hw_sectors` are 65536.
const LONGEST: u64 = 32 << 20;
/// Replies in one send.
const REPLIES: usize = 32;
/// Bytes of payloads that are kept to be used again.
const SPARE: usize = 8 << 20;

/// A request of the kernel.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) request: Request,
    /// What a write brings.
    pub(super) bytes: Vec<u8>,
}

/// What came of a look at the socket.
#[derive(Debug)]
pub(super) enum Next {
    Asked(Asked),
    /// Nothing more for now.
    Nothing,
    /// The kernel has disconnected.
    End,
}

/// One socket.
#[derive(Debug)]
pub(super) struct Lane {
    socket: UnixStream,
    input: Vec<u8>,
    /// Received and not consumed: `input[start..end]`.
    start: usize,
    end: usize,
    /// A write whose payload is not all there, and how much of it is.
    partial: Option<(Asked, usize)>,
    replies: VecDeque<Reply>,
    /// Of the first reply, header and payload.
    sent: usize,
    ended: bool,
    /// The last read took all that there was: the next one is due when poll(2) says so.
    drained: bool,
    /// Payloads to be used again: to have a large one from the system, and clean, takes longer than to
    /// fill it. Their bytes are still in them.
    spare: Vec<Vec<u8>>,
    /// What they hold together.
    spared: usize,
}

#[derive(Debug)]
struct Reply {
    head: [u8; 16],
    payload: Vec<u8>,
}

impl Lane {
    pub(super) fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            input: vec![0; RECEIVE],
            start: 0,
            end: 0,
            partial: None,
            replies: VecDeque::new(),
            sent: 0,
            ended: false,
            drained: false,
            spare: Vec::new(),
            spared: 0,
        })
    }

    /// The kernel has disconnected, or its socket has failed.
    pub(super) const fn has_ended(&self) -> bool {
        self.ended
    }

    /// There are replies that did not fit into the socket.
    pub(super) fn holds_replies(&self) -> bool {
        !self.replies.is_empty()
    }

    /// The other end is closed: there is nobody to answer.
    pub(super) const fn end(&mut self) {
        self.ended = true;
    }

    /// There is something to be received.
    pub(super) const fn wake(&mut self) {
        self.drained = false;
    }

    /// The next whole request.
    pub(super) fn next(&mut self) -> Result<Next, LaneError> {
        loop {
            if self.ended {
                return Ok(Next::End);
            }
            if let Some((asked, have)) = &mut self.partial {
                let missing = asked.bytes.get_mut(*have..).unwrap_or_default();
                if missing.is_empty() {
                    let asked = self.partial.take().map(|(asked, _)| asked);
                    return Ok(asked.map_or(Next::Nothing, Next::Asked));
                }
                if self.drained {
                    return Ok(Next::Nothing);
                }
                match self.socket.read(missing) {
                    Ok(0) => self.ended = true,
                    Ok(n) => {
                        self.drained = n < missing.len();
                        *have += n;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.drained = true,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if is_end(&error) => self.ended = true,
                    Err(error) => return Err(self.failed(error)),
                }
                continue;
            }
            let there = self.input.get(self.start..self.end).unwrap_or_default();
            if let Some(request) = Request::peek(there, false)? {
                self.start += Request::wire_len(false);
                match request.command {
                    Command::DISC => self.ended = true,
                    Command::WRITE => self.begin_write(request)?,
                    _ => return Ok(Next::Asked(Asked { request, bytes: Vec::new() })),
                }
                continue;
            }
            self.input.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            if self.drained {
                return Ok(Next::Nothing);
            }
            let room = self.input.get_mut(self.end..).unwrap_or_default();
            match self.socket.read(room) {
                Ok(0) => self.ended = true,
                Ok(n) => {
                    self.drained = n < room.len();
                    self.end += n;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.drained = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_end(&error) => self.ended = true,
                Err(error) => return Err(self.failed(error)),
            }
        }
    }

    fn begin_write(&mut self, request: Request) -> Result<(), LaneError> {
        if request.len > LONGEST {
            return Err(LaneError::TooLong(request.len));
        }
        let len = usize::try_from(request.len).unwrap_or(usize::MAX);
        let mut bytes = self.room();
        bytes.resize(len, 0);
        let have = len.min(self.end - self.start);
        if let Some(there) = self.input.get(self.start..self.start + have)
            && let Some(place) = bytes.get_mut(..have)
        {
            place.copy_from_slice(there);
        }
        self.start += have;
        self.partial = Some((Asked { request, bytes }, have));
        Ok(())
    }

    /// A buffer that is not needed any more.
    pub(super) fn give_back(&mut self, bytes: Vec<u8>) {
        if bytes.capacity() > 0 && self.spared + bytes.capacity() <= SPARE {
            self.spared += bytes.capacity();
            self.spare.push(bytes);
        }
    }

    /// A buffer of some length or none, with any bytes in it.
    pub(super) fn room(&mut self) -> Vec<u8> {
        let bytes = self.spare.pop().unwrap_or_default();
        self.spared -= bytes.capacity();
        bytes
    }

    /// Queues an answer; `payload` is what a read that succeeded has read.
    pub(super) fn answer(&mut self, cookie: u64, error: Errno, payload: Vec<u8>) {
        let head = SimpleReply { error, cookie }.bytes();
        self.replies.push_back(Reply { head, payload });
    }

    /// Sends until nothing is left or the socket takes no more.
    pub(super) fn send(&mut self) -> Result<(), LaneError> {
        while !self.replies.is_empty() && !self.ended {
            let mut slices = Vec::with_capacity(2 * REPLIES);
            let mut skip = self.sent;
            for reply in self.replies.iter().take(REPLIES) {
                for bytes in [&reply.head[..], &reply.payload] {
                    let from = skip.min(bytes.len());
                    skip -= from;
                    slices.push(IoSlice::new(bytes.get(from..).unwrap_or_default()));
                }
            }
            match self.socket.write_vectored(&slices) {
                Ok(0) => self.ended = true,
                Ok(n) => self.advance(n),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if is_end(&error) => self.ended = true,
                Err(error) => return Err(self.failed(error)),
            }
        }
        Ok(())
    }

    fn advance(&mut self, n: usize) {
        self.sent += n;
        while let Some(reply) = self.replies.front() {
            let whole = reply.head.len() + reply.payload.len();
            if self.sent < whole {
                break;
            }
            self.sent -= whole;
            if let Some(reply) = self.replies.pop_front() {
                self.give_back(reply.payload);
            }
        }
    }

    fn failed(&mut self, source: io::Error) -> LaneError {
        self.ended = true;
        LaneError::Socket(source)
    }
}

impl AsFd for Lane {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The kernel leaves without waiting for answers.
fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

/// Why a lane cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaneError {
    #[error("the kernel's socket failed")]
    Socket(#[source] io::Error),
    #[error("the kernel sent what is no request")]
    Violation(#[from] Violation),
    #[error("the kernel asked to write {0} bytes at once, more than its driver ever does")]
    TooLong(u64),
}
