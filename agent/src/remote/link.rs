//! One connection to a remote server, with many requests in flight. The thread that sends a request waits for its
//! reply. One thread receives the replies of all links (`reader`).

use std::{
    collections::HashMap,
    io::{self, IoSlice},
    sync::{
        Arc, Mutex,
        mpsc::{RecvTimeoutError, sync_channel},
    },
    time::Duration,
};

use nbd::{
    transmit::client::{Client, Unfit},
    wire::{BASE_ALLOCATION, CommandFlags, Errno, TransmissionFlags},
};
use nbd_client::connect::Connected;

use super::{
    asker::{Asker, LOOK},
    dirty::Account,
    pieces::{cut, pieces, put_pieces, take_front},
    reader::{Got, Shared, State, Waiting, read_replies},
    runtime::runtime,
    send::{Turn, Turns},
    transport::Transport,
};
use disk::{Answer, DiskError, DiskInfo, Kind, Op, Progress, Verb, in_pieces, zeroed};

/// A connection in transmission. Dropping it disconnects.
#[derive(Debug)]
pub(super) struct Link {
    info: DiskInfo,
    /// Maximum length in bytes of a read or write, and of the range of any other request.
    longest: (u64, u64),
    /// Whether all clients share this link.
    pub(super) shared_by_all: bool,
    shared: Arc<Shared>,
    account: Account,
}

impl Link {
    /// `shared` says that several clients use it. A flush of one then covers them all.
    pub(super) fn new(
        connected: Connected,
        far: String,
        shared: bool,
        account: Account,
    ) -> io::Result<Self> {
        let Connected { stream, received, machine: client, described } = connected;
        let flag = |flag| described.flags.contains(flag);
        let (blocks, terms) = (described.blocks, client.terms());
        let read_only = flag(TransmissionFlags::READ_ONLY);
        let info = DiskInfo {
            read_only,
            can_fua: flag(TransmissionFlags::SEND_FUA),
            can_flush: flag(TransmissionFlags::SEND_FLUSH),
            can_zero: flag(TransmissionFlags::SEND_WRITE_ZEROES),
            can_trim: flag(TransmissionFlags::SEND_TRIM),
            can_fast_zero: flag(TransmissionFlags::SEND_FAST_ZERO),
            can_cache: flag(TransmissionFlags::SEND_CACHE),
            can_extents: terms.context(BASE_ALLOCATION).is_some(),
            multi_conn: shared || flag(TransmissionFlags::CAN_MULTI_CONN),
            rotational: flag(TransmissionFlags::ROTATIONAL),
            block_minimum: blocks.minimum,
            block_preferred: blocks.preferred,
            block_maximum: blocks.maximum,
            description: described.description.clone(),
            ..DiskInfo::plain(described.size, None)
        };
        let longest = (client.longest_payload(), client.longest_range());
        let shared_by_all = shared;
        let runtime = runtime()?;
        let transport = {
            let _on = runtime.enter();
            Transport::new(stream)?
        };
        let state = Mutex::new(State { client, waiting: HashMap::new(), broken: None });
        let shared = Arc::new(Shared { far, transport, state, turns: Turns::default() });
        runtime.spawn(read_replies(Arc::clone(&shared), received));
        Ok(Self { info, longest, shared_by_all, shared, account })
    }

    /// Whether it has failed. A failed link never recovers.
    pub(super) fn is_broken(&self) -> bool {
        self.shared.lock().broken.is_some()
    }

    pub(super) const fn account(&self) -> &Account {
        &self.account
    }

    /// The properties of the disk for clients of this link.
    pub(super) fn info(&self) -> DiskInfo {
        self.info.clone()
    }

    /// The server's name in messages.
    pub(super) fn far(&self) -> &str {
        &self.shared.far
    }

    /// Whether clients were told that a flush covers writes on other connections.
    pub(super) const fn covers_others(&self) -> bool {
        self.info.multi_conn && self.info.can_flush
    }

    /// Sends one request and waits for its answer, until the asker gives up.
    fn ask(
        &self,
        by: &Asker,
        (verb, at, len): (Verb, u64, u64),
        payload: &[&[u8]],
        put: impl FnOnce(&mut Client, &mut Vec<u8>) -> Result<u64, Unfit>,
    ) -> Result<Got, DiskError> {
        let failed = |kind, why: String| {
            let source = Some(io::Error::other(why));
            DiskError { source, ..DiskError::new(kind, verb, (at, len)) }
        };
        let broken = |why: &str| failed(Kind::Io, format!("{}: {why}", self.shared.far));
        // Allocated before the request is sent, so that the answer can be stored.
        let room = if verb == Verb::Read { usize::try_from(len).unwrap_or(0) } else { 0 };
        let bytes = zeroed(room).map_err(|lack| lack.of(verb, (at, len)))?;
        let (tell, told) = sync_channel(1);
        let given_up = || {
            self.give_up(by);
            broken("it did not answer in time")
        };
        let turn = Turn::wait(&self.shared, by).ok_or_else(given_up)?;
        let mut out = Vec::with_capacity(32);
        let cookie = {
            let mut state = self.shared.lock();
            if let Some(why) = &state.broken {
                return Err(broken(why));
            }
            let cookie = put(&mut state.client, &mut out)
                .map_err(|unfit| failed(Kind::Invalid, unfit.to_string()))?;
            let (holes, extents) = (Vec::new(), Vec::new());
            state.waiting.insert(cookie, Waiting { at, bytes, holes, extents, tell });
            cookie
        };
        let mut runs = vec![IoSlice::new(&out)];
        runs.extend(payload.iter().map(|run| IoSlice::new(run)));
        if let Err(error) = self.send(turn, by, &mut runs) {
            self.shared.fail(&format!("the connection failed: {error}"));
        }
        loop {
            match told.recv_timeout(LOOK) {
                Err(RecvTimeoutError::Timeout) if by.is_over() => {
                    self.shared.lock().waiting.remove(&cookie);
                    return Err(given_up());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    let why = self.shared.lock().broken.clone();
                    return Err(broken(why.as_deref().unwrap_or("the connection ended")));
                }
                Ok((result, got)) => {
                    by.answered();
                    return result.map(|()| got).map_err(|failure| {
                        let why = format!("{}: {failure}", self.shared.far);
                        failed(kind_of(failure.errno), why)
                    });
                }
            }
        }
    }

