//! One connection to a far server, with many requests under way: whoever asks waits for the answer,
//! and a thread of the link's own hands the answers out.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, IoSlice, Write},
    os::fd::AsRawFd,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{RecvTimeoutError, sync_channel},
    },
    thread,
    time::Duration,
};

use nbd::{
    transmit::client::{Client, Unfit},
    wire::{CommandFlags, Errno, TransmissionFlags},
};
use nix::sys::socket::{MsgFlags, Shutdown, send, shutdown};

use super::{
    greet::Greeted,
    hear::{Got, Shared, State, Waiting},
    ledger::Account,
    pieces::{cut, pieces, put_pieces, take_front},
};
use disk::{Answer, Disk, DiskError, Facts, Kind, Op, Progress, Turn, Verb, in_pieces};

/// A connection in transmission, as a disk. Ends when it is dropped.
#[derive(Debug)]
pub(super) struct Link {
    facts: Facts,
    /// The longest read or write, and the longest range of the rest, in bytes.
    longest: (u64, u64),
    /// All clients have this one.
    pub(super) shared_by_all: bool,
    /// Requests leave in one piece, one after the other.
    socket: Mutex<File>,
    shared: Arc<Shared>,
    account: Account,
}

impl Link {
    /// `shared`: several clients have it, and a flush of one covers them all.
    pub(super) fn new(
        greeted: Greeted,
        far: String,
        shared: bool,
        account: Account,
    ) -> io::Result<Self> {
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
            ..Facts::plain(described.size, None)
        };
        let longest = (client.longest_payload(), client.longest_range());
        let shared_by_all = shared;
        let state = State { client, waiting: HashMap::new(), broken: None };
        let shared = Arc::new(Shared { far, state: Mutex::new(state) });
        let (incoming, hears) = (socket.try_clone()?, Arc::clone(&shared));
        thread::Builder::new()
            .name("proxy".into())
            .spawn(move || hears.hear(incoming, &received))?;
        Ok(Self { facts, longest, shared_by_all, socket: Mutex::new(socket), shared, account })
    }

    /// It has failed, and will not be better.
    pub(super) fn is_broken(&self) -> bool {
        self.shared.lock().broken.is_some()
    }

    pub(super) const fn account(&self) -> &Account {
        &self.account
    }

    /// For messages.
    pub(super) fn far(&self) -> &str {
        &self.shared.far
    }

    /// Clients were told that a flush covers what other connections were answered.
    pub(super) const fn covers_others(&self) -> bool {
        self.facts.multi_conn && self.facts.can_flush
    }

    /// Sends one request and waits for its answer.
    fn ask(
        &self,
        (verb, at, len): (Verb, u64, u64),
        payload: &[&[u8]],
        put: impl FnOnce(&mut Client, &mut Vec<u8>) -> Result<u64, Unfit>,
    ) -> Result<Got, DiskError> {
        self.ask_within(Duration::MAX, (verb, at, len), payload, put)
    }

    /// The same. A link that has not answered by then is broken.
    fn ask_within(
        &self,
        limit: Duration,
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
        let mut answered = told.recv_timeout(limit);
        if matches!(answered, Err(RecvTimeoutError::Timeout)) {
            self.shared.fail("it did not answer in time");
            answered = told.recv_timeout(Duration::ZERO);
        }
        match answered {
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

    /// Makes durable what clients of this link were answered.
    pub(super) fn flush(&self) -> Result<(), DiskError> {
        self.flush_within(Duration::MAX)
    }

    /// The same. A link that has not answered by then is broken.
    pub(super) fn flush_within(&self, limit: Duration) -> Result<(), DiskError> {
        let mark = self.account.mark();
        self.ask_within(limit, (Verb::Flush, 0, 0), &[], Client::flush)?;
        self.account.flushed(mark);
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

    fn perform(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Progress, DiskError> {
        let done = self.request(op, answer);
        if done.is_ok()
            && matches!(
                op,
                Op::Write { fua: false, .. }
                    | Op::Trim { fua: false, .. }
                    | Op::Zero { fua: false, .. }
            )
        {
            self.account.wrote();
        }
        done
    }
}

impl Link {
    fn request(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Progress, DiskError> {
        let verb = op.verb();
        let unit = self.longest.1;
        match op {
            Op::Read { at, len } => self.read(*at, u64::from(*len), answer)?,
            Op::Write { at, data, fua } => self.write(*at, &data.slices(), *fua)?,
            Op::Flush | Op::Settle if !self.facts.can_flush => {
                // A client was told that there is none; one that asks all the same hears the truth.
                return Err(DiskError::new(Kind::Unsupported, verb, (0, 0)));
            }
            Op::Flush | Op::Settle => self.flush()?,
            &mut Op::Trim { at, len, fua } => {
                return in_pieces(at..at + len, unit, |piece| {
                    let (at, len) = (piece.start, piece.end - piece.start);
                    let sent = |client: &mut Client, out: &mut _| client.trim(at, len, fua, out);
                    self.ask((verb, at, len), &[], sent).map(drop)
                });
            }
            &mut Op::Zero { at, len, fua, may_trim, fast } => {
                let mut flags = CommandFlags::empty();
                flags.set(CommandFlags::FUA, fua);
                flags.set(CommandFlags::NO_HOLE, !may_trim);
                flags.set(CommandFlags::FAST_ZERO, fast);
                return in_pieces(at..at + len, unit, |piece| {
                    let (at, len) = (piece.start, piece.end - piece.start);
                    let sent = |client: &mut Client, out: &mut _| client.zero(at, len, flags, out);
                    self.ask((verb, at, len), &[], sent).map(drop)
                });
            }
            &mut Op::Cache { at, len } => {
                return in_pieces(at..at + len, unit, |piece| {
                    let (at, len) = (piece.start, piece.end - piece.start);
                    let sent = |client: &mut Client, out: &mut _| client.cache(at, len, out);
                    self.ask((verb, at, len), &[], sent).map(drop)
                });
            }
            &mut Op::Extents { at, len, one } => {
                // Fewer than were asked for is an answer.
                let len = len.min(self.longest.1);
                let sent = |client: &mut Client, out: &mut _| client.extents(at, len, one, out);
                answer.extents = self.ask((verb, at, len), &[], sent)?.extents;
                cut(&mut answer.extents, len);
            }
        }
        Ok(Progress::Done)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.account.close(self.is_broken());
        let socket = self.socket.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut out = Vec::new();
        {
            let mut state = self.shared.lock();
            if state.broken.is_none() {
                let terms = state.client.terms().clone();
                std::mem::replace(&mut state.client, Client::new(terms)).disconnect(&mut out);
                // Not to be taken for a failure when the stream ends.
                state.broken = Some("it was closed here".into());
            }
        }
        // Nothing depends on it: the server sees the end of the stream too. A server that takes nothing
        // in is not waited for.
        send(socket.as_raw_fd(), &out, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL).ok();
        shutdown(socket.as_raw_fd(), Shutdown::Both).ok();
    }
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
