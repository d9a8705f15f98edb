//! The connections of one VM, by the ports of both ends: what each end has sent, has room for, and has shut down.
//!
//! The counters have the names of the virtio specification, section 5.10.6.3.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    task::Waker,
};

use vsock_cid::{Cid, GuestCid};

use crate::{
    header::{self, Header, Op},
    inbox::Inbox,
    key::Key,
    line::Position,
    log::Log,
    memory::Memory,
    record::{PLACES, Record},
};

/// Most bytes that a connection holds for its session: the credit that the guest gets.
pub(crate) const BUF_ALLOC: u32 = 256 * 1024;
/// Most connections of a VM. One more is reset.
pub(crate) const MAX_CONNECTIONS: usize = 1024;
/// Most closed connections that are remembered, since the guest may not know yet that they are closed.
const MAX_CLOSED: usize = 4096;

/// The directions that the guest has shut down (VIRTIO_VSOCK_OP_SHUTDOWN). A direction stays shut down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GuestShutdown {
    Nothing,
    /// The guest sends no more.
    Sending,
    /// The guest receives no more.
    Receiving,
    Both,
}

impl GuestShutdown {
    /// With the directions of a packet's flags.
    pub(crate) fn with(self, flags: u32) -> Self {
        let sends = self.sends() && flags & header::NO_MORE_SENT == 0;
        let receives = self.receives() && flags & header::NO_MORE_RECEIVED == 0;
        match (sends, receives) {
            (true, true) => Self::Nothing,
            (false, true) => Self::Sending,
            (true, false) => Self::Receiving,
            (false, false) => Self::Both,
        }
    }

    /// Whether the guest may still send.
    pub(crate) fn sends(self) -> bool {
        matches!(self, Self::Nothing | Self::Receiving)
    }

    /// Whether the guest still receives.
    pub(crate) fn receives(self) -> bool {
        matches!(self, Self::Nothing | Self::Sending)
    }
}

/// The session's sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sending {
    Open,
    /// The last turn was so much work that other tasks of the thread run before the next turn.
    Yielding,
    /// The session sends no more.
    Finished,
}

/// The state of one connection. The session's handle to it is [`crate::Connection`].
#[derive(Debug)]
pub(crate) struct ConnectionState {
    /// Distinguishes this connection from an earlier one between the same ports.
    pub(crate) id: u64,
    pub(crate) inbox: Inbox,
    /// Bytes that the session has taken.
    pub(crate) fwd_cnt: u32,
    /// `fwd_cnt` as the guest was told last.
    pub(crate) last_fwd_cnt: u32,
    /// Bytes that were sent to the guest.
    pub(crate) tx_cnt: u32,
    /// The guest's buffer, in bytes, as the guest said last.
    pub(crate) peer_buf_alloc: u32,
    /// Bytes that the guest has taken, as the guest said last.
    pub(crate) peer_fwd_cnt: u32,
    /// What the guest has shut down.
    pub(crate) guest: GuestShutdown,
    /// What the session does with its sending.
    pub(crate) sending: Sending,
    pub(crate) reader: Option<Waker>,
    pub(crate) writer: Option<Waker>,
    /// Its place in the line of connections that send.
    pub(crate) position: Position,
    /// Its place in the record.
    place: Option<usize>,
}

impl ConnectionState {
    pub(crate) fn new(id: u64, request: &Header) -> Self {
        Self {
            id,
            inbox: Inbox::default(),
            fwd_cnt: 0,
            last_fwd_cnt: 0,
            tx_cnt: 0,
            peer_buf_alloc: request.buf_alloc,
            peer_fwd_cnt: request.fwd_cnt,
            guest: GuestShutdown::Nothing,
            sending: Sending::Open,
            reader: None,
            writer: None,
            position: Position::Outside,
            place: None,
        }
    }

