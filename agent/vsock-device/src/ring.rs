//! A queue as vhost-user sets it up: where it is, whether it runs, and how its guest is called.

use std::os::fd::{AsFd, OwnedFd};

use virtio_queue::{Queue, QueueT};
use vm_memory::GuestAddress;

use crate::{memory::Memory, queue::Broken, sys::eventfd, vhost_user::message::Places};

/// Descriptors of a queue at most.
const MOST: u16 = 1024;

/// Which of the device's queues. (The third, for events, stays in the VMM.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    /// What the guest receives by.
    Rx,
    /// What the guest sends by.
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
    /// It was reset: a kick alone starts it.
    reset: bool,
    /// The driver broke its rules: it is not touched until it is stopped or reset.
    broken: bool,
}

impl Default for Ring {
    fn default() -> Self {
        let queue = Queue::new(MOST).expect("a power of two");
        Self { queue, call: None, enabled: false, reset: false, broken: false }
    }
}

impl Ring {
    /// May be used.
    pub(crate) fn runs(&self) -> bool {
        self.queue.ready() && self.enabled && !self.broken && self.is_placed()
    }

    /// The VMM has said where it is.
    fn is_placed(&self) -> bool {
        self.queue.avail_ring() != 0
    }

    /// Its guest has kicked it; maybe before it was stopped.
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

    /// Where it is in the guest's memory. Where the used ring stands is read there: no message says it.
    pub(crate) fn set_places(&mut self, places: Places, memory: &Memory) -> Result<(), Broken> {
        let Places { table, avail, used } = places;
        let queue = &mut self.queue;
        queue.try_set_desc_table_address(GuestAddress(table)).map_err(|_| Broken)?;
        queue.try_set_avail_ring_address(GuestAddress(avail)).map_err(|_| Broken)?;
        queue.try_set_used_ring_address(GuestAddress(used)).map_err(|_| Broken)?;
        let order = std::sync::atomic::Ordering::Relaxed;
        let next = queue.used_idx(memory.map(), order).map_err(|_| Broken)?;
        queue.set_next_used(next.0);
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

    /// Stops it. If it was broken, it can be set up anew.
    pub(crate) fn stop(&mut self) {
        self.queue.set_ready(false);
        self.call = None;
        (self.reset, self.broken) = (false, false);
    }

    /// As it was in the beginning, but for its call: not every VMM gives that anew.
    pub(crate) fn reset(&mut self) {
        self.queue.reset();
        (self.enabled, self.reset, self.broken) = (false, true, false);
    }

    /// A queue that is stopped stays as it is: nothing in it is used any more.
    pub(crate) fn set_broken(&mut self) {
        self.broken = self.queue.ready();
    }

    /// Tells the guest, if it has said how.
    pub(crate) fn call(&self) {
        if let Some(call) = &self.call {
            // It fails only if the VMM broke its own eventfd. Then its guest waits, and no other.
            eventfd::signal(call.as_fd()).ok();
        }
    }

    /// Chains that were taken off it so far.
    pub(crate) fn next(&self) -> u16 {
        self.queue.next_avail()
    }

    /// Where it is, to be known again.
    pub(crate) fn mark(&self) -> Mark {
        Mark { table: self.queue.desc_table(), next: self.queue.next_avail() }
    }
}

/// A queue's place in memory and in its ring: after a stop it goes on from there, after a reset of
/// the guest it does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    table: u64,
    next: u16,
}
