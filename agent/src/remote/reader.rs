//! Receives the replies of far servers on one thread for all links, and passes each to the thread that sent the
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

/// Received at once, bytes.
const RECEIVE: usize = 256 * 1024;
/// Receives on one link before others have their turn.
const RECEIVES: usize = 4;
/// Shortest hole that stays one, bytes: a shorter one is cheaper as zeroes, and a server that sends many
/// of one byte would have the agent keep a piece for each.
const HOLE: u64 = 4096;
/// Extents of one answer; more are not kept, and not needed.
const EXTENTS: usize = 64 * 1024;

thread_local! {
    /// What is received is understood before the next link has its turn: links need no buffers of their own.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What the threads that ask and the one that reads share of a link.
#[derive(Debug)]
pub(super) struct Shared {
    /// For messages.
    pub(super) far: String,
    pub(super) transport: Transport,
    pub(super) state: Mutex<State>,
    pub(super) turns: Turns,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) client: Client,
    pub(super) waiting: HashMap<u64, Waiting>,
    /// Why nothing is answered any more.
    pub(super) broken: Option<String>,
}

/// A request whose answer is not whole.
#[derive(Debug)]
pub(super) struct Waiting {
    /// Where what was read begins.
    pub(super) at: u64,
    pub(super) bytes: Vec<u8>,
    /// What of it is a hole: offset and length, in order of arrival.
    pub(super) holes: Vec<(u64, u64)>,
    pub(super) extents: Vec<Extent>,
    pub(super) tell: SyncSender<(Result<(), Failure>, Got)>,
}

/// What came of a request.
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

    /// From here on every request fails; those under way do so now, also those that are still being sent.
    pub(super) fn fail(&self, why: &str) {
        let mut state = self.lock();
        if state.broken.is_none() {
            let unanswered = state.waiting.len();
            tracing::warn!(far = self.far, why, unanswered, "the far server's connection broke");
            state.broken = Some(why.to_owned());
        }
        // Whoever waits sees its sender gone.
        state.waiting.clear();
        drop(state);
        self.transport.close();
    }
}

/// Fails what is under way when nothing reads the replies any more.
struct Heard(Arc<Shared>);

impl Drop for Heard {
    fn drop(&mut self) {
        self.0.fail("a bug in agent: nothing reads its replies any more");
    }
}

/// Hands out what the server sends, to the end of the connection; `kept` has come already.
pub(super) async fn read_replies(shared: Arc<Shared>, mut kept: Vec<u8>) {
    let shared = Heard(shared);
    let shared = &shared.0;
    let (mut first, mut receives) = (true, 0);
    loop {
        let heard = BUFFER.with_borrow_mut(|buffer| {
            // What has come with the negotiation is understood before more is received.
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
    /// Nothing has come.
    Yet,
    /// Nothing more will, and why.
    Ever(String),
}

impl Shared {
    /// Receives once. `kept`: what was received before and is not whole. `only_kept`: only that is understood.
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

    /// Everything that can be understood of it; says how much.
    fn take(&self, input: &[u8]) -> Result<usize, nbd::Violation> {
        let mut state = self.lock();
        let State { client, waiting, .. } = &mut *state;
        let mut eaten = 0;
        loop {
            let (n, event) = client.step(&input[eaten..])?;
            eaten += n;
            // The machine has seen to it that all of it was asked for, and lies inside.
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
                    // The bytes are zeroes from the start.
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
                        // Nobody waits any more only if a thread of ours died.
                        tell.send((result, Got { bytes, holes, extents })).ok();
                    }
                }
            }
        }
    }
}