    fn send(&self, turn: Turn, by: &Asker, runs: &mut [IoSlice<'_>]) -> io::Result<()> {
        match turn.send(by, runs)? {
            Some(rest) if !self.ends_with(by) => turn.leave(rest),
            _ => Ok(()),
        }
    }

    /// Whether the link is the asker's own.
    fn ends_with(&self, by: &Asker) -> bool {
        by.link == Some(self.account.number)
    }

    /// Stops waiting for an answer. This ends a link of the asker's own. A shared link continues.
    fn give_up(&self, by: &Asker) {
        if self.ends_with(by) {
            self.shared.fail("it did not answer in time, and the client has gone");
        }
    }

    fn read(&self, by: &Asker, at: u64, len: u64, answer: &mut Answer) -> Result<(), DiskError> {
        for (at, len) in pieces(at, len, self.longest.0) {
            let got = self.ask(by, (Verb::Read, at, len), &[], |client, out| {
                client.read(at, len, false, out)
            })?;
            put_pieces(got, at, answer);
        }
        Ok(())
    }

    fn write(&self, by: &Asker, at: u64, mut rest: Vec<&[u8]>, fua: bool) -> Result<(), DiskError> {
        let all: u64 = rest.iter().map(|run| run.len() as u64).sum();
        for (at, len) in pieces(at, all, self.longest.0) {
            let payload = take_front(&mut rest, usize::try_from(len).unwrap_or(usize::MAX));
            self.ask(by, (Verb::Write, at, len), &payload, |client, out| {
                client.write(at, len, fua, out)
            })?;
        }
        Ok(())
    }

    /// Makes durable all writes that were answered on this link.
    pub(super) fn flush(&self, by: &Asker) -> Result<(), DiskError> {
        let mark = self.account.mark();
        self.ask(by, (Verb::Flush, 0, 0), &[], Client::flush)?;
        self.account.flushed(mark);
        Ok(())
    }

    /// As `flush`. A link that has not answered within `limit` is broken.
    pub(super) fn flush_within(&self, limit: Duration) -> Result<(), DiskError> {
        self.flush(&Asker::within(limit, self.account.number))
    }

    /// As `Disk::execute`.
    pub(super) fn execute(
        &self,
        by: &Asker,
        op: &mut Op<'_>,
        answer: &mut Answer,
    ) -> Result<Progress, DiskError> {
        let done = self.request(by, op, answer);
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
    fn request(
        &self,
        by: &Asker,
        op: &mut Op<'_>,
        answer: &mut Answer,
    ) -> Result<Progress, DiskError> {
        let verb = op.verb();
        let unit = self.longest.1;
        match op {
            Op::Read { at, len } => self.read(by, *at, u64::from(*len), answer)?,
            Op::Write { at, data, fua } => self.write(by, *at, data.slices(), *fua)?,
            Op::Flush | Op::Settle if !self.info.can_flush => {
                // The client was told that flushes are not supported.
                return Err(DiskError::new(Kind::Unsupported, verb, (0, 0)));
            }
            Op::Flush | Op::Settle => self.flush(by)?,
            &mut Op::Trim { at, len, fua } => {
                return in_pieces(at..at + len, unit, |piece| {
                    let (at, len) = (piece.start, piece.end - piece.start);
                    let sent = |client: &mut Client, out: &mut _| client.trim(at, len, fua, out);
                    self.ask(by, (verb, at, len), &[], sent).map(drop)
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
                    self.ask(by, (verb, at, len), &[], sent).map(drop)
                });
            }
            &mut Op::Cache { at, len } => {
                return in_pieces(at..at + len, unit, |piece| {
                    let (at, len) = (piece.start, piece.end - piece.start);
                    let sent = |client: &mut Client, out: &mut _| client.cache(at, len, out);
                    self.ask(by, (verb, at, len), &[], sent).map(drop)
                });
            }
            &mut Op::Extents { at, len, one } => {
                // An answer may cover less than the requested range.
                let len = len.min(self.longest.1);
                let sent = |client: &mut Client, out: &mut _| client.extents(at, len, one, out);
                answer.extents = self.ask(by, (verb, at, len), &[], sent)?.extents;
                cut(&mut answer.extents, len);
            }
        }
        Ok(Progress::Done)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.account.close(self.is_broken());
        let mut out = Vec::new();
        {
            let mut state = self.shared.lock();
            if state.broken.is_none() {
                let terms = state.client.terms().clone();
                std::mem::replace(&mut state.client, Client::new(terms)).disconnect(&mut out);
                // So that the end of the stream is not taken for a failure.
                state.broken = Some("it was closed here".into());
            }
        }
        // The result does not matter, because the server also sees the end of the stream.
        self.shared.transport.end(&out);
    }
}

/// The kind of a disk error for an error number of the remote server.
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
