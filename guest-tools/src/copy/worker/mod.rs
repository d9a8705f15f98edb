//! One thread of a copy, with its own connections. It keeps as many requests in flight as allowed, and passes
//! on at once what has arrived.
//!
//! ```text
//!  job.claim() -> extents -> todo -> read ... got -> runs -> write or zero ... -> finished
//! ```
//!
//! Requests to servers stay in flight while this thread reads and writes files.

mod put;
mod wait;

use std::{
    collections::VecDeque,
    io::{self, Read},
    mem,
    time::{Duration, Instant},
};

use nbd_client::{Client, ClientError, Done, Order, Verb};

use super::{
    chunk::{Chunk, Kind, chunks},
    ends::Side,
    error::CopyError,
    job::Job,
    ordered::Ordered,
};

/// How many chunks to begin before the sockets have their turn.
const BATCH: usize = 4;
/// How many bytes to zero at once at first. Servers that write the zeroes need time, and a request
/// to stop is noticed only in between. The number is doubled while zeroing is quick.
const ZERO: u64 = 128 << 20;
const QUICK: Duration = Duration::from_millis(100);
/// How many long requests to zero may be in flight together.
const ZEROES: u64 = 8;

/// A thread of a copy and its state.
#[derive(Debug)]
pub(super) struct Worker<'a> {
    job: &'a Job,
    source: Side,
    target: Side,
    /// The names of source and target, for messages.
    names: (&'a str, &'a str),
    todo: VecDeque<Chunk>,
    /// How many bytes the chunks in `todo` have.
    todo_len: u64,
    /// The stride whose extents the server has been asked for.
    asked: Option<(u64, u64)>,
    /// There is nothing left to claim.
    exhausted: bool,
    /// For a source that is a stream: whether it is readable, the piece being filled, the bytes in
    /// it, and its offset.
    readable: bool,
    filling: Vec<u8>,
    filled: usize,
    at: u64,
    /// For a destination that is a stream.
    ordered: Ordered,
    spare: Vec<Vec<u8>>,
    /// Bytes that were requested or have arrived, and are not written yet.
    flying: u64,
    /// The longest request to zero, in bytes.
    zero_at_once: u64,
    /// The origin of this worker's time stamps.
    begun: Instant,
    /// The last piece, if it is not a whole block of the destination, while the rest of its block is
    /// read.
    tail: Option<Vec<u8>>,
    broken: (bool, bool),
}

impl<'a> Worker<'a> {
    pub(super) fn new(job: &'a Job, source: Side, target: Side, names: (&'a str, &'a str)) -> Self {
        Self {
            job,
            source,
            target,
            names,
            todo: VecDeque::new(),
            todo_len: 0,
            asked: None,
            exhausted: false,
            readable: false,
            filling: Vec::new(),
            filled: 0,
            at: 0,
            ordered: Ordered::default(),
            spare: Vec::new(),
            flying: 0,
            zero_at_once: ZERO,
            begun: Instant::now(),
            tail: None,
            broken: (false, false),
        }
    }

    /// Copies until nothing is left. The result is stored in the job.
    pub(super) fn run(mut self) {
        let mut done = self.copy();
        if done.is_ok() && self.job.was_last() && !self.job.halt.is_raised() {
            done = self.finish();
        }
        match done {
            Ok(()) => {
                self.source.close();
                self.target.close();
            }
            Err(error) => {
                self.job.fail(error);
                // Some servers fail when a client leaves with requests unanswered.
                for (side, broken) in [(self.source, self.broken.0), (self.target, self.broken.1)] {
                    if !broken {
                        side.settle();
                    }
                }
            }
        }
    }

    fn copy(&mut self) -> Result<(), CopyError> {
        loop {
            if self.job.halt.is_raised() {
                return Err(CopyError::Interrupted);
            }
            let begun = self.begin()?;
            self.push()?;
            if self.pop()? || begun {
                continue;
            }
            if self.exhausted && self.todo.is_empty() && self.busy() == 0 {
                return Ok(());
            }
            self.wait(None)?;
        }
    }

    /// How many requests take a place in the queue.
    fn busy(&self) -> usize {
        self.source.under_way() + self.target.under_way() + self.ordered.len()
    }

    /// Whether one more request would exceed the limit on requests or on bytes.
    fn is_full(&self) -> bool {
        let rules = &self.job.rules;
        self.busy() >= rules.depth || self.flying + self.ordered.bytes() >= rules.queue
    }

