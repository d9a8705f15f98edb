//! The timed client. It keeps `depth` requests in flight on one connection with as few system calls
//! as possible, so that the server is measured and not the client. Everything that one receive
//! brings is answered with one send.
//!
//! The kernel copies the payload of reads into one buffer. It is not touched again, except for the
//! stamp of each chunk, which is checked.

use std::{
    io::{Read, Write},
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv},
    time::ClockId,
};

use crate::{
    Failure,
    content::{BLOCK, Content, UNIT},
    session::{
        CHUNK_NONE, CHUNK_OFFSET_DATA, CMD_FLUSH, CMD_READ, CMD_WRITE, FLAG_DONE, SIMPLE_REPLY,
        STRUCTURED_REPLY, Session, Wire, request,
    },
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Read,
    /// Writes whole units, or single blocks with their expected content.
    Write,
}

/// The requests of one connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) verb: Verb,
    /// Random offsets, aligned to `block`. Otherwise sequential, from the start again after the
    /// end.
    pub(crate) random: bool,
    /// The length of a request, in bytes.
    pub(crate) block: u32,
    /// Requests in flight.
    pub(crate) depth: usize,
    /// One of this many requests is a flush; 0: none.
    pub(crate) flush_every: u64,
}

/// The time within which requests count.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    pub(crate) start: Instant,
    pub(crate) stop: Instant,
}

/// The results of one connection within the window.
#[derive(Debug)]
pub(crate) struct Tally {
    /// The latency of each request that was answered within the window, in nanoseconds.
    pub(crate) latencies: Vec<u32>,
    /// Processor time of this thread.
    pub(crate) client_cpu: Duration,
    /// Processor time of the server during the window.
    pub(crate) server_cpu: Duration,
    /// The time from the first look at the clock within the window to the first one after it.
    pub(crate) wall: Duration,
}

/// The size of the receive buffer, in bytes: as much as fits into the processor's cache together
/// with everything else.
const ROOM: usize = 256 * 1024;

/// The header of a chunk, its offset, and the stamp after it.
const WHOLE_HEAD: usize = 20 + 8 + 8;

#[derive(Debug, Clone)]
struct Slot {
    cookie: u64,
    at: u64,
    sent: Instant,
    /// How many bytes of the read have not arrived yet.
    missing: u32,
    in_flight: bool,
}

/// A connection under load.
#[derive(Debug)]
pub(crate) struct Client<'a> {
    session: Session,
    load: Load,
    content: &'a Content,
    slots: Vec<Slot>,
    /// Free slots, in the order in which they became free.
    free: Vec<usize>,
    buffer: Vec<u8>,
    filled: usize,
    /// How many payload bytes of the current chunk are still to come, and the slot that they belong
    /// to.
    payload: usize,
    owner: usize,
    ends: bool,
    cursor: u64,
    seed: u64,
    sequence: u64,
    headers: Vec<u8>,
    unit: Vec<u8>,
    poll: u32,
}

impl<'a> Client<'a> {
    /// Number `nth` of `of` connections. Sequential loads start at that fraction of the disk.
    pub(crate) fn new(
        session: Session,
        load: Load,
        content: &'a Content,
        (nth, of): (usize, usize),
        poll: u32,
    ) -> Self {
        let slot = Slot { cookie: 0, at: 0, sent: Instant::now(), missing: 0, in_flight: false };
        let units = content.size() / UNIT as u64;
        Self {
            session,
            load,
            content,
            slots: vec![slot; load.depth],
            free: (0..load.depth).collect(),
            buffer: vec![0; ROOM],
            filled: 0,
            payload: 0,
            owner: 0,
            ends: false,
            cursor: units * nth as u64 / of as u64 * UNIT as u64,
            seed: 0x9e37_79b9_7f4a_7c15 ^ (nth as u64 + 1) << 32,
            sequence: 0,
            headers: Vec::new(),
            unit: if load.verb == Verb::Write { Content::plain_unit() } else { Vec::new() },
            poll,
        }
    }

