//! The data flow between a guest and its sessions: bytes of a session to the guest, bytes of the guest to a session,
//! and the device's answers.
//!
//! Every piece of work under the lock is bounded in bytes and in descriptors, since a guest can make a buffer of a
//! thousand descriptors with room for one byte.

use std::{
    collections::VecDeque,
    io::{self, IoSlice, IoSliceMut},
    time::Instant,
};

use vsock_cid::GuestCid;

use crate::{
    broken::Broken,
    connections::{AfterUnlock, Connections, Sending},
    header::{Header, Op},
    inbox::Held,
    key::Key,
    line::{ConnectionId, Line, Position, TURN},
    memory::Memory,
    queue::{For, Queue},
    ring::Ring,
};

/// Most bytes of payload in a packet, as in Linux.
const PACKET: usize = 64 * 1024;
/// Descriptors after which a piece of work ends. With the last chain there are at most 2,047, which take some 100 us.
pub(crate) const DESCRIPTORS: usize = 1024;
/// Most answers that wait for the guest to make room. At this bound the device takes no packets from the guest.
pub(crate) const ANSWERS: usize = 256;
/// Most bytes of a VM that are copied and held for its sessions. At its limit the device takes no packets from the
/// guest.
pub(crate) const COPIED: usize = 64 << 20;

/// A VM's connections, and what is held for them.
#[derive(Default)]
pub(crate) struct Flow {
    pub(crate) connections: Connections,
    pub(crate) line: Line,
    /// The number of sessions, including those whose connection the guest has ended.
    pub(crate) sessions: usize,
    /// Answers, in order. They are sent before any data.
    pub(crate) answers: VecDeque<Header>,
    pub(crate) held: Held,
    /// Bytes of `held` at which the device takes no packets from the guest.
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

/// The queue by which the guest receives, and its memory.
pub(crate) struct Rx<'a> {
    pub(crate) ring: &'a mut Ring,
    pub(crate) memory: Option<&'a Memory>,
}

impl Rx<'_> {
    /// `None` if the queue does not run.
    fn queue(&mut self) -> Option<Queue<'_>> {
        Queue::new(self.ring, self.memory)
    }
}

impl Flow {
    /// Whether too much is held for the guest or for its sessions.
    pub(crate) fn is_full(&self) -> bool {
        self.answers.len() >= ANSWERS || self.held.bytes >= self.limit
    }

    /// Removes every connection without telling the guest.
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

    /// Removes a connection at once, and gives back what it held.
    pub(crate) fn drop_connection(
        &mut self,
        key: Key,
        tx: &mut Queue<'_>,
        after: &mut AfterUnlock<'_>,
    ) -> Result<(), Broken> {
        let Some(mut state) = self.connections.remove(key) else { return Ok(()) };
        state.wake_reader(after);
        state.wake_writer(after);
        self.line.leave((key, state.id), state.position);
        state.inbox.drop_all(tx, &mut self.held)
    }

    /// Calls the next connections, as many as the guest's buffers suffice for. If there are none, asks the guest for a
    /// kick when it provides some.
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
                // It joins the line again after the guest has taken some bytes.
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

    /// Whether a connection can send now. Otherwise it joins the line and is woken when it can.
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
                    // Another connection used more buffers than were counted for its turn.
                    self.line.leave(id, state.position);
                    self.line.stay(id, left)
                }
                position @ Position::Waiting(_) => position,
            };
        }
        Ok(false)
    }

    /// Sends the answers, as far as the guest has room.
    pub(crate) fn send_answers(&mut self, rx: &mut Rx<'_>) -> Result<(), Broken> {
        self.answering = Answering::Done;
        if self.answers.is_empty() {
            self.connections.all_told();
            return Ok(());
        }
        let Some(mut queue) = rx.queue() else { return Ok(()) };
        while let Some(answer) = self.answers.front() {
            if queue.descriptors() >= DESCRIPTORS {
                self.answering = Answering::CutShort;
                break;
            }
            let Some(mut chain) = queue.pop(For::Writing)? else { break };
            // A buffer that is shorter than a header breaks the rules. Otherwise the device would ask such a driver
            // for buffers again and again.
            if chain.write(queue.memory(), &answer.bytes())? < Header::LEN {
                return Err(Broken);
            }
            queue.give_back(&chain, Header::LEN)?;
            self.answers.pop_front();
        }
        if self.answers.is_empty() {
            self.connections.all_told();
        }
        queue.notify()
    }

    pub(crate) fn receive(
        &mut self,
        id: ConnectionId,
        runs: &mut [IoSliceMut<'_>],
        tx: &mut Queue<'_>,
        cid: GuestCid,
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
        cid: GuestCid,
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

/// The rest of many runs of bytes.
struct Runs<'a, 'b> {
    runs: &'a [IoSlice<'b>],
    /// Bytes of the first run that were taken.
    at: usize,
}

impl Runs<'_, '_> {
    /// The number of bytes, or a number of at least `PACKET` if there are more.
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

    /// Takes `len` bytes off the front. There must be that many.
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
