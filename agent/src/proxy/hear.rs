//! What a far server says: read by a thread of the link's own, and handed to whoever asked.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read},
    sync::{Mutex, MutexGuard, PoisonError, mpsc::SyncSender},
};

use nbd::{
    transmit::client::{Client, Event, Failure},
    wire::ExtentFlags,
};

use disk::Extent;

/// Received at once, bytes.
const RECEIVE: usize = 256 * 1024;
/// Shortest hole that stays one, bytes: a shorter one is cheaper as zeroes, and a server that sends many
/// of one byte would have the agent keep a piece for each.
const HOLE: u64 = 4096;
/// Extents of one answer; more are not kept, and not needed.
const EXTENTS: usize = 64 * 1024;

/// What the link and its thread share.
#[derive(Debug)]
pub(super) struct Shared {
    /// For messages.
    pub(super) far: String,
    pub(super) state: Mutex<State>,
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

    /// From here on every request fails; those under way do so now.
    pub(super) fn fail(&self, why: &str) {
        let mut state = self.lock();
        if state.broken.is_none() {
            let unanswered = state.waiting.len();
            tracing::warn!(far = self.far, why, unanswered, "the far server's connection broke");
            state.broken = Some(why.to_owned());
        }
        // Whoever waits sees its sender gone.
        state.waiting.clear();
    }
}

impl Shared {
    /// Hands out what the server sends, to the end of the connection.
    pub(super) fn hear(&self, mut socket: File, received: &[u8]) {
        let mut buffer = vec![0; RECEIVE.max(Client::INPUT + received.len())];
        buffer[..received.len()].copy_from_slice(received);
        let (mut start, mut end) = (0, received.len());
        let why = loop {
            match self.take(&buffer[start..end]) {
                Ok(eaten) => start += eaten,
                Err(violation) => break format!("it broke the protocol: {violation}"),
            }
            buffer.copy_within(start..end, 0);
            (start, end) = (0, end - start);
            match socket.read(&mut buffer[end..]) {
                Ok(0) => break "it closed the connection".into(),
                Ok(n) => end += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break format!("the connection failed: {error}"),
            }
        };
        self.fail(&why);
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
