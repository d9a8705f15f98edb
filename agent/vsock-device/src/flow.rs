//! What goes through a VM's queues: a session's bytes to the guest, the guest's to a session, and the
//! answers between them.

use std::{
    collections::VecDeque,
    io::{self, IoSlice, IoSliceMut},
    path::Path,
};

use super::{
    header::{Header, Op},
    memory::Memory,
    peers::{Key, Peers, Pending, Wakes},
    queue::{Broken, For, Mark, Queue},
    vring::Vring,
};

/// Payload of a packet at most, bytes (what Linux takes).
const PACKET: usize = 64 * 1024;
/// Bytes that one call sends: others of the VM have their turn after it.
const TURN: usize = 256 * 1024;
/// Packets that wait for the guest to make room; beyond it nothing is taken from the guest.
pub(super) const ANSWERS: usize = 256;
/// Bytes that were copied out for sessions that do not take them, in all; beyond it nothing is taken
/// from the guest.
pub(super) const COPIED: usize = 64 << 20;

/// What a VM's lock is around.
#[derive(Default)]
pub(super) struct Inner {
    pub(super) memory: Option<Memory>,
    /// What the guest receives by.
    pub(super) rx: Option<Vring>,
    /// What the guest sends by.
    pub(super) tx: Option<Vring>,
    pub(super) peers: Peers,
    /// Connections that are there, also those of which the guest knows nothing any more.
    pub(super) sessions: usize,
    /// Answers, in order; before any data.
    pub(super) answers: VecDeque<Header>,
    /// Bytes in `Pending::Copied`.
    pub(super) copied: usize,
    /// Chains in `Pending::Lent`.
    pub(super) lent: usize,
    /// Packets wait in the TX queue because too much is kept here.
    pub(super) stalled: bool,
    /// The RX queue was empty: the guest has been asked to say when it is not.
    pub(super) starved: bool,
    /// Where the TX queue was when it was stopped.
    pub(super) stopped: Option<Mark>,
    /// The VM is gone, or breaks the rules.
    pub(super) over: bool,
}

impl Inner {
    /// Too much is kept for the guest, or for its sessions.
    pub(super) fn is_full(&self) -> bool {
        self.answers.len() >= ANSWERS || self.copied >= COPIED
    }

    /// The queues run again, if they were stopped: where the guest began anew, its connections are
    /// over. The RX queue may have room.
    pub(super) fn go_on(&mut self, wakes: &mut Wakes) {
        if let (Some(tx), Some(memory), Some(stopped)) = (&self.tx, &self.memory, self.stopped) {
            let now = Queue::new(tx, memory).mark();
            self.stopped = None;
            if now != stopped {
                self.clear(wakes);
            }
        }
        if std::mem::take(&mut self.starved) {
            self.peers.open.values_mut().for_each(|peer| peer.wake_writer(wakes));
        }
    }

    /// Every connection is over; the guest is told nothing.
    pub(super) fn clear(&mut self, wakes: &mut Wakes) {
        for peer in self.peers.open.values_mut() {
            peer.wake_reader(wakes);
            peer.wake_writer(wakes);
        }
        self.peers.clear();
        self.answers.clear();
        (self.copied, self.lent, self.stalled) = (0, 0, false);
    }

    pub(super) fn fail(&mut self, path: &Path, wakes: &mut Wakes) {
        if !self.over {
            let path = path.display();
            let lost = self.memory.as_ref().is_some_and(|memory| memory.is_there().is_err());
            let what = if lost {
                "the VMM has taken memory away from its guest"
            } else {
                "the guest or the VMM breaks the rules of the vsock device"
            };
            tracing::warn!("vhost-user:{path}: {what}: its connections end");
        }
        self.clear(wakes);
        self.over = true;
    }

    /// A connection is over at once; what it held goes back.
    pub(super) fn drop_peer(&mut self, key: Key, wakes: &mut Wakes) -> Result<(), Broken> {
        let Some(mut peer) = self.peers.open.remove(&key) else { return Ok(()) };
        peer.wake_reader(wakes);
        peer.wake_writer(wakes);
        let (Some(tx), Some(memory)) = (&self.tx, &self.memory) else { return Ok(()) };
        let mut queue = Queue::new(tx, memory);
        for pending in peer.pending {
            match pending {
                Pending::Lent(chain, _) => {
                    self.lent -= 1;
                    queue.give_back(&chain, 0)?;
                }
                Pending::Copied(bytes, _) => self.copied -= bytes.len(),
            }
        }
        queue.notify()
    }

    /// What was lent is copied, and goes back.
    pub(super) fn return_all(&mut self) -> Result<(), Broken> {
        let (Some(tx), Some(memory)) = (&self.tx, &self.memory) else { return Ok(()) };
        let mut queue = Queue::new(tx, memory);
        for peer in self.peers.open.values_mut() {
            for pending in &mut peer.pending {
                let Pending::Lent(chain, left) = pending else { continue };
                let mut bytes = vec![0; *left as usize];
                chain.read(memory, &mut bytes)?;
                queue.give_back(chain, 0)?;
                self.lent -= 1;
                self.copied += bytes.len();
                *pending = Pending::Copied(bytes, 0);
            }
        }
        queue.notify()
    }

