//! One connection to a far server, with many requests under way: whoever asks waits for the answer,
//! and a thread of the link's own hands the answers out.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, IoSlice, Write},
    os::fd::AsRawFd,
    sync::{Arc, Mutex, PoisonError, mpsc::sync_channel},
    thread,
};

use nbd::{
    transmit::client::{Client, Unfit},
    wire::{CommandFlags, Errno, TransmissionFlags},
};
use nix::sys::socket::{Shutdown, shutdown};

use super::{
    greet::Greeted,
    hear::{Got, Shared, State, Waiting},
};
use crate::disk::{Answer, Disk, DiskError, Extent, Facts, Kind, Op, Piece, Slice, Turn, Verb};

/// A connection in transmission, as a disk. Ends when it is dropped.
#[derive(Debug)]
pub(super) struct Link {
    facts: Facts,
    /// The longest read or write, and the longest range of the rest, in bytes.
    longest: (u64, u64),
    /// Requests leave in one piece, one after the other.
    socket: Mutex<File>,
    shared: Arc<Shared>,
}

impl Link {
    /// `shared`: several clients have it, and a flush of one covers them all.
    pub(super) fn new(greeted: Greeted, far: String, shared: bool) -> io::Result<Self> {
        let Greeted { socket, received, client, described } = greeted;
        let flag = |flag| described.flags.contains(flag);
        let (blocks, terms) = (described.blocks, client.terms());
        let read_only = flag(TransmissionFlags::READ_ONLY);
        let facts = Facts {
            read_only,
            can_fua: flag(TransmissionFlags::SEND_FUA),
            can_flush: flag(TransmissionFlags::SEND_FLUSH),
            can_zero: flag(TransmissionFlags::SEND_WRITE_ZEROES),
            can_trim: flag(TransmissionFlags::SEND_TRIM),
            can_fast_zero: flag(TransmissionFlags::SEND_FAST_ZERO),
            can_cache: flag(TransmissionFlags::SEND_CACHE),
            can_extents: terms.allocation.is_some(),
            multi_conn: shared || flag(TransmissionFlags::CAN_MULTI_CONN),
            rotational: flag(TransmissionFlags::ROTATIONAL),
            block_minimum: blocks.minimum,
            block_preferred: blocks.preferred,
            block_maximum: blocks.maximum,
            description: described.description.clone(),
            ..Facts::plain(described.size)
        };
        let longest = (client.longest_payload(), client.longest_range());
        let state = State { client, waiting: HashMap::new(), broken: None };
        let shared = Arc::new(Shared { far, state: Mutex::new(state) });
        let (incoming, hears) = (socket.try_clone()?, Arc::clone(&shared));
        thread::Builder::new()
            .name("proxy".into())
            .spawn(move || hears.hear(incoming, &received))?;
        Ok(Self { facts, longest, socket: Mutex::new(socket), shared })
    }

    /// It has failed, and will not be better.
    pub(super) fn is_broken(&self) -> bool {
        self.shared.lock().broken.is_some()
    }

    /// Sends one request and waits for its answer.
    fn ask(
        &self,
        (verb, at, len): (Verb, u64, u64),
        payload: &[&[u8]],
        put: impl FnOnce(&mut Client, &mut Vec<u8>) -> Result<u64, Unfit>,
    ) -> Result<Got, DiskError> {
        let failed = |kind, why: String| {
            let source = Some(io::Error::other(why));
            DiskError { source, ..DiskError::new(kind, verb, (at, len)) }
        };
        let broken = |why: &str| failed(Kind::Io, format!("{}: {why}", self.shared.far));
        let (tell, told) = sync_channel(1);
        let mut socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = Vec::with_capacity(32);
        {
            let mut state = self.shared.lock();
            if let Some(why) = &state.broken {
                return Err(broken(why));
            }
            let cookie = put(&mut state.client, &mut out)
                .map_err(|unfit| failed(Kind::Invalid, unfit.to_string()))?;
            let room = if verb == Verb::Read { usize::try_from(len).unwrap_or(0) } else { 0 };
            let (bytes, holes, extents) = (vec![0; room], Vec::new(), Vec::new());
            state.waiting.insert(cookie, Waiting { at, bytes, holes, extents, tell });
        }
        let mut runs = vec![IoSlice::new(&out)];
        runs.extend(payload.iter().map(|run| IoSlice::new(run)));
        if let Err(error) = write_all(&mut socket, &mut runs) {
            self.shared.fail(&format!("the connection failed: {error}"));
        }
        drop(socket);
        match told.recv() {
            Ok((Ok(()), got)) => Ok(got),
            Ok((Err(failure), _)) => {
                Err(failed(kind_of(failure.errno), format!("{}: {failure}", self.shared.far)))
            }
            Err(_) => {
                let why = self.shared.lock().broken.clone();
                Err(broken(why.as_deref().unwrap_or("the connection ended")))
            }
        }
    }

