//! One connection to a remote server, with many requests in flight. The thread that sends a request waits for its
//! reply. One thread receives the replies of all links (`reader`).

use std::{
    io,
    ops::Range,
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, sync_channel},
    },
    time::Duration,
};

use human::chain;
use nbd::wire::{BASE_ALLOCATION, CommandFlags, Errno, TransmissionFlags};
use nbd_client::{Client, Done, Order, Timeout, Verb as Sent, connect::Connected};

use super::{
    asker::{Asker, LOOK},
    dirty::Account,
    pieces::{extents, pieces, put_pieces, take_front},
    reader::{NotSent, Shared},
};
use disk::{Answer, DiskError, DiskInfo, Kind, Op, Progress, Verb, in_pieces, room, zeroed};

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
        // The timeout of the client is not used: `Asker` says how long to wait.
        let client = Client::over(far.clone(), connected, Timeout::default())
            .map_err(|error| io::Error::other(chain(&error).to_string()))?;
        let (described, terms) = (client.described(), client.terms());
        let flag = |flag| described.flags.contains(flag);
        let blocks = described.blocks;
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
        let shared = Shared::start(client, far)?;
        Ok(Self { info, longest, shared_by_all, shared, account })
    }

    /// Whether it has failed. A failed link never recovers.
    pub(super) fn is_broken(&self) -> bool {
        self.shared.ended().is_some()
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

    /// Sends one request and waits for its answer, until the asker gives up. `verb` is the client's request, of which it
    /// is a part.
    fn ask(&self, by: &Asker, verb: Verb, order: Order) -> Result<Done, DiskError> {
        self.ask_with(by, verb, order, &[])
    }

    /// Like `ask`, with the bytes of a write.
    fn ask_with(
        &self,
        by: &Asker,
        verb: Verb,
        order: Order,
        bytes: &[&[u8]],
    ) -> Result<Done, DiskError> {
        let range = (order.at, order.len);
        let failed = |kind, why: String| {
            let source = Some(io::Error::other(why));
            DiskError { source, ..DiskError::new(kind, verb, range) }
        };
        let broken = |why: &str| failed(Kind::Io, format!("{}: {why}", self.shared.far));
        let given_up = || {
            self.give_up(by);
            broken("it did not answer in time")
        };
        if by.is_over() {
            return Err(given_up());
        }
        let (tell, told) = sync_channel(1);
        let tag = self.shared.send(order, bytes, tell).map_err(|error| match error {
            NotSent::Ended(why) => broken(&why),
            NotSent::Unfit(error) => failed(Kind::Invalid, chain(&error).to_string()),
        })?;
        loop {
            match told.recv_timeout(LOOK) {
                Err(RecvTimeoutError::Timeout) if by.is_over() => {
                    self.shared.give_up(tag);
                    return Err(given_up());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    let why = self.shared.ended();
                    return Err(broken(why.as_deref().unwrap_or("the connection ended")));
                }
                Ok(done) => {
                    by.answered();
                    return match done.result {
                        Ok(()) => Ok(done),
                        Err(failure) => {
                            let why = format!("{}: {failure}", self.shared.far);
                            Err(failed(kind_of(failure.errno), why))
                        }
                    };
                }
            }
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
            // Allocated before the request is sent, so that the answer can be stored.
            let room = zeroed(usize::try_from(len).unwrap_or(usize::MAX))
                .map_err(|lack| lack.of(Verb::Read, (at, len)))?;
            put_pieces(self.ask(by, Verb::Read, Order::read(at, len, room))?, answer);
        }
        Ok(())
    }

    fn write(&self, by: &Asker, at: u64, mut rest: Vec<&[u8]>, fua: bool) -> Result<(), DiskError> {
        let all: u64 = rest.iter().map(|run| run.len() as u64).sum();
        for (at, len) in pieces(at, all, self.longest.0) {
            let payload = take_front(&mut rest, usize::try_from(len).unwrap_or(usize::MAX));
            // For what is not sent at once. A request that was given up is still sent, because others follow.
            let room = room(usize::try_from(len).unwrap_or(usize::MAX))
                .map_err(|lack| lack.of(Verb::Write, (at, len)))?;
            let order = Order { len, ..Order::write(at, room, fua) };
            self.ask_with(by, Verb::Write, order, &payload)?;
        }
        Ok(())
    }

    /// Makes durable all writes that were answered on this link.
    pub(super) fn flush(&self, by: &Asker) -> Result<(), DiskError> {
        let mark = self.account.mark();
        self.ask(by, Verb::Flush, Order::bare(Sent::Flush, 0, 0))?;
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
        match op {
            Op::Read { at, len } => self.read(by, *at, u64::from(*len), answer)?,
            Op::Write { at, data, fua } => self.write(by, *at, data.slices(), *fua)?,
            Op::Flush | Op::Settle if !self.info.can_flush => {
                // The client was told that flushes are not supported.
                return Err(DiskError::new(Kind::Unsupported, verb, (0, 0)));
            }
            Op::Flush | Op::Settle => self.flush(by)?,
            &mut Op::Trim { at, len, fua } => {
                return self.in_pieces(by, verb, at..at + len, Sent::Trim { fua });
            }
            &mut Op::Zero { at, len, fua, may_trim, fast } => {
                let mut flags = CommandFlags::empty();
                flags.set(CommandFlags::FUA, fua);
                flags.set(CommandFlags::NO_HOLE, !may_trim);
                flags.set(CommandFlags::FAST_ZERO, fast);
                return self.in_pieces(by, verb, at..at + len, Sent::Zero(flags));
            }
            &mut Op::Cache { at, len } => {
                return self.in_pieces(by, verb, at..at + len, Sent::Cache);
            }
            &mut Op::Extents { at, len, one } => {
                // An answer may cover less than the requested range.
                let len = len.min(self.longest.1);
                let done = self.ask(by, verb, Order::bare(Sent::Extents { one }, at, len))?;
                answer.extents = extents(&done.extents, len);
            }
        }
        Ok(Progress::Done)
    }
}

impl Link {
    fn in_pieces(
        &self,
        by: &Asker,
        verb: Verb,
        range: Range<u64>,
        sent: Sent,
    ) -> Result<Progress, DiskError> {
        in_pieces(range, self.longest.1, |piece| {
            let order = Order::bare(sent, piece.start, piece.end - piece.start);
            self.ask(by, verb, order).map(drop)
        })
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.account.close(self.is_broken());
        self.shared.close();
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