    /// Runs the load until the window has passed and every request is answered.
    pub(crate) fn run(mut self, window: Window, server: ClockId) -> Result<Tally, Failure> {
        let mut latencies = Vec::with_capacity(1 << 20);
        let mut opened: Option<(Instant, Duration, Duration)> = None;
        let mut closed = None;
        self.refill(Instant::now())?;
        while self.free.len() < self.slots.len() {
            self.receive()?;
            let now = Instant::now();
            if opened.is_none() && now >= window.start {
                opened = Some((now, own_cpu()?, Duration::from(server.now()?)));
            } else if closed.is_none() && now >= window.stop {
                closed = Some((now, own_cpu()?, Duration::from(server.now()?)));
            }
            // The answers of this receive count if the clock was read within the window.
            let counts = opened.is_some_and(|(at, ..)| now > at) && closed.is_none();
            let before = self.free.len();
            self.parse()?;
            if counts || closed.is_some_and(|(at, ..)| at == now) {
                for &slot in &self.free[before..] {
                    let latency = now.duration_since(self.slots[slot].sent).as_nanos();
                    latencies.push(u32::try_from(latency).unwrap_or(u32::MAX));
                }
            }
            if closed.is_none() {
                self.refill(now)?;
            }
        }
        self.session.close()?;
        let (Some(opened), Some(closed)) = (opened, closed) else {
            return Err("not one reply came within the time measured".into());
        };
        Ok(Tally {
            latencies,
            wall: closed.0 - opened.0,
            client_cpu: closed.1.saturating_sub(opened.1),
            server_cpu: closed.2.saturating_sub(opened.2),
        })
    }

    fn next_at(&mut self) -> u64 {
        let block = u64::from(self.load.block);
        if self.load.random {
            // xorshift64.
            self.seed ^= self.seed << 13;
            self.seed ^= self.seed >> 7;
            self.seed ^= self.seed << 17;
            return (self.seed >> 20) % (self.content.size() / block) * block;
        }
        let at = self.cursor;
        self.cursor = (at + block) % self.content.size();
        at
    }

    /// Whether the next request is a flush.
    fn is_flush(&self) -> bool {
        self.load.flush_every > 0 && self.sequence.is_multiple_of(self.load.flush_every)
    }

    /// Sends a request for every free slot, all in one send. Writes of whole units take one send
    /// each.
    fn refill(&mut self, now: Instant) -> Result<(), Failure> {
        while let Some(i) = self.free.pop() {
            let at = self.next_at();
            self.sequence += 1;
            let cookie = self.sequence << 16 | i as u64;
            let missing = if self.load.verb == Verb::Read { self.load.block } else { 0 };
            self.slots[i] = Slot { cookie, at, sent: now, missing, in_flight: true };
            match self.load.verb {
                Verb::Read => {
                    self.headers.extend(request(CMD_READ, cookie, at, self.load.block));
                }
                Verb::Write if self.is_flush() => {
                    self.headers.extend(request(CMD_FLUSH, cookie, 0, 0));
                }
                Verb::Write if self.load.block as usize == UNIT => {
                    self.content.stamp_next(at, &mut self.unit);
                    let header = request(CMD_WRITE, cookie, at, self.load.block);
                    self.session.send(&header, &self.unit)?;
                }
                Verb::Write => {
                    let block = self.content.stamp_again(at, self.load.block, &mut self.unit);
                    self.headers.extend(request(CMD_WRITE, cookie, at, self.load.block));
                    self.headers.extend_from_slice(block);
                }
            }
        }
        if !self.headers.is_empty() {
            self.session.stream.write_all(&self.headers)?;
            self.headers.clear();
        }
        Ok(())
    }

    /// Receives what has arrived, and waits if there is nothing.
    fn receive(&mut self) -> Result<(), Failure> {
        let room = &mut self.buffer[self.filled..];
        for _ in 0..self.poll {
            match recv(self.session.stream.as_raw_fd(), room, MsgFlags::MSG_DONTWAIT) {
                Err(Errno::EAGAIN) => std::hint::spin_loop(),
                Ok(n) if n > 0 => {
                    self.filled += n;
                    return Ok(());
                }
                _ => break,
            }
        }
        let n = self.session.stream.read(room)?;
        if n == 0 {
            return Err("the server closed the connection".into());
        }
        self.filled += n;
        Ok(())
    }

