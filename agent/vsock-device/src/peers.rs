//! The connections of one VM, by the ports of both ends: what each end has sent, has room for, and
//! has said about ending.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    task::Waker,
};

use crate::{
    header::{Header, Op},
    inbox::Inbox,
    line::Position,
    log::Log,
    memory::Memory,
};

/// What a connection keeps for its session at most, in bytes: "buf_alloc".
pub(crate) const ROOM: u32 = 256 * 1024;
/// Connections of a VM; one more is reset.
pub(crate) const MOST: usize = 1024;
/// Connections that have ended here, of which the guest may not know yet.
const PARTED: usize = 4096;

/// The guest's port and ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) theirs: u32,
    pub(crate) ours: u32,
}

impl Key {
    /// Of a packet from the guest.
    pub(crate) fn of(header: &Header) -> Self {
        Self { theirs: header.src_port, ours: header.dst_port }
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Tells it from another between the same ports.
    pub(crate) id: u64,
    pub(crate) inbox: Inbox,
    /// Bytes that the session has taken, and what of it the guest knows.
    pub(crate) taken: u32,
    pub(crate) told: u32,
    /// Bytes sent to the guest, and what it says of its room.
    pub(crate) sent: u32,
    pub(crate) their_room: u32,
    pub(crate) their_taken: u32,
    /// The guest will send no more, will take no more.
    pub(crate) input_ended: bool,
    pub(crate) output_ended: bool,
    /// The session will send no more.
    pub(crate) finished: bool,
    pub(crate) reader: Option<Waker>,
    pub(crate) writer: Option<Waker>,
    /// Its turn to send.
    pub(crate) position: Position,
    /// Its last turn was so much work that other tasks of the thread run before the next.
    pub(crate) rests: bool,
}

impl Peer {
    pub(crate) fn new(id: u64, request: &Header) -> Self {
        Self {
            id,
            inbox: Inbox::default(),
            taken: 0,
            told: 0,
            sent: 0,
            their_room: request.buf_alloc,
            their_taken: request.fwd_cnt,
            input_ended: false,
            output_ended: false,
            finished: false,
            reader: None,
            writer: None,
            position: Position::Outside,
            rests: false,
        }
    }

    /// Bytes that the guest has room for. A guest that has taken more than it was sent has none.
    pub(crate) fn credit(&self) -> usize {
        let under_way = self.sent.wrapping_sub(self.their_taken);
        self.their_room.saturating_sub(under_way) as usize
    }

    /// The guest must hear of what was taken before it has no room left that it knows of.
    pub(crate) fn owes_credit(&self) -> bool {
        self.taken.wrapping_sub(self.told) >= ROOM / 4
    }

    /// A packet of this connection to the guest.
    pub(crate) fn header(&mut self, key: Key, cid: u32, op: Op, flags: u32, len: usize) -> Header {
        self.told = self.taken;
        Header {
            src_cid: crate::HOST_CID,
            dst_cid: cid.into(),
            src_port: key.ours,
            dst_port: key.theirs,
            len: u32::try_from(len).unwrap_or(u32::MAX),
            kind: crate::header::STREAM,
            op,
            flags,
            buf_alloc: ROOM,
            fwd_cnt: self.taken,
        }
    }

    pub(crate) fn wake_reader(&mut self, after: &mut After<'_>) {
        after.wakers.extend(self.reader.take());
    }

    pub(crate) fn wake_writer(&mut self, after: &mut After<'_>) {
        after.wakers.extend(self.writer.take());
    }
}

/// All connections of a VM.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    pub(crate) open: HashMap<Key, Peer>,
    parted: HashSet<Key>,
    /// In the order in which they ended.
    order: VecDeque<Key>,
    last_id: u64,
}

impl Peers {
    /// All are over. Numbers go on, so that no old handle is one for a new connection.
    pub(crate) fn clear(&mut self) {
        self.open.clear();
        self.parted.clear();
        self.order.clear();
    }

    /// The connection that a handle is for, if it is still there.
    pub(crate) fn get(&mut self, (key, id): (Key, u64)) -> Option<&mut Peer> {
        self.open.get_mut(&key).filter(|peer| peer.id == id)
    }

    pub(crate) fn open(&mut self, key: Key, request: &Header) -> u64 {
        self.last_id += 1;
        self.forget(key);
        self.open.insert(key, Peer::new(self.last_id, request));
        self.last_id
    }

    /// It has ended here; the guest has been told and may still send.
    pub(crate) fn part(&mut self, key: Key) {
        if self.parted.insert(key) {
            self.order.push_back(key);
        }
        if self.order.len() > PARTED
            && let Some(oldest) = self.order.pop_front()
        {
            self.parted.remove(&oldest);
        }
    }

    pub(crate) fn has_parted(&self, key: Key) -> bool {
        self.parted.contains(&key)
    }

    pub(crate) fn forget(&mut self, key: Key) {
        if self.parted.remove(&key) {
            self.order.retain(|known| *known != key);
        }
    }
}

/// What is done once nothing is locked any more: declared before the lock is taken.
pub(crate) struct After<'a> {
    log: &'a Log,
    pub(crate) wakers: Vec<Waker>,
    pub(crate) warning: Option<&'static str>,
    /// To unmap it takes time.
    pub(crate) memory: Option<Memory>,
}

impl<'a> After<'a> {
    pub(crate) fn new(log: &'a Log) -> Self {
        Self { log, wakers: Vec::new(), warning: None, memory: None }
    }
}

impl Drop for After<'_> {
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
    fn credit_counts_past_the_end_of_its_numbers_and_lies_give_none() {
        let header = Header::parse(&[0; Header::LEN]);
        let mut peer = Peer::new(1, &header);
        (peer.their_room, peer.sent, peer.their_taken) = (100, 5, u32::MAX - 4);
        assert_eq!(peer.credit(), 90);
        (peer.sent, peer.their_taken) = (5, 6);
        assert_eq!(peer.credit(), 0, "it has taken what was never sent");
    }

    #[test]
    fn only_so_many_that_have_ended_are_remembered() {
        let mut peers = Peers::default();
        for theirs in 0..10_000 {
            peers.part(Key { theirs, ours: 1 });
        }
        assert_eq!((peers.parted.len(), peers.order.len()), (PARTED, PARTED));
        assert!(peers.has_parted(Key { theirs: 9_999, ours: 1 }));
        peers.forget(Key { theirs: 9_999, ours: 1 });
        assert!(!peers.has_parted(Key { theirs: 9_999, ours: 1 }));
    }
}