    fn read(&self, at: u64, len: u64, answer: &mut Answer) -> Result<(), DiskError> {
        for (at, len) in pieces(at, len, self.longest.0) {
            let got = self
                .ask((Verb::Read, at, len), &[], |client, out| client.read(at, len, false, out))?;
            put_pieces(got, at, answer);
        }
        Ok(())
    }

    fn write(&self, at: u64, runs: &[&[u8]], fua: bool) -> Result<(), DiskError> {
        let all: u64 = runs.iter().map(|run| run.len() as u64).sum();
        let mut rest = runs.to_vec();
        for (at, len) in pieces(at, all, self.longest.0) {
            let payload = take_front(&mut rest, usize::try_from(len).unwrap_or(usize::MAX));
            self.ask((Verb::Write, at, len), &payload, |client, out| {
                client.write(at, len, fua, out)
            })?;
        }
        Ok(())
    }
}

impl Disk for Link {
    fn facts(&self) -> Facts {
        self.facts.clone()
    }

    fn attempt(&self, _: &mut Op<'_>, _: &mut Answer) -> Result<Turn, DiskError> {
        Ok(Turn::Later)
    }

    fn perform(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<(), DiskError> {
        let verb = op.verb();
        let ranges = |at, len| pieces(at, len, self.longest.1);
        match op {
            Op::Read { at, len } => self.read(*at, u64::from(*len), answer),
            Op::Write { at, data, fua } => self.write(*at, &data.slices(), *fua),
            Op::Flush if !self.facts.can_flush => {
                // A client was told that there is none; one that asks all the same hears the truth.
                Err(DiskError::new(Kind::Unsupported, verb, (0, 0)))
            }
            Op::Flush => self.ask((verb, 0, 0), &[], Client::flush).map(drop),
            &mut Op::Trim { at, len, fua } => ranges(at, len).try_for_each(|(at, len)| {
                let sent = |client: &mut Client, out: &mut _| client.trim(at, len, fua, out);
                self.ask((verb, at, len), &[], sent).map(drop)
            }),
            &mut Op::Zero { at, len, fua, may_trim, fast } => {
                let mut flags = CommandFlags::empty();
                flags.set(CommandFlags::FUA, fua);
                flags.set(CommandFlags::NO_HOLE, !may_trim);
                flags.set(CommandFlags::FAST_ZERO, fast);
                ranges(at, len).try_for_each(|(at, len)| {
                    let sent = |client: &mut Client, out: &mut _| client.zero(at, len, flags, out);
                    self.ask((verb, at, len), &[], sent).map(drop)
                })
            }
            &mut Op::Cache { at, len } => ranges(at, len).try_for_each(|(at, len)| {
                let sent = |client: &mut Client, out: &mut _| client.cache(at, len, out);
                self.ask((verb, at, len), &[], sent).map(drop)
            }),
            &mut Op::Extents { at, len, one } => {
                // Fewer than were asked for is an answer.
                let len = len.min(self.longest.1);
                let sent = |client: &mut Client, out: &mut _| client.extents(at, len, one, out);
                answer.extents = self.ask((verb, at, len), &[], sent)?.extents;
                cut(&mut answer.extents, len);
                Ok(())
            }
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let socket = self.socket.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut out = Vec::new();
        {
            let mut state = self.shared.lock();
            if state.broken.is_none() {
                let terms = state.client.terms().clone();
                std::mem::replace(&mut state.client, Client::new(terms)).disconnect(&mut out);
            }
        }
        // Nothing depends on it: the server sees the end of the stream too.
        socket.write_all(&out).ok();
        shutdown(socket.as_raw_fd(), Shutdown::Both).ok();
    }
}

/// A range in pieces of `most` bytes.
fn pieces(at: u64, len: u64, most: u64) -> impl Iterator<Item = (u64, u64)> {
    let most = most.max(1);
    (0..len.div_ceil(most)).map(move |i| (at + i * most, most.min(len - i * most)))
}

/// Takes `len` bytes off the front of runs.
fn take_front<'a>(runs: &mut Vec<&'a [u8]>, mut len: usize) -> Vec<&'a [u8]> {
    let mut front = Vec::new();
    let mut used = 0;
    for run in runs.iter_mut() {
        let n = run.len().min(len);
        let (head, tail) = run.split_at(n);
        if n > 0 {
            front.push(head);
        }
        *run = tail;
        len -= n;
        if !tail.is_empty() {
            break;
        }
        used += 1;
    }
    runs.drain(..used);
    front
}

