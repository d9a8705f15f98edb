//! A queue as vhost-user sets it up: its place, whether it runs, and the eventfd that notifies the guest.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use virtio_queue::{Queue, QueueT};
use vm_memory::GuestAddress;

use crate::{
    broken::Broken, memory::Memory, record::Record, sys::eventfd, vhost_user::message::Places,
};

/// Most descriptors of a queue.
pub(crate) const MOST: u16 = 1024;

/// A queue of the device. (The VMM keeps the third, for events.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    /// The guest receives by this queue.
    Rx,
    /// The guest sends by this queue.
    Tx,
}

impl Which {
    pub(crate) fn from_wire(queue: u32) -> Option<Self> {
        [Self::Rx, Self::Tx].get(usize::try_from(queue).ok()?).copied()
    }
}

/// A queue.
#[derive(Debug)]
pub(crate) struct Ring {
    pub(crate) queue: Queue,
    call: Option<OwnedFd>,
    enabled: bool,
    /// It was reset, and a kick starts it.
    reset: bool,
    /// The driver broke the rules. The queue is not touched until it is stopped or reset.
    broken: bool,
    /// Where the chains that are taken and not given back are recorded. `None` for the RX queue, and if nothing of the
    /// VM is kept.
    pub(crate) record: Option<Arc<Record>>,
}

impl Default for Ring {
    fn default() -> Self {
        let queue = Queue::new(MOST).expect("a power of two");
        Self { queue, call: None, enabled: false, reset: false, broken: false, record: None }
    }
}

impl Ring {
    /// Whether the queue may be used.
    pub(crate) fn runs(&self) -> bool {
        self.queue.ready() && self.enabled && !self.broken && self.is_placed()
    }

    /// Whether the VMM has said where the queue is.
    fn is_placed(&self) -> bool {
        self.queue.avail_ring() != 0
    }

    /// The guest has kicked the queue, maybe before the queue was stopped.
    pub(crate) fn kicked(&mut self) {
        if self.reset && self.is_placed() {
            self.start();
        }
    }

    pub(crate) fn set_size(&mut self, size: u32) -> Result<(), ()> {
        let size = u16::try_from(size).map_err(drop)?;
        self.queue.try_set_size(size).map_err(drop)
    }

    pub(crate) fn set_base(&mut self, base: u16) {
        self.queue.set_next_avail(base);
    }

    pub(crate) fn set_event_idx(&mut self, on: bool) {
        self.queue.set_event_idx(on);
    }

    /// Sets the place of the queue in the guest's memory. The index of the used ring is read from there, since no
    /// message has it.
    pub(crate) fn set_places(&mut self, places: Places, memory: &Memory) -> Result<(), Broken> {
        let Places { table, avail, used } = places;
        let queue = &mut self.queue;
        queue.try_set_desc_table_address(GuestAddress(table)).map_err(|_| Broken)?;
        queue.try_set_avail_ring_address(GuestAddress(avail)).map_err(|_| Broken)?;
        queue.try_set_used_ring_address(GuestAddress(used)).map_err(|_| Broken)?;
        let order = std::sync::atomic::Ordering::Relaxed;
        let next = queue.used_idx(memory.map(), order).map_err(|_| Broken)?;
        queue.set_next_used(next.0);
        if let Some(record) = &self.record {
            record.begin_queue(next.0);
        }
        Ok(())
    }

    pub(crate) fn set_call(&mut self, call: Option<OwnedFd>) {
        self.call = call;
    }

    pub(crate) fn start(&mut self) {
        self.queue.set_ready(true);
        self.reset = false;
    }

    pub(crate) fn enable(&mut self, on: bool) {
        self.enabled = on;
    }

    /// Stops the queue. A queue that was broken can be set up again afterwards.
    pub(crate) fn stop(&mut self) {
        self.queue.set_ready(false);
        self.call = None;
        (self.reset, self.broken) = (false, false);
        self.begin_record();
    }

    /// Puts the queue into its initial state, except its call eventfd: not every VMM sends that again.
    pub(crate) fn reset(&mut self) {
        self.queue.reset();
        (self.enabled, self.reset, self.broken) = (false, true, false);
        self.begin_record();
    }

    /// No chain is taken any more.
    fn begin_record(&self) {
        if let Some(record) = &self.record {
            record.begin_queue(self.queue.next_used());
        }
    }

    /// Continues a queue that ran in an earlier process: the chains that it had taken are given back, with nothing
    /// written into them.
    pub(crate) fn recover(&mut self, memory: &Memory) -> Result<(), Broken> {
        self.kicked();
        if !self.queue.ready() || !self.is_placed() {
            return Ok(());
        }
        let order = std::sync::atomic::Ordering::Acquire;
        let used = self.queue.used_idx(memory.map(), order).map_err(|_| Broken)?.0;
        let chains = self.record.as_ref().map_or_else(Vec::new, |record| record.chains(used));
        self.queue.set_next_used(used);
        self.queue.set_next_avail(used.wrapping_add(u16::try_from(chains.len()).unwrap_or(MOST)));
        for head in chains {
            self.give_back(memory, head, 0)?;
        }
        memory.is_there()?;
        // The earlier process may have given chains back and not have said so.
        self.call();
        Ok(())
    }

    /// A chain was taken off the queue.
    pub(crate) fn note_taken(&self, head: u16) {
        if let Some(record) = &self.record {
            record.take(head);
        }
    }

    /// Puts a chain into the used ring.
    pub(crate) fn give_back(&mut self, memory: &Memory, head: u16, len: u32) -> Result<(), Broken> {
        if let Some(record) = &self.record {
            record.give(head, self.queue.next_used());
        }
        self.queue.add_used(memory.map(), head, len).map_err(|_| Broken)?;
        crate::fault::step();
        if let Some(record) = &self.record {
            record.given(head, self.queue.next_used());
        }
        Ok(())
    }

    /// Marks a running queue as broken. A stopped queue is not used anyway and stays as it is.
    pub(crate) fn set_broken(&mut self) {
        self.broken = self.queue.ready();
    }

    /// Notifies the guest, if the VMM has set a call eventfd.
    pub(crate) fn call(&self) {
        if let Some(call) = &self.call {
            // It fails only if the VMM broke its own eventfd. Then only its own guest waits.
            eventfd::signal(call.as_fd()).ok();
        }
    }

    /// The number of chains that were taken off the queue, modulo 2^16.
    pub(crate) fn next(&self) -> u16 {
        self.queue.next_avail()
    }

    /// The queue's place, to compare with a later one.
    pub(crate) fn mark(&self) -> Mark {
        Mark { table: self.queue.desc_table(), next: self.queue.next_avail() }
    }
}

/// A queue's place in memory and in its ring. After a stop the queue continues from there; after a reset of the guest
/// it does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    table: u64,
    next: u16,
}
