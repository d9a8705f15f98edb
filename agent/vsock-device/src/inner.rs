//! The state that a VM's lock protects: its queues, its memory and its connections.

use std::{
    io::{self, IoSlice, IoSliceMut},
    time::{Duration, Instant},
};

use vsock_cid::GuestCid;

use crate::{
    broken::Broken,
    connections::AfterUnlock,
    flow::{Flow, Rx},
    key::Key,
    line::ConnectionId,
    memory::{Memory, most_tables},
    queue::Queue,
    ring::{Mark, Ring, Which},
    sys::page_tables,
};

/// A VM's queues, memory and connections.
#[derive(Default)]
pub(crate) struct Inner {
    pub(crate) memory: Option<Memory>,
    pub(crate) rx: Ring,
    pub(crate) tx: Ring,
    pub(crate) flow: Flow,
    /// The place of the TX queue when it was stopped.
    pub(crate) stopped: Option<Mark>,
    /// When the page tables were counted last.
    looked: Option<Instant>,
}

/// The time between two counts of the page tables. A guest can cause some 25 MiB of them in that time.
const LOOK: Duration = Duration::from_millis(50);

impl Inner {
    pub(crate) fn ring(&mut self, which: Which) -> &mut Ring {
        match which {
            Which::Rx => &mut self.rx,
            Which::Tx => &mut self.tx,
        }
    }

    /// Ends all connections, because the guest or the VMM broke the rules. The device works again after its queues
    /// were stopped or reset.
    pub(crate) fn fail(&mut self, after: &mut AfterUnlock<'_>) {
        let lost = self.memory.as_ref().is_some_and(|memory| memory.is_there().is_err());
        after.warning = Some(if lost {
            "the VMM has taken memory away from its guest: its connections end"
        } else {
            "the guest or the VMM breaks the rules of the vsock device: its connections end"
        });
        self.flow.clear(after);
        self.rx.set_broken();
        self.tx.set_broken();
    }

    /// Maps the guest's memory anew if this process has too many page tables. The guest that causes them gets here by
    /// its own work. Another guest that gets here loses only the time to map its pages again.
    pub(crate) fn bound_tables(&mut self, after: &mut AfterUnlock<'_>) {
        let now = Instant::now();
        if self.looked.is_some_and(|looked| now < looked + LOOK) {
            return;
        }
        self.looked = Some(now);
        // Memory that the VMM has taken away stays lost.
        let Some(memory) = self.memory.as_ref().filter(|memory| memory.is_there().is_ok()) else {
            return;
        };
        if page_tables().is_some_and(|bytes| bytes > most_tables())
            && let Ok(anew) = memory.again()
        {
            after.memory = self.memory.replace(anew);
        }
    }

    /// Removes a connection at once, and gives back what it held.
    pub(crate) fn drop_connection(
        &mut self,
        key: Key,
        after: &mut AfterUnlock<'_>,
    ) -> Result<(), Broken> {
        let Self { memory: Some(memory), tx, flow, .. } = self else { return Ok(()) };
        let mut queue = Queue::returning(tx, memory);
        flow.drop_connection(key, &mut queue, after)?;
        queue.notify()
    }

    /// Copies the bytes of all chains that are held, and gives the chains back. Called before the TX queue stops.
    pub(crate) fn return_all(&mut self) -> Result<(), Broken> {
        let Self { memory: Some(memory), tx, flow, .. } = self else { return Ok(()) };
        let mut queue = Queue::returning(tx, memory);
        for state in flow.connections.open.values_mut() {
            state.inbox.return_lent(&mut queue, &mut flow.held)?;
        }
        queue.notify()
    }

    fn rx(&mut self) -> (&mut Flow, Rx<'_>) {
        (&mut self.flow, Rx { ring: &mut self.rx, memory: self.memory.as_ref() })
    }

    /// Sends the answers and calls the next connections, after the guest has made room.
    pub(crate) fn make_room(&mut self, after: &mut AfterUnlock<'_>) -> Result<(), Broken> {
        let (flow, mut rx) = self.rx();
        flow.send_answers(&mut rx)?;
        flow.call_next(&mut rx, after)
    }

    pub(crate) fn send_answers(&mut self) -> Result<(), Broken> {
        let (flow, mut rx) = self.rx();
        flow.send_answers(&mut rx)
    }

    /// Whether a connection can send now. Otherwise it joins the line and is woken when it can.
    pub(crate) fn wants_room(
        &mut self,
        id: ConnectionId,
        after: &mut AfterUnlock<'_>,
    ) -> Result<bool, Broken> {
        let (flow, mut rx) = self.rx();
        flow.wants_room(id, &mut rx, after)
    }

    pub(crate) fn receive(
        &mut self,
        id: ConnectionId,
        runs: &mut [IoSliceMut<'_>],
        cid: GuestCid,
    ) -> Result<io::Result<usize>, Broken> {
        let Some(memory) = &self.memory else { return Ok(Ok(0)) };
        let mut queue = Queue::returning(&mut self.tx, memory);
        let received = self.flow.receive(id, runs, &mut queue, cid)?;
        queue.notify()?;
        self.send_answers()?;
        Ok(received)
    }

    pub(crate) fn send(
        &mut self,
        id: ConnectionId,
        runs: &[IoSlice<'_>],
        cid: GuestCid,
        after: &mut AfterUnlock<'_>,
    ) -> Result<io::Result<usize>, Broken> {
        let (flow, mut rx) = self.rx();
        flow.send(id, runs, &mut rx, cid, after)
    }
}
