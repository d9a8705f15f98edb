//! The kernel's requests in flight. They are split into parts that the server accepts, held back
//! while another request changes the same range, and answered when all of their parts are answered.
//!
//! `relay` passes in requests and the server's answers, and takes orders and replies. There is no
//! socket and no clock here. This module keeps the rule that makes sending again safe: no two changes
//! in flight overlap, so it does not matter which of them were done when a connection broke.

use std::{collections::VecDeque, mem};

use nbd::wire::{Command, CommandFlags, Errno};
use nbd_client::{Done, Order, Verb};

use super::{export::Export, frontend::Asked, unflushed::Unflushed};

/// The longest read that is collected in memory, in bytes. It is the driver's limit.
const LONGEST_READ: u64 = 32 << 20;

/// A request of the kernel that is not yet answered.
#[derive(Debug)]
struct Task {
    frontend: usize,
    cookie: u64,
    at: u64,
    /// How many parts are not yet answered.
    left: usize,
    error: Errno,
    /// The data of a read in several parts.
    read: Vec<u8>,
    /// For a flush that was sent: the mark up to which it covers changes.
    mark: u64,
    /// Memory that its payload takes, in bytes.
    weight: usize,
}

/// An answer to the kernel.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) frontend: usize,
    pub(super) cookie: u64,
    pub(super) error: Errno,
    pub(super) payload: Vec<u8>,
}

/// All requests in flight.
#[derive(Debug)]
pub(super) struct Inflight {
    size: u64,
    block: u64,
    read_only: bool,
    flushes: bool,
    /// The longest read or write, and the longest range of another command, in bytes.
    longest: (u64, u64),
    inflight: Vec<Option<Task>>,
    free: Vec<usize>,
    /// Ranges that are being changed: start, end and the task's tag.
    busy: Vec<(u64, u64, u64)>,
    /// Orders to send.
    ready: VecDeque<Order>,
    /// Changes that wait for overlapping ones, in the order in which they arrived.
    held: VecDeque<Order>,
    replies: Vec<Reply>,
    weight: usize,
    pub(super) unflushed: Unflushed,
}

impl Inflight {
    pub(super) fn new(export: &Export, block: u32, longest: (u64, u64)) -> Self {
        let block = u64::from(block);
        let whole = |len: u64| len - len % block;
        Self {
            size: export.visible(u32::try_from(block).unwrap_or(1)),
            block,
            read_only: export.flags.contains(nbd::wire::TransmissionFlags::READ_ONLY),
            flushes: export.flushes(),
            longest: (whole(longest.0.min(LONGEST_READ)), whole(longest.1)),
            inflight: Vec::new(),
            free: Vec::new(),
            busy: Vec::new(),
            ready: VecDeque::new(),
            held: VecDeque::new(),
            replies: Vec::new(),
            weight: 0,
            unflushed: Unflushed::default(),
        }
    }

    /// How many requests are not yet answered.
    pub(super) fn under_way(&self) -> usize {
        self.inflight.len() - self.free.len()
    }

    /// Whether the server may lose acknowledged changes until a flush.
    pub(super) const fn flushes(&self) -> bool {
        self.flushes
    }

    /// The memory that the payloads of all requests take, in bytes.
    pub(super) const fn weight(&self) -> usize {
        self.weight
    }

    /// Accepts a request. `room` is a buffer to read into.
    pub(super) fn accept(&mut self, frontend: usize, asked: Asked, room: Vec<u8>) {
        let Asked { request, bytes } = asked;
        let (at, len, cookie) = (request.offset, request.len, request.cookie);
        let Some(verb) = self.judge(request.command, request.flags, at, len) else {
            return self.reply(frontend, cookie, Errno::EINVAL, bytes);
        };
        if self.read_only && is_change(verb) {
            return self.reply(frontend, cookie, Errno::EPERM, bytes);
        }
        let payload = matches!(verb, Verb::Read | Verb::Write { .. });
        let longest = if payload { self.longest.0 } else { self.longest.1 };
        let parts = usize::try_from(len.div_ceil(longest).max(1)).unwrap_or(usize::MAX);
        let weight = if payload { usize::try_from(len).unwrap_or(usize::MAX) } else { 0 };
        let read = if verb == Verb::Read && parts > 1 { vec![0; weight] } else { Vec::new() };
        let error = Errno(0);
        let task = Task { frontend, cookie, at, left: parts, error, read, mark: 0, weight };
        self.weight += weight;
        let tag = self.insert(task);
        if parts == 1 {
            let bytes = if verb == Verb::Read { room } else { bytes };
            return self.admit(Order { verb, at, len, bytes, tag });
        }
        let mut from = 0;
        while from < len {
            let part = longest.min(len - from);
            let index = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
            let bytes = bytes.get(index(from)..index(from + part)).unwrap_or_default().to_vec();
            self.admit(Order { verb, at: at + from, len: part, bytes, tag });
            from += part;
        }
    }

    /// The verb of a request, or `None` if the request is invalid.
    fn judge(&self, command: Command, flags: CommandFlags, at: u64, len: u64) -> Option<Verb> {
        let fua = flags.contains(CommandFlags::FUA);
        let verb = match command {
            Command::FLUSH => return Some(Verb::Flush),
            Command::READ if len <= LONGEST_READ => Verb::Read,
            Command::WRITE => Verb::Write { fua },
            Command::TRIM => Verb::Trim { fua },
            Command::WRITE_ZEROES => {
                Verb::Zero(flags & (CommandFlags::FUA | CommandFlags::NO_HOLE))
            }
            _ => return None,
        };
        let inside = at.checked_add(len).is_some_and(|end| end <= self.size);
        let whole = at.is_multiple_of(self.block) && len.is_multiple_of(self.block);
        (inside && whole && len > 0).then_some(verb)
    }