    /// Bytes that the guest has room for; 0 if the guest says that it took more than was sent.
    pub(crate) fn credit(&self) -> usize {
        let under_way = self.tx_cnt.wrapping_sub(self.peer_fwd_cnt);
        self.peer_buf_alloc.saturating_sub(under_way) as usize
    }

    /// Whether a credit update is due: a quarter of the guest's credit was taken since the last one.
    pub(crate) fn owes_credit(&self) -> bool {
        self.fwd_cnt.wrapping_sub(self.last_fwd_cnt) >= BUF_ALLOC / 4
    }

    /// The header of a packet to the guest. It carries the credit.
    pub(crate) fn header(
        &mut self,
        key: Key,
        cid: GuestCid,
        op: Op,
        flags: u32,
        len: usize,
    ) -> Header {
        self.last_fwd_cnt = self.fwd_cnt;
        Header {
            src_cid: Cid::HOST.get().into(),
            dst_cid: cid.get().into(),
            src_port: key.host_port,
            dst_port: key.guest_port,
            len: u32::try_from(len).unwrap_or(u32::MAX),
            kind: header::STREAM,
            op,
            flags,
            buf_alloc: BUF_ALLOC,
            fwd_cnt: self.fwd_cnt,
        }
    }

    pub(crate) fn wake_reader(&mut self, after: &mut AfterUnlock<'_>) {
        after.wakers.extend(self.reader.take());
    }

    pub(crate) fn wake_writer(&mut self, after: &mut AfterUnlock<'_>) {
        after.wakers.extend(self.writer.take());
    }
}

/// All connections of a VM.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    pub(crate) open: HashMap<Key, ConnectionState>,
    closed: HashSet<Key>,
    /// The keys in `closed`, in the order in which the connections were closed.
    order: VecDeque<Key>,
    last_id: u64,
    recorded: Recorded,
}

/// The connections in the VM's record.
#[derive(Debug, Default)]
struct Recorded {
    record: Option<Arc<Record>>,
    free: Vec<usize>,
    /// The places of connections that have ended, while an answer that says so may not have been sent.
    ended: Vec<usize>,
}

impl Recorded {
    /// Records a connection. If all places are taken, it is not recorded: its guest has ended connections faster than
    /// it takes the answers, and would wait for nobody but itself.
    fn open(&mut self, guest_port: u32) -> Option<usize> {
        let record = self.record.as_ref()?;
        let place = self.free.pop()?;
        record.set_port(place, guest_port);
        Some(place)
    }

    fn free(&mut self, places: impl IntoIterator<Item = usize>) {
        let Some(record) = &self.record else { return };
        for place in places {
            record.clear_port(place);
            self.free.push(place);
        }
    }
}

impl Connections {
    /// Records the connections there from now on. Returns the guest's ports of those that are in it, of an earlier
    /// process. The guest has to be told of their end.
    pub(crate) fn record(&mut self, record: Arc<Record>) -> Vec<u32> {
        let (ended, ports): (Vec<_>, _) = record.ports().into_iter().unzip();
        let free = (0..PLACES).filter(|place| !ended.contains(place)).collect();
        self.recorded = Recorded { record: Some(record), free, ended };
        ports
    }

    /// Removes a connection at once. The guest is told, or knows.
    pub(crate) fn remove(&mut self, key: Key) -> Option<ConnectionState> {
        let state = self.open.remove(&key)?;
        self.recorded.ended.extend(state.place);
        Some(state)
    }

    /// All answers were sent, so the guest knows of every connection that has ended.
    pub(crate) fn all_told(&mut self) {
        if !self.recorded.ended.is_empty() {
            let ended = std::mem::take(&mut self.recorded.ended);
            self.recorded.free(ended);
        }
    }

    /// Removes all connections. Ids continue, so that an old handle never refers to a new connection.
    pub(crate) fn clear(&mut self) {
        let places = self.open.drain().filter_map(|(_, state)| state.place);
        self.recorded.ended.extend(places);
        self.all_told();
        self.closed.clear();
        self.order.clear();
    }

