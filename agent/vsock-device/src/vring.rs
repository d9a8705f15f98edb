//! A queue as rust-vmm sets it up, but for its two events: they are descriptors of the VMM's, and
//! rust-vmm reads and writes them under the queue's lock, for as long as it takes. A VMM that let it wait
//! would have the agent's threads wait, and all other VMs with them.

use std::{fs::File, io, os::fd::AsFd, sync::MutexGuard};

use vhost_user_backend::{VringMutex, VringState, VringStateGuard, VringStateMutGuard, VringT};
use virtio_queue::Error;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

use crate::sys::eventfd;

/// What rust-vmm alone uses: our own is looked after (`memory`).
type Map = GuestMemoryAtomic<GuestMemoryMmap>;
/// What its lock is around.
pub(super) type State = VringState<Map>;

/// A queue that vhost-user sets up.
#[derive(Clone)]
pub(super) struct Vring(VringMutex<Map>);

/// Tells the guest, if it has said how.
pub(super) fn call(state: &State) {
    if let Some(call) = state.get_call() {
        // Only one that was closed or broken by the VMM fails: its guest waits, and nobody else.
        eventfd::signal(eventfd::borrow(call)).ok();
    }
}

/// What waits for nobody; the others are closed.
fn checked(file: Option<File>, what: &str) -> Option<File> {
    let file = file?;
    let prepared = |()| eventfd::prepare(file.as_fd()).map_err(|_| "cannot be prepared");
    match eventfd::check(file.as_fd()).and_then(prepared) {
        Ok(()) => Some(file),
        Err(why) => {
            tracing::warn!("a VMM gave a {what} that {why}: that queue stands still");
            None
        }
    }
}

impl<'a> VringStateGuard<'a, Map> for Vring {
    type G = MutexGuard<'a, State>;
}

impl<'a> VringStateMutGuard<'a, Map> for Vring {
    type G = MutexGuard<'a, State>;
}

impl VringT<Map> for Vring {
    fn new(map: Map, most: u16) -> Result<Self, Error> {
        VringMutex::new(map, most).map(Self)
    }

    fn set_kick(&self, file: Option<File>) {
        self.0.set_kick(checked(file, "kick"));
    }

    fn read_kick(&self) -> io::Result<bool> {
        let state = self.0.get_ref();
        match state.get_kick().as_ref().map(|kick| eventfd::take(eventfd::borrow(kick))) {
            // Somebody else has taken it: as good as taken.
            Some(Err(error)) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(state.is_enabled()),
        }
    }

    fn set_call(&self, file: Option<File>) {
        self.0.set_call(checked(file, "call"));
    }

    fn signal_used_queue(&self) -> io::Result<()> {
        call(&self.0.get_ref());
        Ok(())
    }

    fn get_ref(&self) -> MutexGuard<'_, State> {
        self.0.get_ref()
    }

    fn get_mut(&self) -> MutexGuard<'_, State> {
        self.0.get_mut()
    }

    fn add_used(&self, head: u16, len: u32) -> Result<(), Error> {
        self.0.add_used(head, len)
    }

    fn enable_notification(&self) -> Result<bool, Error> {
        self.0.enable_notification()
    }

    fn disable_notification(&self) -> Result<(), Error> {
        self.0.disable_notification()
    }

    fn needs_notification(&self) -> Result<bool, Error> {
        self.0.needs_notification()
    }

    fn set_enabled(&self, enabled: bool) {
        self.0.set_enabled(enabled);
    }

    fn set_queue_info(&self, table: u64, avail: u64, used: u64) -> Result<(), Error> {
        self.0.set_queue_info(table, avail, used)
    }

    fn queue_next_avail(&self) -> u16 {
        self.0.queue_next_avail()
    }

    fn set_queue_next_avail(&self, at: u16) {
        self.0.set_queue_next_avail(at);
    }

    fn set_queue_next_used(&self, at: u16) {
        self.0.set_queue_next_used(at);
    }

    fn queue_used_idx(&self) -> Result<u16, Error> {
        self.0.queue_used_idx()
    }

    fn set_queue_size(&self, size: u16) {
        self.0.set_queue_size(size);
    }

    fn set_queue_event_idx(&self, enabled: bool) {
        self.0.set_queue_event_idx(enabled);
    }

    fn set_queue_ready(&self, ready: bool) {
        self.0.set_queue_ready(ready);
    }

    fn set_err(&self, file: Option<File>) {
        self.0.set_err(file);
    }
}
