//! Receives the replies of remote servers on one thread for all links, and passes each to the thread that sent the
//! request.

use std::{
    cell::RefCell,
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc::SyncSender},
};

use nbd::{
    transmit::client::{Client, Event, Failure},
    wire::ExtentFlags,
};

use super::{send::Turns, transport::Transport};
use disk::Extent;

/// Bytes per receive.
const RECEIVE: usize = 256 * 1024;
/// Receives on one link before other links have their turn.
const RECEIVES: usize = 4;
/// Minimum length in bytes of a hole that is kept as one. A shorter hole is cheaper as zeroes, and a server that sends
/// many holes of one byte would make the agent keep a piece for each.
const HOLE: u64 = 4096;
/// Maximum number of extents of one answer. Further ones are dropped, and are not needed.
const EXTENTS: usize = 64 * 1024;

thread_local! {
    /// Received bytes are parsed before the next link has its turn, so links need no buffers of their own.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The state of a link that the requesting threads and the reading thread share.
#[derive(Debug)]
pub(super) struct Shared {
    /// The server's name in messages.
    pub(super) far: String,
    pub(super) transport: Transport,
    pub(super) state: Mutex<State>,
    pub(super) turns: Turns,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) client: Client,
    pub(super) waiting: HashMap<u64, Waiting>,
    /// Why the link has failed, if it has.
    pub(super) broken: Option<String>,
}

/// A request whose answer is not complete.
#[derive(Debug)]
pub(super) struct Waiting {
    /// The offset at which the read begins.
    pub(super) at: u64,
    pub(super) bytes: Vec<u8>,
    /// The holes in what was read: offset and length, in order of arrival.
    pub(super) holes: Vec<(u64, u64)>,
    pub(super) extents: Vec<Extent>,
    pub(super) tell: SyncSender<(Result<(), Failure>, Got)>,
}

/// The result of a request.
#[derive(Debug, Default)]
pub(super) struct Got {
    pub(super) bytes: Vec<u8>,
    pub(super) holes: Vec<(u64, u64)>,
    pub(super) extents: Vec<Extent>,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks the link as failed: from now on every request fails, and so do those in flight, even if they are still
    /// being sent.
    pub(super) fn fail(&self, why: &str) {
        let mut state = self.lock();
        if state.broken.is_none() {
            let unanswered = state.waiting.len();
            tracing::warn!(far = self.far, why, unanswered, "the far server's connection broke");
            state.broken = Some(why.to_owned());
        }
        // Waiting threads see that their sender is gone.
        state.waiting.clear();
        drop(state);
        self.transport.close();
    }
}

/// Fails the requests in flight when nothing reads the replies any more.
struct Heard(Arc<Shared>);

impl Drop for Heard {
    fn drop(&mut self) {
        self.0.fail("a bug in agent: nothing reads its replies any more");
    }
}

/// Reads the server's messages and hands out the replies, until the connection ends. `kept` contains bytes that were
/// received before.
pub(super) async fn read_replies(shared: Arc<Shared>, mut kept: Vec<u8>) {
    let shared = Heard(shared);
    let shared = &shared.0;
    let (mut first, mut receives) = (true, 0);
    loop {
        let heard = BUFFER.with_borrow_mut(|buffer| {
            // Bytes that arrived with the negotiation are parsed before more are received.
            let only_kept = std::mem::take(&mut first);
            shared.receive(&mut kept, buffer, only_kept)
        });
        match heard {
            Ok(()) => receives += 1,
            Err(Silence::Yet) => {
                receives = 0;
                if let Err(error) = shared.transport.readable().await {
                    return shared.fail(&format!("the connection failed: {error}"));
                }
            }
            Err(Silence::Ever(why)) => return shared.fail(&why),
        }
        if receives >= RECEIVES {
            receives = 0;
            tokio::task::yield_now().await;
        }
    }
}

/// Why nothing was received.
enum Silence {
    /// Nothing has arrived yet.
    Yet,
    /// Nothing more will arrive, and why.
    Ever(String),
}

impl Shared {
    /// Receives once. `kept` contains incomplete messages from before. With `only_kept` only those are parsed.
    fn receive(
        &self,
        kept: &mut Vec<u8>,
        buffer: &mut Vec<u8>,
        only_kept: bool,
    ) -> Result<(), Silence> {
        let start = kept.len();
        let room = RECEIVE.max(Client::INPUT + start);
        if buffer.len() < room {
            buffer.resize(room, 0);
        }
        buffer[..start].copy_from_slice(kept);
        let received = if only_kept {
            0
        } else {
            match self.transport.try_recv(&mut buffer[start..]) {
                Ok(0) => return Err(Silence::Ever("it closed the connection".into())),
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(Silence::Yet);
                }
                Err(error) => {
                    return Err(Silence::Ever(format!("the connection failed: {error}")));
                }
            }
        };
        let input = &buffer[..start + received];
        let eaten = self
            .take(input)
            .map_err(|violation| Silence::Ever(format!("it broke the protocol: {violation}")))?;
        kept.clear();
        kept.extend_from_slice(&input[eaten..]);
        Ok(())
    }

    /// Processes all complete messages in `input`. Returns the number of bytes used.
    fn take(&self, input: &[u8]) -> Result<usize, nbd::Violation> {
        let mut state = self.lock();
        let State { client, waiting, .. } = &mut *state;
        let mut eaten = 0;
        loop {
            let (n, event) = client.step(&input[eaten..])?;
            eaten += n;
            // The protocol's state machine has checked that the data was requested and lies within the request.
            match event {
                None => return Ok(eaten),
                Some(Event::Data { cookie, at, bytes }) => {
                    if let Some(one) = waiting.get_mut(&cookie) {
                        let from = usize::try_from(at - one.at).unwrap_or(usize::MAX);
                        if let Some(room) = one.bytes.get_mut(from..from + bytes.len()) {
                            room.copy_from_slice(bytes);
                        }
                    }
                }
                Some(Event::Hole { cookie, at, len }) => {
                    // The buffer contains zeroes from the start.
                    if let Some(one) = waiting.get_mut(&cookie).filter(|_| len >= HOLE) {
                        one.holes.push((at, len));
                    }
                }
                Some(Event::Extent { cookie, len, flags, .. }) => {
                    if let Some(one) =
                        waiting.get_mut(&cookie).filter(|one| one.extents.len() < EXTENTS)
                    {
                        let (hole, zero) =
                            (flags.contains(ExtentFlags::HOLE), flags.contains(ExtentFlags::ZERO));
                        one.extents.push(Extent { len, hole, zero });
                    }
                }
                Some(Event::Done { cookie, result }) => {
                    if let Some(one) = waiting.remove(&cookie) {
                        let Waiting { bytes, holes, extents, tell, .. } = one;
                        // Nothing waits for it only if an agent's thread has died.
                        tell.send((result, Got { bytes, holes, extents })).ok();
                    }
                }
            }
        }
    }
}