    /// The connection of a handle, if it still exists.
    pub(crate) fn get(&mut self, (key, id): (Key, u64)) -> Option<&mut ConnectionState> {
        self.open.get_mut(&key).filter(|state| state.id == id)
    }

    pub(crate) fn open(&mut self, key: Key, request: &Header) -> u64 {
        self.last_id += 1;
        self.forget(key);
        let mut state = ConnectionState::new(self.last_id, request);
        state.place = self.recorded.open(key.guest_port);
        self.open.insert(key, state);
        self.last_id
    }

    /// Remembers a connection that the session closed. The guest was told, but may still send.
    pub(crate) fn remember_closed(&mut self, key: Key) {
        if self.closed.insert(key) {
            self.order.push_back(key);
        }
        if self.order.len() > MAX_CLOSED
            && let Some(oldest) = self.order.pop_front()
        {
            self.closed.remove(&oldest);
        }
    }

    pub(crate) fn was_closed(&self, key: Key) -> bool {
        self.closed.contains(&key)
    }

    pub(crate) fn forget(&mut self, key: Key) {
        if self.closed.remove(&key) {
            self.order.retain(|known| *known != key);
        }
    }
}

/// What to do after the lock is released: wakers to run, a line to log, memory to unmap. Dropping it does this, so
/// declare it before the lock is taken.
pub(crate) struct AfterUnlock<'a> {
    log: &'a Log,
    pub(crate) wakers: Vec<Waker>,
    pub(crate) warning: Option<&'static str>,
    /// Memory that is no longer used. To unmap it takes time.
    pub(crate) memory: Option<Memory>,
}

impl<'a> AfterUnlock<'a> {
    pub(crate) fn new(log: &'a Log) -> Self {
        Self { log, wakers: Vec::new(), warning: None, memory: None }
    }
}

impl Drop for AfterUnlock<'_> {
    fn drop(&mut self) {
        self.wakers.drain(..).for_each(Waker::wake);
        if let Some(what) = self.warning {
            self.log.warn(format_args!("{what}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credit_survives_the_wrap_of_the_counters_and_a_lie_gives_none() {
        let header = Header::parse(&[0; Header::LEN]);
        let mut state = ConnectionState::new(1, &header);
        (state.peer_buf_alloc, state.tx_cnt, state.peer_fwd_cnt) = (100, 5, u32::MAX - 4);
        assert_eq!(state.credit(), 90);
        (state.tx_cnt, state.peer_fwd_cnt) = (5, 6);
        assert_eq!(state.credit(), 0, "the guest says that it took bytes that were never sent");
    }

    #[test]
    fn a_direction_that_the_guest_has_shut_down_stays_so() {
        let both = header::NO_MORE_SENT | header::NO_MORE_RECEIVED;
        for (flags, expected) in [
            (vec![0], GuestShutdown::Nothing),
            (vec![header::NO_MORE_SENT, 0], GuestShutdown::Sending),
            (vec![header::NO_MORE_RECEIVED, 0], GuestShutdown::Receiving),
            (vec![header::NO_MORE_SENT, header::NO_MORE_RECEIVED], GuestShutdown::Both),
            (vec![both, 0], GuestShutdown::Both),
        ] {
            let shut = flags.iter().fold(GuestShutdown::Nothing, |shut, &flags| shut.with(flags));
            assert_eq!(shut, expected, "{flags:?}");
        }
    }

    #[test]
    fn a_bounded_number_of_closed_connections_is_remembered() {
        let mut connections = Connections::default();
        for guest_port in 0..10_000 {
            connections.remember_closed(Key { guest_port, host_port: 1 });
        }
        assert_eq!((connections.closed.len(), connections.order.len()), (MAX_CLOSED, MAX_CLOSED));
        assert!(connections.was_closed(Key { guest_port: 9_999, host_port: 1 }));
        connections.forget(Key { guest_port: 9_999, host_port: 1 });
        assert!(!connections.was_closed(Key { guest_port: 9_999, host_port: 1 }));
    }
}