/// What was read, holes as holes.
fn put_pieces(got: Got, at: u64, answer: &mut Answer) {
    let Got { bytes, mut holes, .. } = got;
    if holes.is_empty() {
        answer.pieces.push(Piece::Bytes(bytes.into()));
        return;
    }
    holes.sort_unstable();
    let len = bytes.len() as u64;
    let mut next = 0;
    let data = |from: u64, to: u64, answer: &mut Answer| {
        let within = |offset| usize::try_from(offset).unwrap_or(usize::MAX);
        if let Some(some) = bytes.get(within(from)..within(to)).filter(|some| !some.is_empty()) {
            answer.pieces.push(Piece::Bytes(Slice::from(some.to_vec())));
        }
    };
    for (begin, hole) in holes {
        let begin = begin - at;
        data(next, begin, answer);
        answer.pieces.push(Piece::Hole(hole));
        next = begin + hole;
    }
    data(next, len, answer);
}

/// The last extent may reach further than was asked.
fn cut(extents: &mut Vec<Extent>, len: u64) {
    let mut left = len;
    extents.retain_mut(|extent| {
        extent.len = extent.len.min(left);
        left -= extent.len;
        extent.len > 0
    });
}

fn write_all(socket: &mut File, runs: &mut [IoSlice<'_>]) -> io::Result<()> {
    let mut runs = runs;
    while !runs.is_empty() {
        // The kernel takes so many at once (IOV_MAX).
        let n = runs.len().min(sys_max());
        match socket.write_vectored(&runs[..n]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => IoSlice::advance_slices(&mut runs, n),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn sys_max() -> usize {
    crate::sys::socket::MAX_RUNS
}

/// The far server's word, as a disk's.
fn kind_of(errno: Errno) -> Kind {
    match errno {
        Errno::EPERM => Kind::Denied,
        Errno::ENOMEM => Kind::NoMemory,
        Errno::EINVAL => Kind::Invalid,
        Errno::ENOSPC => Kind::NoSpace,
        Errno::EOVERFLOW => Kind::TooLarge,
        Errno::ENOTSUP => Kind::Unsupported,
        Errno::ESHUTDOWN => Kind::ShutDown,
        _ => Kind::Io,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_into_pieces_that_cover_them() {
        let cut: Vec<_> = pieces(10, 25, 10).collect();
        assert_eq!(cut, [(10, 10), (20, 10), (30, 5)]);
        assert_eq!(pieces(0, 0, 10).count(), 0);
        let mut runs: Vec<&[u8]> = vec![b"abc", b"", b"defg"];
        assert_eq!(take_front(&mut runs, 4).concat(), b"abcd");
        assert_eq!(take_front(&mut runs, 9).concat(), b"efg");
        assert!(runs.is_empty());
    }

    #[test]
    fn holes_stay_holes() {
        let got = Got {
            bytes: b"ab\0\0cd\0\0".to_vec(),
            holes: vec![(106, 2), (102, 2)],
            extents: Vec::new(),
        };
        let mut answer = Answer::default();
        put_pieces(got, 100, &mut answer);
        let lens: Vec<_> = answer
            .pieces
            .iter()
            .map(|piece| (piece.len(), matches!(piece, Piece::Hole(_))))
            .collect();
        assert_eq!(lens, [(2, false), (2, true), (2, false), (2, true)]);
    }
}
