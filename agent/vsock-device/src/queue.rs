//! One virtqueue: buffers taken off it, filled or read, and given back. Everything in it is the
//! guest's word: addresses, lengths and the order of descriptors are looked at anew at each use, and
//! bytes are copied once.

use std::{fmt, sync::atomic::Ordering};

use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};

use crate::{memory::Memory, ring::Ring};

/// The guest's driver or its VMM does not keep to Virtio: the device cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Broken;

/// A part of the guest's memory.
#[derive(Debug, Clone, Copy)]
struct Segment {
    at: GuestAddress,
    len: u32,
}

/// Buffers that the guest has lent: read or filled from the front, then given back.
pub(crate) struct Chain {
    head: u16,
    segments: Vec<Segment>,
    /// Segments that are done, and bytes of the next.
    done: (usize, u32),
}

impl Chain {
    /// Parts of the guest's memory that it is made of.
    pub(crate) fn parts(&self) -> usize {
        self.segments.len()
    }

    /// Bytes that are left.
    pub(crate) fn len(&self) -> usize {
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

    /// Copies in as much as there is room for.
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

/// What the next buffer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum For {
    Reading,
    Writing,
}

/// A queue that runs and the memory that it is in, held for a while.
pub(crate) struct Queue<'a> {
    ring: &'a mut Ring,
    memory: &'a Memory,
    /// Descriptors that were looked at: what the work here has cost.
    descriptors: usize,
    /// Something was given back of which the guest has not been told.
    returned: bool,
}

impl<'a> Queue<'a> {
    /// None if the queue does not run.
    pub(crate) fn new(ring: &'a mut Ring, memory: Option<&'a Memory>) -> Option<Self> {
        let memory = memory.filter(|_| ring.runs())?;
        Some(Self { ring, memory, descriptors: 0, returned: false })
    }

    /// To give back what was taken from it, also when it does not run.
    pub(crate) fn returning(ring: &'a mut Ring, memory: &'a Memory) -> Self {
        Self { ring, memory, descriptors: 0, returned: false }
    }

    pub(crate) fn memory(&self) -> &'a Memory {
        self.memory
    }

    /// Descriptors that were looked at so far.
    pub(crate) fn descriptors(&self) -> usize {
        self.descriptors
    }

    /// The next buffers. If there are none, the guest is to say when there are.
    pub(crate) fn pop(&mut self, purpose: For) -> Result<Option<Chain>, Broken> {
        if let Some(chain) = self.try_pop(purpose)? {
            return Ok(Some(chain));
        }
        if !self.ask_for_more()? {
            return Ok(None);
        }
        // The ring says that there is one: if it is not to be had, to ask again would never end.
        self.try_pop(purpose)?.map(Some).ok_or(Broken)
    }

    fn try_pop(&mut self, purpose: For) -> Result<Option<Chain>, Broken> {
        let memory = self.memory.map();
        let queue = &mut self.ring.queue;
        let most = usize::from(queue.size());
        // More than the ring can hold is an error here.
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
            // Virtio 1.2, 2.7.5.3.1: no chain is longer than the queue, also in a table of its own.
            if count > most {
                return Err(Broken);
            }
        }
        self.descriptors += count;
        self.memory.is_there()?;
        // It ends where its last descriptor says so, and not where one cannot be read.
        if goes_on || u32::try_from(total).is_err() {
            return Err(Broken);
        }
        Ok(Some(Chain { head, segments, done: (0, 0) }))
    }

    /// There is none at the moment: the guest is to say when. True: there is one, after all.
    pub(crate) fn ask_for_more(&mut self) -> Result<bool, Broken> {
        let more = self.ring.queue.enable_notification(self.memory.map()).map_err(|_| Broken)?;
        self.memory.is_there()?;
        Ok(more)
    }

    /// How many chains the guest has there.
    pub(crate) fn available(&self) -> Result<u16, Broken> {
        let queue = &self.ring.queue;
        let end = queue.avail_idx(self.memory.map(), Ordering::Acquire).map_err(|_| Broken)?;
        self.memory.is_there()?;
        Ok(end.0.wrapping_sub(queue.next_avail()))
    }

    /// Gives buffers back, `written` bytes of them filled.
    pub(crate) fn give_back(&mut self, chain: &Chain, written: usize) -> Result<(), Broken> {
        let written = u32::try_from(written).map_err(|_| Broken)?;
        self.returned = true;
        let memory = self.memory.map();
        self.ring.queue.add_used(memory, chain.head, written).map_err(|_| Broken)?;
        self.memory.is_there()
    }

    /// Tells the guest of all that was given back, if it wants to know.
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