    /// Handles everything that was received. An incomplete header stays in the buffer.
    fn parse(&mut self) -> Result<(), Failure> {
        let mut pos = 0;
        loop {
            let taken = self.payload.min(self.filled - pos);
            pos += taken;
            self.payload -= taken;
            if self.payload > 0 {
                break;
            }
            if self.ends {
                self.ends = false;
                self.complete()?;
            }
            let Some(used) = self.head(pos)? else { break };
            pos += used;
        }
        self.buffer.copy_within(pos..self.filled, 0);
        self.filled -= pos;
        Ok(())
    }

    /// Handles the header of a reply or chunk at `pos`. `None` if it is incomplete.
    fn head(&mut self, pos: usize) -> Result<Option<usize>, Failure> {
        let bytes = &self.buffer[pos..self.filled];
        if bytes.len() < 16 {
            return Ok(None);
        }
        let magic = bytes.u32_at(0);
        if magic == SIMPLE_REPLY {
            let reads = self.load.verb == Verb::Read;
            if reads && bytes.len() < 16 + 8 {
                return Ok(None);
            }
            if bytes.u32_at(4) != 0 {
                return Err(format!("the server answers with error {}", bytes.u32_at(4)).into());
            }
            self.owner = self.slot_of(bytes.u64_at(8))?;
            self.ends = true;
            if reads {
                let slot = &self.slots[self.owner];
                check_stamp(self.content, slot.at, &bytes[16..24])?;
                self.expect_payload(self.load.block)?;
            }
            return Ok(Some(16));
        }
        if magic != STRUCTURED_REPLY {
            return Err(format!("a reply with magic {magic:#x}").into());
        }
        if bytes.len() < 20 {
            return Ok(None);
        }
        let (flags, kind, len) = (bytes.u16_at(4), bytes.u16_at(6), bytes.u32_at(16));
        if kind == CHUNK_OFFSET_DATA && len >= 16 {
            if bytes.len() < WHOLE_HEAD {
                return Ok(None);
            }
            let from = bytes.u64_at(20);
            self.owner = self.slot_of(bytes.u64_at(8))?;
            let slot = &self.slots[self.owner];
            if from < slot.at || from + u64::from(len - 8) > slot.at + u64::from(self.load.block) {
                return Err(format!("a chunk at {from} outside what was asked for").into());
            }
            check_stamp(self.content, from, &bytes[28..36])?;
            self.ends = flags & FLAG_DONE != 0;
            self.expect_payload(len - 8)?;
            return Ok(Some(28));
        }
        if kind == CHUNK_NONE && len == 0 && flags & FLAG_DONE != 0 {
            self.owner = self.slot_of(bytes.u64_at(8))?;
            self.ends = true;
            return Ok(Some(20));
        }
        Err(format!("a chunk of kind {kind:#x}, {len} bytes, where only data is expected").into())
    }

    fn expect_payload(&mut self, len: u32) -> Result<(), Failure> {
        let missing = &mut self.slots[self.owner].missing;
        *missing = missing.checked_sub(len).ok_or("more bytes than were asked for")?;
        self.payload = len as usize;
        Ok(())
    }

    fn slot_of(&self, cookie: u64) -> Result<usize, Failure> {
        let i = usize::try_from(cookie & 0xffff)?;
        match self.slots.get(i) {
            Some(slot) if slot.cookie == cookie && slot.in_flight => Ok(i),
            _ => {
                Err(format!("a reply to a request that is not in flight, cookie {cookie:#x}")
                    .into())
            }
        }
    }

    fn complete(&mut self) -> Result<(), Failure> {
        let slot = &mut self.slots[self.owner];
        if slot.missing > 0 {
            return Err(format!("a reply that lacks {} bytes", slot.missing).into());
        }
        slot.in_flight = false;
        self.free.push(self.owner);
        Ok(())
    }
}

/// Checks that `word` is the first word at `at`, if a block starts there.
fn check_stamp(content: &Content, at: u64, word: &[u8]) -> Result<(), Failure> {
    if at.is_multiple_of(BLOCK as u64) && content.first_word(at) != word {
        return Err(format!("the disk does not read at {at} as it was written").into());
    }
    Ok(())
}

fn own_cpu() -> Result<Duration, Failure> {
    Ok(Duration::from(ClockId::CLOCK_THREAD_CPUTIME_ID.now()?))
}
