//! Turns received bytes into requests, and passes the requests to the disk.
//!
//! `nbd::transmit::Receiver` parses what has been received. A small write is executed from the receive buffer. A large
//! write is received into pages that the disk can keep. No request is taken in that the connection's memory does not
//! cover.

use std::io::{self, IoSliceMut};

use disk::{Data, DiskError, Kind, NoMemory, Op, PAGE, Pages, Turn as Attempt};
use nbd::{
    Violation,
    transmit::{Checked, Ended, IN_PLACE, Received, Refused, Replies},
    wire::{Errno, Request},
};

use super::{
    super::{end::End, operation::op, protocol},
    Transmission, reply,
    reply::Lent,
};
use crate::{tenant::Cover, transport::buffer_pool};

/// The maximum of bytes received after a large write's payload. They may belong to the next large write, and the rest
/// of that is received into its pages without a copy.
const BEHIND_PAYLOAD: usize = 4096;

/// The refusal of a request for which there is no memory.
const NO_MEMORY: Refused =
    Refused { errno: Errno::ENOMEM, text: "the server has no memory for this request" };

/// What the next request waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// More bytes from the client.
    Input,
    /// Room: replies have to be sent, or requests have to come back from other threads.
    Room,
    /// This much memory in all, in bytes, including what is held now. Less is needed once some of that is released.
    Memory(u64),
    /// The next turn: other connections come first.
    Turn,
    /// There will be no next request.
    Nothing,
}

/// The payload of a large write that is being received.
#[derive(Debug)]
pub(super) struct Incoming {
    pages: Pages,
}

impl Incoming {
    fn new(at: u64, len: usize) -> Self {
        Self { pages: Pages::room(at, len) }
    }

    /// Bytes of memory that are reserved for it.
    pub(super) fn held(&self) -> u64 {
        (self.pages.len() + 2 * PAGE) as u64
    }
}

impl Transmission {
    /// Answers or launches every complete request that has been received and for which there is room. Returns what the
    /// next one waits for.
    pub(super) fn take_in(&mut self) -> Result<Want, Violation> {
        loop {
            if self.ended.is_some() {
                return Ok(Want::Nothing);
            }
            if self.turn.is_over() {
                return Ok(Want::Turn);
            }
            if !self.has_room() {
                return Ok(Want::Room);
            }
            let want = if let Some(received) = self.waiting.take() {
                self.take(&received)
            } else {
                // `Received` is large, so it is used by reference: moving it costs as much as reading it.
                match self.receiver.next(&mut self.buffer) {
                    Ok(ref received) => self.take(received),
                    Err(violation) => return Err(violation),
                }
            };
            if let Some(want) = want {
                return Ok(want);
            }
        }
    }

    /// Handles what has been received. Returns what it waits for instead, if it has to wait.
    fn take(&mut self, received: &Received) -> Option<Want> {
        match received {
            Received::Incomplete => return Some(Want::Input),
            Received::Request { request, checked, payload } => {
                let needed = self.held() + cost(*checked);
                match self.blocking.memory.cover(needed) {
                    Cover::Covered => {
                        self.large_writes &= *payload == 0;
                        self.answer(request, *checked, Some(Payload::Received(*payload)));
                    }
                    Cover::Wait => {
                        self.waiting = Some(*received);
                        return Some(Want::Memory(needed));
                    }
                    Cover::TooMuch => self.refuse(request, NO_MEMORY),
                }
                self.buffer.consume(*payload);
            }
            Received::Write { checked, .. } => {
                let needed = self.held() + cost(*checked);
                match (self.blocking.memory.cover(needed), *checked) {
                    (Cover::Covered, Checked::Write { at, len, .. }) => {
                        self.incoming = Some(Incoming::new(at, len as usize));
                    }
                    (Cover::Wait, _) => {
                        self.waiting = Some(*received);
                        return Some(Want::Memory(needed));
                    }
                    _ => self.receiver.refuse(NO_MEMORY),
                }
            }
            Received::Payload(n) => self.take_payload(*n),
            Received::Written { request, checked } => {
                self.large_writes = true;
                if let Some(mut incoming) = self.incoming.take() {
                    let payload = Payload::Pages(&mut incoming.pages);
                    self.answer(request, *checked, Some(payload));
                }
            }
            Received::Refused { request, refused } => self.refuse(request, *refused),
            Received::End(ended) => self.end(*ended),
        }
        None
    }

    /// Takes `n` bytes of a large write from the front of the buffer.
    fn take_payload(&mut self, n: usize) {
        if let Some(incoming) = &mut self.incoming
            && let Err(NoMemory) = incoming.pages.copy_in(&self.buffer.filled()[..n])
        {
            self.no_memory();
        }
        self.buffer.consume(n);
    }

    /// There is no memory for the write that is being received: the rest of it is skipped.
    fn no_memory(&mut self) {
        self.incoming = None;
        self.receiver.refuse(NO_MEMORY);
    }

    fn refuse(&mut self, request: &Request, refused: Refused) {
        protocol::request(self.connection, request);
        self.traffic.requests += 1;
        self.turn.count(0);
        if refused == NO_MEMORY {
            self.failures.no_memory(request);
            self.traffic.failed += 1;
        }
        tracing::debug!(
            cookie = request.cookie,
            errno = %refused.errno,
            "request refused: {}",
            refused.text
        );
        self.replies().error(request, refused.errno, refused.text);
    }

    fn end(&mut self, ended: Ended) {
        let (request, end) = match ended {
            Ended::Disconnected(request) => (request, End::Disconnected),
            // This request is not answered, and its payload is not received. The requests before it are answered.
            Ended::TooLong(request) => (request, End::TooLong(request.len)),
        };
        protocol::request(self.connection, &request);
        self.traffic.requests += 1;
        self.ended = Some(end);
    }

