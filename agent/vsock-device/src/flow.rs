//! What goes between a guest and its sessions: a session's bytes to the guest, the guest's to a session,
//! and the answers between them.
//!
//! Every piece of work under the lock is bounded by bytes, and by descriptors: a guest can make buffers
//! of a thousand of them that have room for one byte.

use std::{
    collections::VecDeque,
    io::{self, IoSlice, IoSliceMut},
    time::Instant,
};

use crate::{
    connections::{AfterUnlock, Connections, Key, Sending},
    header::{Header, Op},
    inbox::Held,
    line::{ConnectionId, Line, Position, TURN},
    memory::Memory,
    queue::{Broken, For, Queue},
    ring::Ring,
};

/// Payload of a packet at most, bytes (what Linux takes).
const PACKET: usize = 64 * 1024;
/// Descriptors after which a piece of work ends: with the last chain at most 2,047, some 100 us.
pub(crate) const DESCRIPTORS: usize = 1024;
/// Packets that wait for the guest to make room; beyond it nothing is taken from the guest.
pub(crate) const ANSWERS: usize = 256;
/// Bytes of memory for what was copied out for sessions that do not take it, of a VM at most; beyond its
/// limit nothing is taken from the guest.
pub(crate) const COPIED: usize = 64 << 20;

/// A VM's connections, and what is kept for them.
#[derive(Default)]
pub(crate) struct Flow {
    pub(crate) connections: Connections,
    pub(crate) line: Line,
    /// Sessions that exist, also those whose connection the guest has ended.
    pub(crate) sessions: usize,
    /// Answers, in order; before any data.
    pub(crate) answers: VecDeque<Header>,
    pub(crate) held: Held,
    /// Bytes of `held` beyond which nothing is taken from the guest.
    pub(crate) limit: usize,
    pub(crate) intake: Intake,
    pub(crate) answering: Answering,
}

/// Whether packets are taken off the TX queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Intake {
    #[default]
    Open,
    /// Packets wait in the TX queue, because too much is held for the guest or for its sessions.
    Stalled,
}

/// How the last attempt to send the answers ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Answering {
    /// All were sent, or the guest has no room for more.
    #[default]
    Done,
    /// It was cut short after many descriptors. The device's thread sends the rest.
    CutShort,
}

/// The queue that the guest receives by, as it is now.
pub(crate) struct Rx<'a> {
    pub(crate) ring: &'a mut Ring,
    pub(crate) memory: Option<&'a Memory>,
}

impl Rx<'_> {
    /// None if it does not run.
    fn queue(&mut self) -> Option<Queue<'_>> {
        Queue::new(self.ring, self.memory)
    }
}

impl Flow {
    /// Too much is kept for the guest, or for its sessions.
    pub(crate) fn is_full(&self) -> bool {
        self.answers.len() >= ANSWERS || self.held.bytes >= self.limit
    }

    /// Every connection is over; the guest is told nothing.
    pub(crate) fn clear(&mut self, after: &mut AfterUnlock<'_>) {
        for state in self.connections.open.values_mut() {
            state.wake_reader(after);
            state.wake_writer(after);
        }
        self.connections.clear();
        self.line.clear();
        self.answers.clear();
        self.held = Held::default();
        (self.intake, self.answering) = (Intake::Open, Answering::Done);
    }

    /// A connection is over at once; what it held goes back.
    pub(crate) fn drop_connection(
        &mut self,
        key: Key,
        tx: &mut Queue<'_>,
        after: &mut AfterUnlock<'_>,
    ) -> Result<(), Broken> {
        let Some(mut state) = self.connections.open.remove(&key) else { return Ok(()) };
        state.wake_reader(after);
        state.wake_writer(after);
        self.line.leave((key, state.id), state.position);
        state.inbox.drop_all(tx, &mut self.held)
    }

    /// Calls the next connections, as many as there is room for. If there is none, asks the guest for a kick
    /// when it provides some.
    pub(crate) fn call_next(
        &mut self,
        rx: &mut Rx<'_>,
        after: &mut AfterUnlock<'_>,
    ) -> Result<(), Broken> {
        if !self.line.has_waiting() || !self.answers.is_empty() {
            return Ok(());
        }
        let Some(mut queue) = rx.queue() else { return Ok(()) };
        let mut buffers = queue.available()?;
        if buffers == 0 && queue.ask_for_more()? {
            buffers = queue.available()?;
        }
        let now = Instant::now();
        while let Some(id) = self.line.next(buffers, now) {
            let Some(state) = self.connections.get(id) else { continue };
            state.position = match state.position {
                // It comes back when the guest has taken something.
                _ if state.credit() == 0 => Position::Outside,
                Position::Waiting(left) => self.line.call(id, left, now),
                position => position,
            };
            if state.position != Position::Outside || !state.guest.receives() {
                state.wake_writer(after);
            }
        }
        Ok(())
    }

    /// Whether it is this connection's turn.
    fn may_send(&mut self, id: ConnectionId) -> bool {
        match self.connections.get(id).map(|state| state.position) {
            Some(Position::Called(_)) => true,
            Some(Position::Outside) => self.line.is_empty(),
            Some(Position::Waiting(_)) | None => false,
        }
    }

    /// A connection that wants to send: true if it can do so now. Else it is woken when it can.
    pub(crate) fn wants_room(
        &mut self,
        id: ConnectionId,
        rx: &mut Rx<'_>,
        after: &mut AfterUnlock<'_>,
    ) -> Result<bool, Broken> {
        self.call_next(rx, after)?;
        if self.may_send(id) {
            let room = rx.queue().map_or(Ok(false), |mut queue| queue.ask_for_more())?;
            if room && self.answers.is_empty() {
                return Ok(true);
            }
        }
        if let Some(state) = self.connections.get(id) {
            state.position = match state.position {
                Position::Outside => self.line.join(id),
                Position::Called(left) => {
                    // Another connection needed more buffers than were counted for its turn.
                    self.line.leave(id, state.position);
                    self.line.stay(id, left)
                }
                position @ Position::Waiting(_) => position,
            };
        }
        Ok(false)
    }

