//! One virtqueue: buffers taken off it, filled or read, and given back. Everything in it is the
//! guest's word: addresses, lengths and the order of descriptors are looked at anew at each use, and
//! bytes are copied once.

use std::fmt;

use vhost_user_backend::VringT;
use virtio_queue::{QueueOwnedT, QueueT, desc::split::Descriptor};
use vm_memory::{Bytes, GuestAddress};

use super::{
    memory::Memory,
    vring::{State, Vring, call},
};

/// The guest's driver or its VMM does not keep to Virtio: the device cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Broken;

/// A part of the guest's memory.
#[derive(Debug, Clone, Copy)]
struct Segment {
    at: GuestAddress,
    len: u32,
}

/// Buffers that the guest has lent: read or filled from the front, then given back.
pub(super) struct Chain {
    head: u16,
    segments: Vec<Segment>,
    /// Segments that are done, and bytes of the next.
    done: (usize, u32),
}

impl Chain {
    /// Bytes that are left.
    pub(super) fn len(&self) -> usize {
        let rest = self.segments.get(self.done.0..).unwrap_or_default();
        let all: usize = rest.iter().map(|segment| segment.len as usize).sum();
        all - self.done.1 as usize
    }

    /// The next bytes that are in one piece, `most` of them at most.
    fn next(&mut self, most: usize) -> Option<(GuestAddress, usize)> {
        loop {
            let segment = self.segments.get(self.done.0)?;
            let left = segment.len - self.done.1;
            if left == 0 {
                self.done = (self.done.0 + 1, 0);
                continue;
            }
            let len = left.min(u32::try_from(most).unwrap_or(u32::MAX));
            let at = GuestAddress(segment.at.0.checked_add(self.done.1.into())?);
            self.done.1 += len;
            return Some((at, len as usize));
        }
    }

    /// Copies out as much as there is, up to all of `to`.
    pub(super) fn read(&mut self, memory: &Memory, mut to: &mut [u8]) -> Result<usize, Broken> {
        let all = to.len();
        while !to.is_empty() {
            let Some((at, len)) = self.next(to.len()) else { break };
            let (here, rest) = to.split_at_mut(len);
            memory.map().read_slice(here, at).map_err(|_| Broken)?;
            to = rest;
        }
        memory.is_there()?;
        Ok(all - to.len())
    }

    /// Copies in as much as there is room for.
    pub(super) fn write(&mut self, memory: &Memory, mut from: &[u8]) -> Result<usize, Broken> {
        let all = from.len();
        while !from.is_empty() {
            let Some((at, len)) = self.next(from.len()) else { break };
            let (here, rest) = from.split_at(len);
            memory.map().write_slice(here, at).map_err(|_| Broken)?;
            from = rest;
        }
        memory.is_there()?;
        Ok(all - from.len())
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut chain = f.debug_struct("Chain");
        chain.field("head", &self.head).field("left", &self.len()).finish_non_exhaustive()
    }
}

/// What the next buffer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum For {
    Reading,
    Writing,
}

/// A queue and the memory that it is in, held for a while.
pub(super) struct Queue<'a> {
    vring: &'a Vring,
    memory: &'a Memory,
    /// Something was given back of which the guest has not been told.
    returned: bool,
}

impl<'a> Queue<'a> {
    pub(super) fn new(vring: &'a Vring, memory: &'a Memory) -> Self {
        Self { vring, memory, returned: false }
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> Result<T, Broken>) -> Result<T, Broken> {
        let done = work(&mut self.vring.get_mut())?;
        self.memory.is_there()?;
        Ok(done)
    }

    /// The next buffers. If there are none, the guest is to say when there are.
    pub(super) fn pop(&mut self, purpose: For) -> Result<Option<Chain>, Broken> {
        if let Some(chain) = self.try_pop(purpose)? {
            return Ok(Some(chain));
        }
        if !self.ask_for_more()? {
            return Ok(None);
        }
        // The ring says that there is one: if it is not to be had, to ask again would never end.
        self.try_pop(purpose)?.map(Some).ok_or(Broken)
    }

    fn try_pop(&self, purpose: For) -> Result<Option<Chain>, Broken> {
        let memory = self.memory.map();
        self.with(|vring| {
            let queue = vring.get_queue_mut();
            if !queue.ready() {
                return Ok(None);
            }
            // More than the ring can hold is an error here.
            let mut available = queue.iter(memory).map_err(|_| Broken)?;
            let Some(chain) = available.next() else { return Ok(None) };
            let head = chain.head_index();
            let wanted =
                |descriptor: &Descriptor| descriptor.is_write_only() == (purpose == For::Writing);
            let segments = chain
                .filter(wanted)
                .map(|descriptor| Segment { at: descriptor.addr(), len: descriptor.len() });
            let segments: Vec<_> = segments.collect();
            let total: u64 = segments.iter().map(|segment| u64::from(segment.len)).sum();
            if u32::try_from(total).is_err() {
                return Err(Broken);
            }
            Ok(Some(Chain { head, segments, done: (0, 0) }))
        })
    }

    /// There is none at the moment: the guest is to say when. True: there is one, after all.
    pub(super) fn ask_for_more(&self) -> Result<bool, Broken> {
        self.with(|vring| {
            if !vring.get_queue().ready() {
                return Ok(false);
            }
            vring.get_queue_mut().enable_notification(self.memory.map()).map_err(|_| Broken)
        })
    }

    /// Gives buffers back, `written` bytes of them filled.
    pub(super) fn give_back(&mut self, chain: &Chain, written: usize) -> Result<(), Broken> {
        let written = u32::try_from(written).map_err(|_| Broken)?;
        self.returned = true;
        let memory = self.memory.map();
        self.with(|vring| {
            vring.get_queue_mut().add_used(memory, chain.head, written).map_err(|_| Broken)
        })
    }

    /// Tells the guest of all that was given back, if it wants to know.
    pub(super) fn notify(self) -> Result<(), Broken> {
        if !self.returned {
            return Ok(());
        }
        self.with(|vring| {
            let queue = vring.get_queue_mut();
            if queue.needs_notification(self.memory.map()).map_err(|_| Broken)? {
                call(vring);
            }
            Ok(())
        })
    }

    /// Where the queue is, to be known again.
    pub(super) fn mark(&self) -> Mark {
        let vring = self.vring.get_ref();
        let queue = vring.get_queue();
        Mark { table: queue.desc_table(), next: queue.next_avail() }
    }
}

/// A queue's place in memory and in its ring: after a stop it goes on from there, after a reset of
/// the guest it does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    table: u64,
    next: u16,
}
