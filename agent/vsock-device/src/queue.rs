//! One virtqueue: takes buffers off it, reads or fills them, and gives them back. The guest controls everything in it:
//! addresses, lengths and the order of descriptors are checked at each use, and bytes are copied once.

use std::{fmt, sync::atomic::Ordering};

use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};

use crate::broken::Broken;
use crate::{memory::Memory, ring::Ring};

/// A part of the guest's memory.
#[derive(Debug, Clone, Copy)]
struct Segment {
    at: GuestAddress,
    len: u32,
}

/// Buffers of the guest, which are read or filled from the front and then given back.
pub(crate) struct Chain {
    head: u16,
    segments: Vec<Segment>,
    /// The number of segments that are done, and of bytes in the next one.
    done: (usize, u32),
}

impl Chain {
    /// The number of its parts of the guest's memory.
    pub(crate) fn parts(&self) -> usize {
        self.segments.len()
    }

    /// The number of bytes that are left.
    pub(crate) fn len(&self) -> usize {
        let rest = self.segments.get(self.done.0..).unwrap_or_default();
        let all: usize = rest.iter().map(|segment| segment.len as usize).sum();
        all - self.done.1 as usize
    }

    /// The next contiguous bytes, at most `most` of them.
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

    /// Reads bytes until `to` is full or the chain ends. Returns their number.
    pub(crate) fn read(&mut self, memory: &Memory, mut to: &mut [u8]) -> Result<usize, Broken> {
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

    /// Writes bytes until `from` or the chain ends. Returns their number.
    pub(crate) fn write(&mut self, memory: &Memory, mut from: &[u8]) -> Result<usize, Broken> {
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

/// The purpose of the next buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum For {
    Reading,
    Writing,
}

/// A running queue and its memory, for one piece of work.
pub(crate) struct Queue<'a> {
    ring: &'a mut Ring,
    memory: &'a Memory,
    /// The number of descriptors that were read, as a measure of the work.
    descriptors: usize,
    /// Buffers were given back and the guest was not notified yet.
    returned: bool,
}

impl<'a> Queue<'a> {
    /// `None` if the queue does not run.
    pub(crate) fn new(ring: &'a mut Ring, memory: Option<&'a Memory>) -> Option<Self> {
        let memory = memory.filter(|_| ring.runs())?;
        Some(Self { ring, memory, descriptors: 0, returned: false })
    }

    /// The queue for giving back buffers only, which is allowed when the queue does not run.
    pub(crate) fn returning(ring: &'a mut Ring, memory: &'a Memory) -> Self {
        Self { ring, memory, descriptors: 0, returned: false }
    }

    pub(crate) fn memory(&self) -> &'a Memory {
        self.memory
    }

    /// The number of descriptors that were read so far.
    pub(crate) fn descriptors(&self) -> usize {
        self.descriptors
    }

    /// The next buffers. If there are none, asks the guest for a kick.
    pub(crate) fn pop(&mut self, purpose: For) -> Result<Option<Chain>, Broken> {
        if let Some(chain) = self.try_pop(purpose)? {
            return Ok(Some(chain));
        }
        if !self.ask_for_more()? {
            return Ok(None);
        }
        // The ring says that there is a chain. If it cannot be read, asking again would never end.
        self.try_pop(purpose)?.map(Some).ok_or(Broken)
    }

    fn try_pop(&mut self, purpose: For) -> Result<Option<Chain>, Broken> {
        let memory = self.memory.map();
        let queue = &mut self.ring.queue;
        let most = usize::from(queue.size());
        // An index with more chains than the ring can hold is an error.
        let mut available = queue.iter(memory).map_err(|_| Broken)?;
        let Some(chain) = available.next() else {
            self.memory.is_there()?;
            return Ok(None);
        };
        let head = chain.head_index();
        let (mut segments, mut count, mut goes_on) = (Vec::new(), 0, true);
        let mut total = 0_u64;
        for descriptor in chain {
            count += 1;
            goes_on = descriptor.has_next();
            if descriptor.is_write_only() == (purpose == For::Writing) && descriptor.len() > 0 {
                segments.push(Segment { at: descriptor.addr(), len: descriptor.len() });
                total += u64::from(descriptor.len());
            }
            // Virtio 1.2, 2.7.5.3.1: no chain is longer than the queue, indirect or not.
            if count > most {
                return Err(Broken);
            }
        }
        self.descriptors += count;
        self.memory.is_there()?;
        // A chain ends at its last descriptor, and not at one that cannot be read.
        if goes_on || u32::try_from(total).is_err() {
            return Err(Broken);
        }
        self.ring.note_taken(head);
        Ok(Some(Chain { head, segments, done: (0, 0) }))
    }

    /// Asks the guest for a kick when it provides buffers. Returns true if there are some already.
    pub(crate) fn ask_for_more(&mut self) -> Result<bool, Broken> {
        let more = self.ring.queue.enable_notification(self.memory.map()).map_err(|_| Broken)?;
        self.memory.is_there()?;
        Ok(more)
    }

    /// The number of chains that the guest provides.
    pub(crate) fn available(&self) -> Result<u16, Broken> {
        let queue = &self.ring.queue;
        let end = queue.avail_idx(self.memory.map(), Ordering::Acquire).map_err(|_| Broken)?;
        self.memory.is_there()?;
        Ok(end.0.wrapping_sub(queue.next_avail()))
    }

    /// Gives a chain back, of which `written` bytes were filled.
    pub(crate) fn give_back(&mut self, chain: &Chain, written: usize) -> Result<(), Broken> {
        let written = u32::try_from(written).map_err(|_| Broken)?;
        self.returned = true;
        self.ring.give_back(self.memory, chain.head, written)?;
        self.memory.is_there()
    }

    /// Notifies the guest of the buffers that were given back, if it wants that.
    pub(crate) fn notify(self) -> Result<(), Broken> {
        if !self.returned {
            return Ok(());
        }
        let wanted = self.ring.queue.needs_notification(self.memory.map()).map_err(|_| Broken)?;
        self.memory.is_there()?;
        if wanted {
            self.ring.call();
        }
        Ok(())
    }
}
