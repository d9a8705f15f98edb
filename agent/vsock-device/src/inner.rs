//! What a VM's lock is around: its queues and memory, and what goes through them.

use std::{
    io::{self, IoSlice, IoSliceMut},
    time::{Duration, Instant},
};

use crate::{
    connections::{AfterUnlock, Key},
    flow::{Flow, Rx},
    line::ConnectionId,
    memory::{Memory, most_tables},
    queue::{Broken, Queue},
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
    /// Where the TX queue was when it was stopped.
    pub(crate) stopped: Option<Mark>,
    /// When it was last looked how many page tables there are.
    looked: Option<Instant>,
}

/// Between two looks at the number of page tables: a guest has some 25 MiB of them made in that time.
const LOOK: Duration = Duration::from_millis(50);

impl Inner {
    pub(crate) fn ring(&mut self, which: Which) -> &mut Ring {
        match which {
            Which::Rx => &mut self.rx,
            Which::Tx => &mut self.tx,
        }
    }

    /// The guest or its VMM broke the rules: all is over until the queues are stopped or reset.
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

    /// Has the guest's memory mapped anew where this process has too many page tables. The guest that has them made
    /// comes here, and each other one loses no more than the time that it takes to find its pages again.
    pub(crate) fn bound_tables(&mut self, after: &mut AfterUnlock<'_>) {
        let now = Instant::now();
        if self.looked.is_some_and(|looked| now < looked + LOOK) {
            return;
        }
        self.looked = Some(now);
        // What the VMM has taken away stays lost.
        let Some(memory) = self.memory.as_ref().filter(|memory| memory.is_there().is_ok()) else {
            return;
        };
        if page_tables().is_some_and(|bytes| bytes > most_tables())
            && let Ok(anew) = memory.again()
        {
            after.memory = self.memory.replace(anew);
        }
    }

    /// A connection is over at once; what it held goes back.
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

    /// What was lent is copied, and goes back: the TX queue is to be stopped.
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

    /// The guest has made room: send the answers, then call the next connections.
    pub(crate) fn make_room(&mut self, after: &mut AfterUnlock<'_>) -> Result<(), Broken> {
        let (flow, mut rx) = self.rx();
        flow.send_answers(&mut rx)?;
        flow.call_next(&mut rx, after)
    }

    pub(crate) fn send_answers(&mut self) -> Result<(), Broken> {
        let (flow, mut rx) = self.rx();
        flow.send_answers(&mut rx)
    }

    /// A connection that wants to send: true if it can do so now. Else it is woken when it can.
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
        cid: u32,
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
        cid: u32,
        after: &mut AfterUnlock<'_>,
    ) -> Result<io::Result<usize>, Broken> {
        let (flow, mut rx) = self.rx();
        flow.send(id, runs, &mut rx, cid, after)
    }
}
