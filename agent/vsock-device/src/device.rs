//! What happens to the guest's packets, and what it is sent. One lock a VM: its queues are in order
//! anyway.

use std::{
    fmt,
    io::{self, IoSlice, IoSliceMut},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use tokio::sync::mpsc::Sender;
use vmm_sys_util::event::EventNotifier;

use super::{
    HOST_CID,
    connection::Connection,
    flow::{ANSWERS, Inner},
    header::{self, Header, Op},
    host::Place,
    memory::Memory,
    peers::{Key, MOST, Pending, ROOM, Wakes},
    queue::{Broken, Chain, For, Queue},
    vring::Vring,
};

/// Chains that a connection holds; what comes behind is copied, so that none starves the others.
pub(super) const LENT: usize = 8;
/// Chains that all connections of a VM hold: half of Linux's queue is everybody's.
pub(super) const ALL_LENT: usize = 64;
/// Packets from the guest that are looked at in one go, sessions being kept out: QEMU's queue has so many.
const GO: usize = 128;

/// A guest's device.
pub(super) struct Device {
    /// Whoever holds it has `inner` next. Without it a thread that takes `inner` again and again has it
    /// every time, since it is awake and the others have to be woken.
    next: Mutex<()>,
    inner: Mutex<Inner>,
    cid: u32,
    port: u32,
    path: Arc<Path>,
    accepted: Sender<Connection>,
    kick: Kick,
}

/// Wakes the device's own thread: there is room again for what the guest has sent.
pub(super) struct Kick(EventNotifier);

impl Kick {
    pub(super) fn new(notifier: EventNotifier) -> Self {
        Self(notifier)
    }

    fn wake(&self) {
        // Full only if it has been woken and has not looked yet.
        self.0.notify().ok();
    }
}

impl Device {
    pub(super) fn new(place: Place, accepted: Sender<Connection>, kick: Kick) -> Self {
        let Place { path, cid, port } = place;
        Self { next: Mutex::default(), inner: Mutex::default(), cid, port, path, accepted, kick }
    }

    pub(super) fn cid(&self) -> u32 {
        self.cid
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        let _next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_memory(&self, memory: Memory) {
        self.lock().memory = Some(memory);
    }

    /// The guest has sent something (`tx`), or has made room (`rx`).
    pub(super) fn kicked(self: &Arc<Self>, rx: &Vring, tx: &Vring) {
        loop {
            let mut wakes = Wakes::default();
            let mut inner = self.lock();
            if inner.over {
                return;
            }
            inner.rx.get_or_insert_with(|| rx.clone());
            inner.tx.get_or_insert_with(|| tx.clone());
            inner.go_on(&mut wakes);
            match self.take_in(&mut inner, &mut wakes) {
                Ok(false) => return,
                Ok(true) => {}
                Err(Broken) => return inner.fail(&self.path, &mut wakes),
            }
        }
    }

    /// The VM is stopped, or its driver ended: the queues are not touched until they are started
    /// again. What the guest has lent goes back first.
    pub(super) fn stop(&self) {
        let mut wakes = Wakes::default();
        let mut inner = self.lock();
        if inner.return_all().is_err() {
            inner.fail(&self.path, &mut wakes);
        }
        let Inner { tx, memory, .. } = &*inner;
        let mark =
            tx.as_ref().zip(memory.as_ref()).map(|(tx, memory)| Queue::new(tx, memory).mark());
        inner.stopped = inner.stopped.or(mark);
    }

    /// The guest began anew: it knows nothing of its connections.
    pub(super) fn reset(&self) {
        let mut wakes = Wakes::default();
        self.lock().clear(&mut wakes);
    }

    /// The VM is gone.
    pub(super) fn end(&self) {
        let mut wakes = Wakes::default();
        let mut inner = self.lock();
        inner.clear(&mut wakes);
        inner.over = true;
        (inner.rx, inner.tx, inner.memory) = (None, None, None);
    }

    /// Takes packets off the TX queue; true: there may be more.
    fn take_in(self: &Arc<Self>, inner: &mut Inner, wakes: &mut Wakes) -> Result<bool, Broken> {
        let (Some(tx), Some(memory)) = (inner.tx.clone(), inner.memory.clone()) else {
            return Ok(false);
        };
        let mut queue = Queue::new(&tx, &memory);
        let mut more = true;
        for _ in 0..GO {
            if inner.answers.len() >= ANSWERS {
                inner.send_answers()?;
            }
            inner.stalled = inner.is_full();
            if inner.stalled {
                more = false;
                break;
            }
            let Some(mut chain) = queue.pop(For::Reading)? else {
                more = false;
                break;
            };
            let mut bytes = [0; Header::LEN];
            let whole = chain.read(&memory, &mut bytes)? == Header::LEN;
            let header = Header::parse(&bytes);
            let kept = if whole && header.len as usize == chain.len() {
                self.packet(inner, &header, chain, &memory, wakes)?
            } else {
                Some(chain)
            };
            if let Some(chain) = kept {
                queue.give_back(&chain, 0)?;
            }
        }
        queue.notify()?;
        inner.send_answers()?;
        Ok(more)
    }

    /// One packet. Gives the chain back unless it is kept.
    fn packet(
        self: &Arc<Self>,
        inner: &mut Inner,
        header: &Header,
        chain: Chain,
        memory: &Memory,
        wakes: &mut Wakes,
    ) -> Result<Option<Chain>, Broken> {
        // Not from this guest, or not for us: as the kernel's vhost, we have not seen it.
        if header.src_cid != u64::from(self.cid) || header.dst_cid != HOST_CID {
            return Ok(Some(chain));
        }
        let key = Key::of(header);
        if header.kind != header::STREAM {
            if header.op != Op::Reset {
                inner.answers.push_back(header.reset());
            }
            return Ok(Some(chain));
        }
        if header.op == Op::Request {
            self.request(inner, header, key, wakes)?;
            return Ok(Some(chain));
        }
        let lent = inner.lent;
        let Some(peer) = inner.peers.open.get_mut(&key) else {
            let parted = inner.peers.has_parted(key);
            let wants_to_know = header.op == Op::Shutdown || !parted;
            if header.op == Op::Reset || wants_to_know && parted {
                inner.peers.forget(key);
            }
            if header.op != Op::Reset && wants_to_know {
                inner.answers.push_back(header.reset());
            }
            return Ok(Some(chain));
        };
        (peer.their_room, peer.their_taken) = (header.buf_alloc, header.fwd_cnt);
        if peer.writer.is_some() && peer.credit() > 0 {
            peer.wake_writer(wakes);
        }
        match header.op {
            Op::Data => {
                let fits = peer.buffered.checked_add(header.len).is_some_and(|all| all <= ROOM);
                if !fits || peer.input_ended || header.len == 0 {
                    tracing::debug!(path = %self.path.display(), port = key.theirs, "a guest sent more than it may");
                    inner.answers.push_back(header.reset());
                    inner.drop_peer(key, wakes)?;
                    return Ok(Some(chain));
                }
                peer.buffered += header.len;
                peer.wake_reader(wakes);
                if peer.pending.len() < LENT && lent < ALL_LENT {
                    let peer = inner.peers.open.get_mut(&key).ok_or(Broken)?;
                    peer.pending.push_back(Pending::Lent(chain, header.len));
                    inner.lent += 1;
                    return Ok(None);
                }
                let mut chain = chain;
                let mut bytes = vec![0; header.len as usize];
                chain.read(memory, &mut bytes)?;
                inner.copied += bytes.len();
                let peer = inner.peers.open.get_mut(&key).ok_or(Broken)?;
                peer.pending.push_back(Pending::Copied(bytes, 0));
                return Ok(Some(chain));
            }
            Op::CreditRequest => {
                let update = peer.header(key, self.cid, Op::CreditUpdate, 0, 0);
                inner.answers.push_back(update);
            }
            Op::Shutdown => {
                peer.input_ended |= header.flags & header::NO_MORE_SENT != 0;
                peer.output_ended |= header.flags & header::NO_MORE_RECEIVED != 0;
                peer.wake_reader(wakes);
                peer.wake_writer(wakes);
            }
            Op::CreditUpdate => {}
            Op::Reset => inner.drop_peer(key, wakes)?,
            Op::Request | Op::Response | Op::Unknown(_) => {
                inner.answers.push_back(header.reset());
                inner.drop_peer(key, wakes)?;
            }
        }
        Ok(Some(chain))
    }

    fn request(
        self: &Arc<Self>,
        inner: &mut Inner,
        header: &Header,
        key: Key,
        wakes: &mut Wakes,
    ) -> Result<(), Broken> {
        let known = inner.peers.open.contains_key(&key);
        if known {
            inner.drop_peer(key, wakes)?;
        }
        // Also those that are over and whose sessions have not noticed: a guest that connects again and
        // again would have as many of them as it likes, before everybody else's.
        if known || header.dst_port != self.port || inner.sessions >= MOST {
            inner.answers.push_back(header.reset());
            return Ok(());
        }
        let id = inner.peers.open(key, header);
        let peer = inner.peers.get(key, id).ok_or(Broken)?;
        let response = peer.header(key, self.cid, Op::Response, 0, 0);
        inner.answers.push_back(response);
        let connection = Connection::new(Arc::clone(self), key, id);
        // Dropped where nobody accepts any more: it is reset then, but not under our lock.
        if let Err(refused) = self.accepted.try_send(connection) {
            refused.into_inner().forget();
            inner.answers.pop_back();
            inner.answers.push_back(header.reset());
            inner.drop_peer(key, wakes)?;
        } else {
            inner.sessions += 1;
        }
        Ok(())
    }

    /// For the session: what is there, as `Socket::try_recv`.
    pub(super) fn receive(
        self: &Arc<Self>,
        (key, id): (Key, u64),
        runs: &mut [IoSliceMut<'_>],
    ) -> io::Result<usize> {
        let mut wakes = Wakes::default();
        let mut inner = self.lock();
        let Ok(received) = inner.receive(key, id, runs, self.cid) else {
            inner.fail(&self.path, &mut wakes);
            return Ok(0);
        };
        let n = received?;
        self.go_on(&mut inner);
        Ok(n)
    }

    /// For the session: as much as goes, as `Socket::try_send`.
    pub(super) fn send(&self, (key, id): (Key, u64), runs: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut wakes = Wakes::default();
        let mut inner = self.lock();
        inner.send(key, id, runs, self.cid).unwrap_or_else(|Broken| {
            inner.fail(&self.path, &mut wakes);
            Err(io::ErrorKind::BrokenPipe.into())
        })
    }

    pub(super) fn poll_readable(&self, (key, id): (Key, u64), cx: &Context<'_>) -> Poll<()> {
        let mut inner = self.lock();
        match inner.peers.get(key, id) {
            Some(peer) if peer.pending.is_empty() && !peer.input_ended => {
                peer.reader = Some(cx.waker().clone());
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    pub(super) fn poll_writable(&self, (key, id): (Key, u64), cx: &Context<'_>) -> Poll<()> {
        let mut wakes = Wakes::default();
        let mut inner = self.lock();
        let Some(peer) = inner.peers.get(key, id) else { return Poll::Ready(()) };
        if peer.output_ended {
            return Poll::Ready(());
        }
        let credit = peer.credit() > 0;
        peer.writer = Some(cx.waker().clone());
        if credit {
            match inner.has_room() {
                Ok(true) => {
                    if let Some(peer) = inner.peers.get(key, id) {
                        peer.writer = None;
                    }
                    return Poll::Ready(());
                }
                Ok(false) => {}
                Err(Broken) => inner.fail(&self.path, &mut wakes),
            }
        }
        Poll::Pending
    }

    /// The session sends no more.
    pub(super) fn finish(&self, (key, id): (Key, u64)) {
        let mut inner = self.lock();
        let cid = self.cid;
        if let Some(peer) = inner.peers.get(key, id).filter(|peer| !peer.finished) {
            peer.finished = true;
            let last = peer.header(key, cid, Op::Shutdown, header::NO_MORE_SENT, 0);
            inner.answers.push_back(last);
            // If it breaks here, the next packet will tell.
            inner.send_answers().ok();
        }
    }

    /// The session is over.
    pub(super) fn close(self: &Arc<Self>, (key, id): (Key, u64)) {
        let mut wakes = Wakes::default();
        let mut inner = self.lock();
        inner.sessions -= 1;
        let cid = self.cid;
        let Some(peer) = inner.peers.get(key, id) else { return };
        let both = header::NO_MORE_RECEIVED | header::NO_MORE_SENT;
        let guest_has_ended = peer.input_ended && peer.output_ended;
        let (op, flags) = if guest_has_ended { (Op::Reset, 0) } else { (Op::Shutdown, both) };
        let last = peer.header(key, cid, op, flags, 0);
        inner.answers.push_back(last);
        let closed = inner.drop_peer(key, &mut wakes);
        if !guest_has_ended {
            inner.peers.part(key);
        }
        if closed.and_then(|()| inner.send_answers()).is_err() {
            inner.fail(&self.path, &mut wakes);
        }
        self.go_on(&mut inner);
    }

    /// There is room again: the device's thread takes in what waits.
    fn go_on(&self, inner: &mut Inner) {
        if inner.stalled && !inner.is_full() {
            inner.stalled = false;
            self.kick.wake();
        }
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("path", &self.path).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