    /// Executes a request now, or hands it to another thread.
    fn answer(&mut self, request: &Request, checked: Checked, payload: Option<Payload<'_>>) {
        protocol::request(self.connection, request);
        self.traffic.requests += 1;
        if request.len == 0 && !matches!(checked, Checked::Flush) {
            self.turn.count(0);
            return self.empty(request, checked);
        }
        self.answer.clear();
        let data = match payload {
            None => Data::Bytes(&[]),
            Some(Payload::Received(len)) => Data::Bytes(&self.buffer.filled()[..len]),
            Some(Payload::Pages(pages)) => Data::Pages(pages),
        };
        let mut op = op(checked, data);
        let attempt = if self.blocking.throttles {
            Ok(Attempt::WouldBlock)
        } else {
            match self.disk.try_execute(&mut op, &mut self.answer) {
                Ok(Attempt::WouldBlock) => {
                    let done = self.runs.try_execute(&*self.disk, &mut op, &mut self.answer);
                    done.map_or(Ok(Attempt::WouldBlock), |done| done.map(|()| Attempt::Done))
                }
                attempt => attempt,
            }
        };
        match attempt {
            Ok(Attempt::Done) => {
                let mut replies = Replies { out: &mut self.out, terms: self.receiver.terms() };
                let before = replies.out.len();
                reply::answer(&mut replies, request, checked, &mut self.answer);
                self.turn.count(self.out.len() - before + reply::moved(checked));
                self.traffic.count(checked);
            }
            Ok(Attempt::WouldBlock) => {
                self.turn.count(0);
                let asked = op.asked();
                let pages = match op {
                    Op::Write { data: Data::Bytes(bytes), at, .. } => {
                        Pages::copied(at, bytes).map(Some)
                    }
                    Op::Write { data: Data::Pages(pages), .. } => Ok(Some(std::mem::take(pages))),
                    _ => Ok(None),
                };
                if let Ok(pages) = pages {
                    self.blocking.launch(*request, checked, asked, pages);
                } else {
                    let error = DiskError::new(Kind::NoMemory, asked.verb, asked.range);
                    self.fail(request, &error);
                }
            }
            Err(error) => {
                self.turn.count(0);
                self.fail(request, &error);
            }
        }
    }

    /// A request of no bytes does nothing and succeeds.
    fn empty(&mut self, request: &Request, checked: Checked) {
        if let Checked::Read { df, .. } = checked {
            self.replies().read(request, df, std::iter::empty());
        } else {
            self.replies().done(request);
        }
    }

    fn replies(&mut self) -> Replies<'_, Lent> {
        Replies { out: &mut self.out, terms: self.receiver.terms() }
    }

    /// Receives the available bytes, into the pages of a large write or into the buffer.
    pub(super) fn receive(&mut self) -> io::Result<()> {
        self.grow_buffer();
        let mut behind = if self.large_writes { BEHIND_PAYLOAD } else { usize::MAX };
        let expected = self.receiver.payload_missing();
        let n = match &mut self.incoming {
            Some(incoming) if expected > 0 => {
                behind = BEHIND_PAYLOAD;
                let Ok(unfilled) = incoming.pages.unfilled() else {
                    self.no_memory();
                    return Ok(());
                };
                let mut runs: Vec<_> = unfilled.map(IoSliceMut::new).collect();
                let room: usize = runs.iter().map(|run| run.len()).sum();
                if room == expected {
                    let spare = self.buffer.spare();
                    let len = spare.len().min(behind);
                    runs.push(IoSliceMut::new(&mut spare[..len]));
                }
                let n = self.stream.try_recv(&mut runs)?;
                drop(runs);
                let direct = n.min(expected);
                incoming.pages.fill(direct);
                self.receiver.payload_received(direct);
                self.buffer.added(n - direct);
                n
            }
            _ => {
                let spare = self.buffer.spare();
                let len = spare.len().min(behind);
                let n = self.stream.try_recv(&mut [IoSliceMut::new(&mut spare[..len])])?;
                self.buffer.added(n);
                n
            }
        };
        if n == 0 {
            let inside = self.receiver.is_inside(&self.buffer);
            self.blocking.client_gone();
            self.ended = Some(if inside { End::ClosedInside } else { End::Closed });
        } else {
            self.busy_poll.hit(expected > 0);
        }
        Ok(())
    }

    /// Makes the receive buffer large if memory allows it, else large enough for the smallest requests.
    fn grow_buffer(&mut self) {
        let capacity = self.buffer.capacity();
        if capacity == buffer_pool::LARGE {
            return;
        }
        let needed = self.held() - capacity as u64 + buffer_pool::LARGE as u64;
        if self.blocking.memory.cover(needed) == Cover::Covered {
            buffer_pool::grow(&mut self.buffer);
        }
        if self.buffer.capacity() == 0 {
            buffer_pool::small(&mut self.buffer);
        }
    }
}

/// Bytes of memory that a request may hold in addition to its place in the receive buffer.
fn cost(checked: Checked) -> u64 {
    match checked {
        Checked::Read { len, .. } => len.into(),
        Checked::Write { len, .. } if len as usize <= IN_PLACE => len.into(),
        Checked::Write { len, .. } => u64::from(len) + 2 * PAGE as u64,
        _ => 0,
    }
}

/// Where the bytes of a write are.
enum Payload<'a> {
    /// At the front of the receive buffer; their number.
    Received(usize),
    Pages(&'a mut Pages),
}

const _: () = assert!(buffer_pool::SMALL > IN_PLACE + 32);