    /// May something be sent now? If not, the guest is asked to say when.
    pub(super) fn has_room(&mut self) -> Result<bool, Broken> {
        let (Some(rx), Some(memory)) = (&self.rx, &self.memory) else { return Ok(false) };
        let room = Queue::new(rx, memory).ask_for_more()?;
        // Whoever found none before still waits to be woken, though there is some now.
        self.starved |= !room;
        Ok(room && self.answers.is_empty())
    }

    /// Sends what waits, as far as there is room.
    pub(super) fn send_answers(&mut self) -> Result<(), Broken> {
        let (Some(rx), Some(memory)) = (&self.rx, &self.memory) else { return Ok(()) };
        let mut queue = Queue::new(rx, memory);
        while let Some(answer) = self.answers.front() {
            let Some(mut chain) = queue.pop(For::Writing)? else {
                self.starved = true;
                break;
            };
            // A driver whose buffers hold no packet would be asked for another for ever.
            if chain.write(memory, &answer.bytes())? < Header::LEN {
                return Err(Broken);
            }
            queue.give_back(&chain, Header::LEN)?;
            self.answers.pop_front();
        }
        queue.notify()
    }

    pub(super) fn receive(
        &mut self,
        key: Key,
        id: u64,
        runs: &mut [IoSliceMut<'_>],
        cid: u32,
    ) -> Result<io::Result<usize>, Broken> {
        let Some(peer) = self.peers.get(key, id) else { return Ok(Ok(0)) };
        if peer.pending.is_empty() {
            let ended = peer.input_ended;
            return Ok(if ended { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) });
        }
        let (Some(tx), Some(memory)) = (&self.tx, &self.memory) else { return Ok(Ok(0)) };
        let mut queue = Queue::new(tx, memory);
        let mut all = 0;
        for run in runs {
            let mut room = &mut run[..];
            while !room.is_empty() {
                let Some(next) = peer.pending.front_mut() else { break };
                let (n, done) = match next {
                    Pending::Lent(chain, left) => {
                        let n = chain.read(memory, room)?;
                        *left -= u32::try_from(n).map_err(|_| Broken)?;
                        // A chain has as much as its header says: that was checked.
                        (n, *left == 0)
                    }
                    Pending::Copied(bytes, at) => {
                        let n = room.len().min(bytes.len() - *at);
                        room[..n].copy_from_slice(&bytes[*at..*at + n]);
                        *at += n;
                        (n, *at == bytes.len())
                    }
                };
                all += n;
                room = &mut room[n..];
                if done {
                    match peer.pending.pop_front() {
                        Some(Pending::Lent(chain, _)) => {
                            self.lent -= 1;
                            queue.give_back(&chain, 0)?;
                        }
                        Some(Pending::Copied(bytes, _)) => self.copied -= bytes.len(),
                        None => {}
                    }
                }
            }
        }
        queue.notify()?;
        let taken = u32::try_from(all).map_err(|_| Broken)?;
        peer.buffered -= taken;
        peer.taken = peer.taken.wrapping_add(taken);
        if peer.owes_credit() {
            let update = peer.header(key, cid, Op::CreditUpdate, 0, 0);
            self.answers.push_back(update);
            self.send_answers()?;
        }
        Ok(Ok(all))
    }

    pub(super) fn send(
        &mut self,
        key: Key,
        id: u64,
        runs: &[IoSlice<'_>],
        cid: u32,
    ) -> Result<io::Result<usize>, Broken> {
        self.send_answers()?;
        let blocked = !self.answers.is_empty();
        let gone = || Ok(Err(io::ErrorKind::BrokenPipe.into()));
        let Some(peer) = self.peers.get(key, id) else { return gone() };
        if peer.output_ended || peer.finished {
            return gone();
        }
        let (Some(rx), Some(memory)) = (&self.rx, &self.memory) else { return gone() };
        let mut queue = Queue::new(rx, memory);
        let mut left = Runs { runs, at: 0 };
        let mut sent = 0;
        while !blocked && sent < TURN {
            let wanted = left.len().min(peer.credit()).min(PACKET);
            if wanted == 0 {
                break;
            }
            let Some(mut chain) = queue.pop(For::Writing)? else {
                self.starved = true;
                break;
            };
            let len = chain.len().saturating_sub(Header::LEN).min(wanted);
            if len == 0 {
                return Err(Broken);
            }
            let header = peer.header(key, cid, Op::Data, 0, len);
            chain.write(memory, &header.bytes())?;
            left.copy(len, |bytes| chain.write(memory, bytes).map(drop))?;
            queue.give_back(&chain, Header::LEN + len)?;
            peer.sent = peer.sent.wrapping_add(u32::try_from(len).map_err(|_| Broken)?);
            sent += len;
        }
        queue.notify()?;
        Ok(if sent > 0 { Ok(sent) } else { Err(io::ErrorKind::WouldBlock.into()) })
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
