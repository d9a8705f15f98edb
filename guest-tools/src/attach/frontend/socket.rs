//! A frontend to the nbd driver: one end of a socket pair. The driver has the other end.

use std::{
    collections::VecDeque,
    io::{self, IoSlice, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
};

use nbd::wire::{Command, Errno, Request, SimpleReply};
use nix::poll::PollFlags;

use super::{Asked, Frontend, FrontendError, Next, Spares};

/// The most bytes received in one call.
const RECEIVE: usize = 128 << 10;
/// The longest payload of the kernel's driver, in bytes: its `max_hw_sectors` is 65536.
const LONGEST: u64 = 32 << 20;
/// The most replies in one send.
const REPLIES: usize = 32;

/// A socket to the driver.
#[derive(Debug)]
pub(crate) struct Socket {
    socket: UnixStream,
    input: Vec<u8>,
    /// `input[start..end]` is received and not consumed.
    start: usize,
    end: usize,
    /// A write whose payload is incomplete, and how many bytes of it have arrived.
    partial: Option<(Asked, usize)>,
    replies: VecDeque<Reply>,
    /// How many bytes of the first reply, header and payload, have been sent.
    sent: usize,
    ended: bool,
    /// The last read took all that there was. Read again only after poll(2) reports the socket
    /// readable.
    drained: bool,
    spares: Spares,
}

#[derive(Debug)]
struct Reply {
    head: [u8; 16],
    payload: Vec<u8>,
}
impl Socket {
    pub(crate) fn new(socket: UnixStream) -> io::Result<Self> {
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
            spares: Spares::default(),
        })
    }

    fn begin_write(&mut self, request: Request) -> Result<(), FrontendError> {
        if request.len > LONGEST {
            return Err(FrontendError::TooLong(request.len));
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

    fn advance(&mut self, n: usize) {
        self.sent += n;
        while let Some(reply) = self.replies.front() {
            let whole = reply.head.len() + reply.payload.len();
            if self.sent < whole {
                break;
            }
            self.sent -= whole;
            if let Some(reply) = self.replies.pop_front() {
                self.spares.give_back(reply.payload);
            }
        }
    }

    fn failed(&mut self, source: io::Error) -> FrontendError {
        self.ended = true;
        FrontendError::Socket(source)
    }
}

impl Frontend for Socket {
    fn interest(&self, accepts: bool) -> PollFlags {
        let mut interest = PollFlags::empty();
        interest.set(PollFlags::POLLIN, accepts);
        interest.set(PollFlags::POLLOUT, !self.replies.is_empty());
        interest
    }

    fn wake(&mut self) -> Result<(), FrontendError> {
        self.drained = false;
        Ok(())
    }

    fn next(&mut self) -> Result<Next, FrontendError> {
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

    fn room(&mut self) -> Vec<u8> {
        self.spares.take()
    }

    fn answer(&mut self, cookie: u64, error: Errno, payload: Vec<u8>) -> Result<(), FrontendError> {
        let head = SimpleReply { error, cookie }.bytes();
        self.replies.push_back(Reply { head, payload });
        Ok(())
    }

    fn send(&mut self) -> Result<(), FrontendError> {
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

    fn end(&mut self) {
        self.ended = true;
    }

    fn has_ended(&self) -> bool {
        self.ended
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Whether the error means that the kernel has left without waiting for answers.
fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}