    /// Sends what waits, as far as there is room.
    pub(crate) fn send_answers(&mut self, rx: &mut Rx<'_>) -> Result<(), Broken> {
        self.answering = Answering::Done;
        if self.answers.is_empty() {
            return Ok(());
        }
        let Some(mut queue) = rx.queue() else { return Ok(()) };
        while let Some(answer) = self.answers.front() {
            if queue.descriptors() >= DESCRIPTORS {
                self.answering = Answering::CutShort;
                break;
            }
            let Some(mut chain) = queue.pop(For::Writing)? else { break };
            // A driver whose buffers hold no packet would be asked for another for ever.
            if chain.write(queue.memory(), &answer.bytes())? < Header::LEN {
                return Err(Broken);
            }
            queue.give_back(&chain, Header::LEN)?;
            self.answers.pop_front();
        }
        queue.notify()
    }

    pub(crate) fn receive(
        &mut self,
        id: ConnectionId,
        runs: &mut [IoSliceMut<'_>],
        tx: &mut Queue<'_>,
        cid: u32,
    ) -> Result<io::Result<usize>, Broken> {
        let Some(state) = self.connections.get(id) else { return Ok(Ok(0)) };
        if state.inbox.is_empty() {
            let open = state.guest.sends();
            return Ok(if open { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(0) });
        }
        let taken = state.inbox.take(runs, tx, &mut self.held)?;
        state.fwd_cnt = state.fwd_cnt.wrapping_add(taken);
        if state.owes_credit() {
            let update = state.header(id.0, cid, Op::CreditUpdate, 0, 0);
            self.answers.push_back(update);
        }
        Ok(Ok(usize::try_from(taken).map_err(|_| Broken)?))
    }

    pub(crate) fn send(
        &mut self,
        id: ConnectionId,
        runs: &[IoSlice<'_>],
        rx: &mut Rx<'_>,
        cid: u32,
        after: &mut AfterUnlock<'_>,
    ) -> Result<io::Result<usize>, Broken> {
        self.send_answers(rx)?;
        let gone = || Ok(Err(io::ErrorKind::BrokenPipe.into()));
        let later = || Ok(Err(io::ErrorKind::WouldBlock.into()));
        let Some(state) = self.connections.get(id) else { return gone() };
        if !state.guest.receives() || state.sending == Sending::Finished {
            return gone();
        }
        if state.sending == Sending::Yielding || !self.answers.is_empty() {
            return later();
        }
        self.call_next(rx, after)?;
        if !self.may_send(id) {
            return later();
        }
        let Some(mut queue) = rx.queue() else { return later() };
        let Some(state) = self.connections.get(id) else { return gone() };
        let turn = if let Position::Called(left) = state.position { left } else { TURN };
        let mut left = Runs { runs, at: 0 };
        let (mut sent, mut starved) = (0, false);
        while sent < turn && queue.descriptors() < DESCRIPTORS {
            let wanted = left.len().min(state.credit()).min(PACKET);
            if wanted == 0 {
                break;
            }
            let Some(mut chain) = queue.pop(For::Writing)? else {
                starved = true;
                break;
            };
            let room = chain.len().saturating_sub(Header::LEN);
            if room == 0 {
                return Err(Broken);
            }
            self.line.measure(room);
            let len = room.min(wanted);
            let header = state.header(id.0, cid, Op::Data, 0, len);
            chain.write(queue.memory(), &header.bytes())?;
            left.copy(len, |bytes| chain.write(queue.memory(), bytes).map(drop))?;
            queue.give_back(&chain, Header::LEN + len)?;
            state.tx_cnt = state.tx_cnt.wrapping_add(u32::try_from(len).map_err(|_| Broken)?);
            sent += len;
        }
        if queue.descriptors() >= DESCRIPTORS && sent < turn {
            state.sending = Sending::Yielding;
        }
        queue.notify()?;
        if let Position::Called(_) = state.position {
            self.line.leave(id, state.position);
            let unfinished = starved && sent < turn && state.credit() > 0;
            state.position =
                if unfinished { self.line.stay(id, turn - sent) } else { Position::Outside };
            self.call_next(rx, after)?;
        }
        if sent > 0 { Ok(Ok(sent)) } else { later() }
    }
}

/// What is left of many runs of bytes.
struct Runs<'a, 'b> {
    runs: &'a [IoSlice<'b>],
    /// Bytes of the first that are done.
    at: usize,
}

impl Runs<'_, '_> {
    /// At least as much as a packet takes, or all.
    fn len(&self) -> usize {
        let mut len = 0;
        for run in self.runs {
            len += run.len();
            if len - self.at >= PACKET {
                break;
            }
        }
        len - self.at
    }

    /// Takes `len` bytes off the front; there must be so many.
    fn copy(
        &mut self,
        mut len: usize,
        mut put: impl FnMut(&[u8]) -> Result<(), Broken>,
    ) -> Result<(), Broken> {
        while len > 0 {
            let Some((first, rest)) = self.runs.split_first() else { return Err(Broken) };
            let here = &first[self.at..];
            let n = here.len().min(len);
            put(&here[..n])?;
            len -= n;
            self.at += n;
            if self.at == first.len() {
                (self.runs, self.at) = (rest, 0);
            }
        }
        Ok(())
    }
}