    /// Returns the next order to send.
    pub(super) fn next_order(&mut self) -> Option<Order> {
        let order = self.ready.pop_front()?;
        let mark = self.unflushed.mark();
        let task = self.task(order.tag)?;
        if order.verb == Verb::Flush {
            task.mark = mark;
        }
        Some(order)
    }

    /// Queues an order again whose connection broke before the answer.
    pub(super) fn unanswered(&mut self, order: Order) {
        self.ready.push_front(order);
    }

    /// Takes the server's answer to a part.
    pub(super) fn done(&mut self, done: Done) {
        let Done { order, result, .. } = done;
        let error = match &result {
            Ok(()) => Errno(0),
            Err(failure) if failure.errno.0 == 0 => Errno::EIO,
            Err(failure) => failure.errno,
        };
        self.finish(order, error);
    }

    /// Ends a part, with the server's answer or without.
    pub(super) fn finish(&mut self, mut order: Order, error: Errno) {
        let (tag, verb, at, len) = (order.tag, order.verb, order.at, order.len);
        let mut payload = Vec::new();
        let (flushes, mut covered) = (self.flushes, None);
        let Some(task) = self.task(tag) else { return };
        task.left -= 1;
        if error.0 != 0 {
            task.error = error;
        }
        match verb {
            Verb::Read if task.read.is_empty() => payload = mem::take(&mut order.bytes),
            Verb::Read => {
                let from = usize::try_from(at - task.at).unwrap_or(usize::MAX);
                let place = task.read.get_mut(from..).unwrap_or_default();
                for (place, byte) in place.iter_mut().zip(&order.bytes) {
                    *place = *byte;
                }
            }
            Verb::Flush if error.0 == 0 => covered = Some(task.mark),
            _ => {}
        }
        if let Some(mark) = covered {
            self.unflushed.flushed(mark);
        }
        if is_change(verb) {
            self.busy.retain(|range| *range != (at, at + len, tag));
            if error.0 == 0 && flushes {
                if is_durable(verb) {
                    self.unflushed.cut(at, len);
                } else {
                    self.unflushed.put(order);
                }
            }
            for held in mem::take(&mut self.held) {
                self.admit(held);
            }
        }
        self.conclude(tag, payload);
    }

    /// Answers a task if all of its parts are answered.
    fn conclude(&mut self, tag: u64, payload: Vec<u8>) {
        if self.task(tag).is_none_or(|task| task.left > 0) {
            return;
        }
        let Some(task) = self.remove(tag) else { return };
        let payload = if task.read.is_empty() { payload } else { task.read };
        self.reply(task.frontend, task.cookie, task.error, payload);
    }

    /// Answers every request with an error and drops it.
    pub(super) fn fail_all(&mut self, error: Errno) {
        self.ready.clear();
        self.held.clear();
        self.busy.clear();
        for tag in 0..self.inflight.len() as u64 {
            if let Some(task) = self.remove(tag) {
                self.reply(task.frontend, task.cookie, error, Vec::new());
            }
        }
    }

    /// Takes the answers that are ready for the kernel.
    pub(super) fn replies(&mut self) -> Vec<Reply> {
        mem::take(&mut self.replies)
    }

    /// Queues an answer. A failed request has no payload.
    fn reply(&mut self, frontend: usize, cookie: u64, error: Errno, mut payload: Vec<u8>) {
        if error.0 != 0 {
            payload.clear();
        }
        self.replies.push(Reply { frontend, cookie, error, payload });
    }

    /// Queues an order, or holds it back while it overlaps another change.
    fn admit(&mut self, order: Order) {
        if is_change(order.verb) {
            let (at, end) = (order.at, order.at + order.len);
            let meets = |from: u64, to: u64| from < end && at < to;
            if self.busy.iter().any(|&(from, to, _)| meets(from, to))
                || self.held.iter().any(|held| meets(held.at, held.at + held.len))
            {
                return self.held.push_back(order);
            }
            self.busy.push((at, end, order.tag));
        }
        self.ready.push_back(order);
    }

    fn insert(&mut self, task: Task) -> u64 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.inflight.push(None);
            self.inflight.len() - 1
        });
        if let Some(place) = self.inflight.get_mut(index) {
            *place = Some(task);
        }
        index as u64
    }

    fn task(&mut self, tag: u64) -> Option<&mut Task> {
        self.inflight.get_mut(usize::try_from(tag).ok()?)?.as_mut()
    }

    fn remove(&mut self, tag: u64) -> Option<Task> {
        let index = usize::try_from(tag).ok()?;
        let task = self.inflight.get_mut(index)?.take()?;
        self.free.push(index);
        self.weight -= task.weight;
        Some(task)
    }
}

const fn is_change(verb: Verb) -> bool {
    matches!(verb, Verb::Write { .. } | Verb::Trim { .. } | Verb::Zero(_))
}

const fn is_durable(verb: Verb) -> bool {
    match verb {
        Verb::Write { fua } | Verb::Trim { fua } => fua,
        Verb::Zero(flags) => flags.contains(CommandFlags::FUA),
        _ => false,
    }
}