    /// Begins what may be begun. Returns whether there may be more to begin at once.
    fn begin(&mut self) -> Result<bool, CopyError> {
        for _ in 0..BATCH {
            if self.is_full() {
                return Ok(false);
            }
            self.look_ahead()?;
            let Some(chunk) = self.todo.pop_front() else {
                return self.begin_stream();
            };
            self.begin_chunk(chunk)?;
        }
        Ok(true)
    }

    /// Begins the first part of a chunk. The rest of it stays at the head of the queue.
    fn begin_chunk(&mut self, mut chunk: Chunk) -> Result<(), CopyError> {
        let zero = chunk.kind == Kind::Zero;
        let most = if zero { self.zero_at_once } else { self.job.rules.request };
        if chunk.len > most {
            let rest = Chunk { at: chunk.at + most, len: chunk.len - most, ..chunk };
            self.todo.push_front(rest);
            chunk.len = most;
        }
        self.todo_len -= chunk.len;
        match chunk.kind {
            Kind::Data => self.read(chunk.at, chunk.len),
            Kind::Zero => self.zero(chunk.at, chunk.len),
            Kind::Fill => {
                let mut zeroes = self.room(chunk.len);
                zeroes.fill(0);
                self.flying += chunk.len;
                self.write(chunk.at, zeroes, true)
            }
        }
    }

    /// Makes sure that there is something to do, and asks for extents before the last chunk is
    /// begun.
    fn look_ahead(&mut self) -> Result<(), CopyError> {
        if let Side::Stream(_) = self.source {
            return Ok(());
        }
        let rules = &self.job.rules;
        while !self.exhausted && self.asked.is_none() && self.todo_len < rules.queue {
            let Some((at, end)) = self.job.claim() else {
                self.exhausted = true;
                return Ok(());
            };
            match &mut self.source {
                Side::Client(client) if rules.extents => {
                    ask(client, at, end)?;
                    self.asked = Some((at, end));
                }
                Side::File(local) if rules.extents => {
                    let (found, _) = chunks((at, end), &local.map(at, end)?, rules.align);
                    self.add(found, (at, end));
                }
                _ => self.add(vec![Chunk { at, len: end - at, kind: Kind::Data }], (at, end)),
            }
        }
        Ok(())
    }

    fn add(&mut self, found: Vec<Chunk>, (at, end): (u64, u64)) {
        let barren = found.iter().all(|chunk| chunk.kind == Kind::Zero && chunk.len == end - at);
        self.job.was_barren(barren);
        self.todo_len += found.iter().map(|chunk| chunk.len).sum::<u64>();
        self.todo.extend(found);
    }

    /// Counts bytes that have been written.
    fn written(&mut self, len: u64, zeroes: bool) {
        self.flying = self.flying.saturating_sub(len);
        self.job.finished(len, zeroes);
    }

    /// Reads from the source if it is a stream. Returns whether a piece was completed. There may
    /// then be more to do without waiting, because ranges that the destination cannot zero are
    /// queued as writes.
    fn begin_stream(&mut self) -> Result<bool, CopyError> {
        if !self.readable || self.exhausted {
            return Ok(false);
        }
        self.readable = false;
        let Side::Stream(local) = &self.source else { return Ok(false) };
        let request = usize::try_from(self.job.rules.request).unwrap_or(usize::MAX);
        if self.filling.is_empty() {
            self.filling = self.spare.pop().unwrap_or_default();
            self.filling.resize(request, 0);
        }
        let room = self.filling.get_mut(self.filled..).unwrap_or_default();
        let n = match (&local.file).read(room) {
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => {
                let range = (self.at + self.filled as u64, room.len() as u64);
                return Err(CopyError::at("read", range, self.names.0, error));
            }
        };
        self.exhausted = n == 0;
        self.filled += n;
        if self.filled == 0 || (n > 0 && self.filled < request) {
            return Ok(false);
        }
        let (at, len) = (self.at, self.filled as u64);
        let room = self.job.rules.room.unwrap_or(u64::MAX);
        if len > room.saturating_sub(at) {
            return Err(CopyError::Full { name: self.names.1.to_owned(), room });
        }
        let mut bytes = mem::take(&mut self.filling);
        bytes.truncate(mem::take(&mut self.filled));
        self.at += len;
        self.flying += len;
        self.got(at, bytes, &[])?;
        Ok(true)
    }

