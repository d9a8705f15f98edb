//! A guest's device: the calls of its VMM, its guest and its sessions. There is one lock per VM, since each of its
//! queues is processed in order anyway.

use std::{
    fmt,
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::mpsc::Sender;
use vsock_cid::GuestCid;

use crate::{
    broken::Broken,
    connection::Connection,
    connections::{AfterUnlock, GuestShutdown, Sending},
    flow::{Answering, COPIED, Intake},
    header::{self, Op},
    inner::Inner,
    line::ConnectionId,
    log::Log,
    memory::{Memory, Quota},
    packets::{Taken, take_in},
    place::Place,
    record::Record,
    ring::Which,
};

/// A guest's device.
pub(crate) struct Device {
    /// Held while waiting for `inner`. Without it a thread that takes `inner` in a loop would get it every time, since
    /// that thread runs and the others have to be woken.
    next: Mutex<()>,
    inner: Mutex<Inner>,
    cid: GuestCid,
    port: u32,
    log: Arc<Log>,
    accepted: Sender<Connection>,
    /// Wakes the device's thread, which has work left to do for the guest.
    wake: EventFd,
    record: Option<Arc<Record>>,
}

impl Device {
    pub(crate) fn new(
        place: &Place,
        log: Arc<Log>,
        accepted: Sender<Connection>,
        quota: &Quota,
        record: Option<Arc<Record>>,
    ) -> io::Result<Self> {
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let mut inner = Inner::default();
        inner.flow.limit = quota.held(COPIED);
        let (next, inner) = (Mutex::default(), Mutex::new(inner));
        Ok(Self { next, inner, cid: place.cid, port: place.port, log, accepted, wake, record })
    }

    pub(crate) fn cid(&self) -> GuestCid {
        self.cid
    }

    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    pub(crate) fn accepted(&self) -> &Sender<Connection> {
        &self.accepted
    }

    /// Readable when the device's thread has work to do.
    pub(crate) fn wakes(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        let _next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn after(&self) -> AfterUnlock<'_> {
        AfterUnlock::new(&self.log)
    }

    pub(crate) fn set_memory(&self, memory: Memory) {
        let mut after = self.after();
        let mut inner = self.lock();
        after.memory = inner.memory.replace(memory);
    }

    pub(crate) fn set_event_idx(&self, on: bool) {
        let mut inner = self.lock();
        inner.rx.set_event_idx(on);
        inner.tx.set_event_idx(on);
    }

    pub(crate) fn set_call(&self, which: Which, call: Option<OwnedFd>) {
        self.lock().ring(which).set_call(call);
    }

    pub(crate) fn enable(&self, which: Which, on: bool) {
        self.lock().ring(which).enable(on);
    }

    /// Starts a queue. If the guest has begun anew since the queue was stopped, its connections end.
    pub(crate) fn start(&self, which: Which) {
        let mut after = self.after();
        let mut inner = self.lock();
        inner.ring(which).start();
        if which == Which::Tx
            && let Some(stopped) = inner.stopped.take()
            && stopped != inner.tx.mark()
        {
            inner.flow.clear(&mut after);
        }
    }

    /// Stops a queue, and returns its place. Chains that are held are given back first. The queue is not touched until
    /// it is started again.
    pub(crate) fn stop(&self, which: Which) -> u16 {
        let mut after = self.after();
        let mut inner = self.lock();
        if which == Which::Tx {
            if inner.return_all().is_err() {
                inner.fail(&mut after);
            }
            let mark = inner.tx.mark();
            inner.stopped = inner.stopped.or(Some(mark));
        }
        let ring = inner.ring(which);
        ring.stop();
        ring.next()
    }

    /// Puts the device into its initial state. All connections end, without a packet to the guest.
    pub(crate) fn reset(&self) {
        let mut after = self.after();
        let mut inner = self.lock();
        inner.flow.clear(&mut after);
        inner.rx.reset();
        inner.tx.reset();
        inner.stopped = None;
    }

    /// Begins to record, and continues the queues of an earlier process, after its setup was executed. Returns the
    /// number of its connections. The guest is told that they have ended.
    pub(crate) fn resume(&self) -> usize {
        let mut after = self.after();
        let mut inner = self.lock();
        let Some(record) = &self.record else { return 0 };
        let ports = inner.flow.connections.record(Arc::clone(record));
        let reset = |guest_port| header::reset_to(self.cid, guest_port, self.port);
        inner.flow.answers.extend(ports.into_iter().map(reset));
        inner.tx.record = Some(Arc::clone(record));
        if let Some(memory) = inner.memory.clone() {
            let recovered = inner.tx.recover(&memory).and_then(|()| inner.rx.recover(&memory));
            if recovered.is_err() {
                inner.fail(&mut after);
            }
        }
        inner.flow.answers.len()
    }

    /// Ends all connections and unmaps the memory, because the VM has ended.
    pub(crate) fn end(&self) {
        let mut after = self.after();
        let mut inner = self.lock();
        inner.flow.clear(&mut after);
        (inner.rx, inner.tx) = Default::default();
        after.memory = inner.memory.take();
    }

    /// Takes packets from the guest, after a kick or because packets were left. A kick also starts a ring that was
    /// reset.
    pub(crate) fn look(self: &Arc<Self>, kicked: bool) -> Taken {
        let mut after = self.after();
        let mut inner = self.lock();
        if kicked {
            inner.tx.kicked();
        }
        let taken = take_in(self, &mut inner, &mut after).unwrap_or_else(|Broken| {
            inner.fail(&mut after);
            Taken { packets: 0, more: false }
        });
        self.leave(&mut inner, &mut after);
        taken
    }

    /// Sends to the guest, after it has made room. Returns whether a connection waits for more room.
    pub(crate) fn make_room(&self, kicked: bool) -> bool {
        let mut after = self.after();
        let mut inner = self.lock();
        if kicked {
            inner.rx.kicked();
        }
        if inner.make_room(&mut after).is_err() {
            inner.fail(&mut after);
        }
        self.leave(&mut inner, &mut after);
        !inner.flow.line.is_empty()
    }

    /// For the session: receives the bytes that have arrived, as `Socket::try_recv`.
    pub(crate) fn receive(
        self: &Arc<Self>,
        id: ConnectionId,
        runs: &mut [IoSliceMut<'_>],
    ) -> io::Result<usize> {
        let mut after = self.after();
        let mut inner = self.lock();
        let Ok(received) = inner.receive(id, runs, self.cid) else {
            inner.fail(&mut after);
            return Ok(0);
        };
        self.leave(&mut inner, &mut after);
        received
    }

    /// For the session: sends as many bytes as possible, as `Socket::try_send`.
    pub(crate) fn send(&self, id: ConnectionId, runs: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut after = self.after();
        let mut inner = self.lock();
        let sent = inner.send(id, runs, self.cid, &mut after).unwrap_or_else(|Broken| {
            inner.fail(&mut after);
            Err(io::ErrorKind::BrokenPipe.into())
        });
        self.leave(&mut inner, &mut after);
        sent
    }

    pub(crate) fn poll_readable(&self, id: ConnectionId, cx: &Context<'_>) -> Poll<()> {
        let mut inner = self.lock();
        match inner.flow.connections.get(id) {
            Some(state) if state.inbox.is_empty() && state.guest.sends() => {
                state.reader = Some(cx.waker().clone());
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    pub(crate) fn poll_writable(&self, id: ConnectionId, cx: &Context<'_>) -> Poll<()> {
        let mut after = self.after();
        let mut inner = self.lock();
        let Some(state) = inner.flow.connections.get(id) else { return Poll::Ready(()) };
        if !state.guest.receives() {
            return Poll::Ready(());
        }
        if state.sending == Sending::Yielding {
            state.sending = Sending::Open;
            // The thread's other tasks run first.
            after.wakers.push(cx.waker().clone());
            return Poll::Pending;
        }
        state.writer = Some(cx.waker().clone());
        if state.credit() == 0 {
            return Poll::Pending;
        }
        match inner.wants_room(id, &mut after) {
            Ok(true) => {
                if let Some(state) = inner.flow.connections.get(id) {
                    state.writer = None;
                }
                Poll::Ready(())
            }
            Ok(false) => Poll::Pending,
            Err(Broken) => {
                inner.fail(&mut after);
                Poll::Ready(())
            }
        }
    }

    /// For the session: shuts down its sending.
    pub(crate) fn finish(&self, id: ConnectionId) {
        let mut after = self.after();
        let mut inner = self.lock();
        let cid = self.cid;
        if let Some(state) =
            inner.flow.connections.get(id).filter(|state| state.sending != Sending::Finished)
        {
            state.sending = Sending::Finished;
            let last = state.header(id.0, cid, Op::Shutdown, header::NO_MORE_SENT, 0);
            inner.flow.answers.push_back(last);
            // If the device breaks here, the next packet reports it.
            inner.send_answers().ok();
        }
        self.leave(&mut inner, &mut after);
    }

    /// For the session: closes the connection.
    pub(crate) fn close(self: &Arc<Self>, id: ConnectionId) {
        let mut after = self.after();
        let mut inner = self.lock();
        inner.flow.sessions -= 1;
        let cid = self.cid;
        let Some(state) = inner.flow.connections.get(id) else { return };
        let both = header::NO_MORE_RECEIVED | header::NO_MORE_SENT;
        let guest_has_ended = state.guest == GuestShutdown::Both;
        let (op, flags) = if guest_has_ended { (Op::Reset, 0) } else { (Op::Shutdown, both) };
        let last = state.header(id.0, cid, op, flags, 0);
        inner.flow.answers.push_back(last);
        let closed = inner.drop_connection(id.0, &mut after);
        if !guest_has_ended {
            inner.flow.connections.remember_closed(id.0);
        }
        if closed.and_then(|()| inner.make_room(&mut after)).is_err() {
            inner.fail(&mut after);
        }
        self.leave(&mut inner, &mut after);
    }

    /// Called before the lock is released: wakes the device's thread if there is work left to do.
    fn leave(&self, inner: &mut Inner, after: &mut AfterUnlock<'_>) {
        inner.bound_tables(after);
        let flow = &mut inner.flow;
        let room = flow.intake == Intake::Stalled && !flow.is_full();
        if room || flow.answering == Answering::CutShort {
            flow.intake = Intake::Open;
            // The write fails only if the thread was woken before and has not run yet.
            self.wake.write(1).ok();
        }
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("log", &self.log).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