    fn room(&mut self, len: u64) -> Vec<u8> {
        let mut room = self.spare.pop().unwrap_or_default();
        room.resize(usize::try_from(len).unwrap_or(usize::MAX), 0);
        room
    }

    fn read(&mut self, at: u64, len: u64) -> Result<(), CopyError> {
        let mut room = self.room(len);
        self.flying += len;
        match &mut self.source {
            Side::Client(client) => Ok(client.submit(Order::read(at, len, room))?),
            Side::File(local) => {
                local.read(at, &mut room)?;
                self.got(at, room, &[])
            }
            Side::Stream(_) | Side::Null => Ok(()),
        }
    }

    /// Sends what is queued.
    fn push(&mut self) -> Result<(), CopyError> {
        for (side, broken) in
            [(&mut self.source, &mut self.broken.0), (&mut self.target, &mut self.broken.1)]
        {
            if let Some(client) = side.client() {
                heed(client.push(), broken)?;
            }
        }
        Ok(())
    }

    /// Takes the answers that have arrived. Returns whether there were any.
    fn pop(&mut self) -> Result<bool, CopyError> {
        let mut any = false;
        while let Some(done) = self.source.client().and_then(Client::pop) {
            any = true;
            let done = good(&mut self.source, done)?;
            if let Verb::Extents { .. } = done.order.verb {
                self.learned(&done)?;
            } else {
                self.got(done.order.at, done.order.bytes, &done.holes)?;
            }
        }
        while let Some(done) = self.target.client().and_then(Client::pop) {
            any = true;
            let Order { verb, at, len, mut bytes, tag } = good(&mut self.target, done)?.order;
            match verb {
                Verb::Write { .. } => {
                    let beyond = (at + len).saturating_sub(self.job.rules.size.unwrap_or(self.at));
                    self.written(len - beyond, tag == 1);
                    self.spare.push(bytes);
                }
                Verb::Zero(_) => {
                    self.flying = self.flying.saturating_sub(self.weight(len));
                    self.learn_pace(len, tag);
                    self.job.finished(len, true);
                }
                Verb::Read => {
                    let tail = self.tail.take().unwrap_or_default();
                    if let Some(head) = bytes.get_mut(..tail.len()) {
                        head.copy_from_slice(&tail);
                    }
                    self.write(at, bytes, false)?;
                }
                _ => {}
            }
        }
        Ok(any)
    }

    /// How much zeroes of this length count in the queue, whose limit is meant for data.
    fn weight(&self, len: u64) -> u64 {
        len.min(self.job.rules.queue / ZEROES)
    }

    /// Adapts the length of requests to zero. `asked` is when this one was sent, in microseconds
    /// since `begun`.
    fn learn_pace(&mut self, len: u64, asked: u64) {
        let took = self.begun.elapsed().saturating_sub(Duration::from_micros(asked));
        if len == self.zero_at_once && took < QUICK {
            let most = self.target.client().map_or(ZERO, |client| client.longest_range());
            self.zero_at_once = self.zero_at_once.saturating_mul(2).min(most.max(ZERO));
        } else if took > 10 * QUICK {
            self.zero_at_once = ZERO;
        }
    }

    /// Takes the source's extents, which may cover only the first part of what was asked for.
    fn learned(&mut self, done: &Done) -> Result<(), CopyError> {
        let Some((_, end)) = self.asked.take() else { return Ok(()) };
        let at = done.order.at;
        let (found, to) = chunks((at, end), &done.extents, self.job.rules.align);
        self.add(found, (at, end));
        if to < end {
            self.asked = Some((to, end));
            if let Some(client) = self.source.client() {
                ask(client, to, end)?;
            }
        }
        Ok(())
    }
}

/// Asks for the extents of a stride, or for as much of it as one request may cover.
fn ask(client: &mut Client, at: u64, end: u64) -> Result<(), CopyError> {
    let len = (end - at).min(client.longest_range());
    Ok(client.submit(Order::bare(Verb::Extents { one: false }, at, len))?)
}

fn good(side: &mut Side, done: Done) -> Result<Done, CopyError> {
    match side.client() {
        Some(client) => Ok(client.good(done)?),
        None => Ok(done),
    }
}

fn heed(done: Result<(), ClientError>, broken: &mut bool) -> Result<(), CopyError> {
    *broken |= done.as_ref().is_err_and(|error| !error.is_of_one_request());
    Ok(done?)
}
