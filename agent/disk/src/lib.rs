//! What a disk is to the engine: info, an attempt that never blocks, a request that it may begin and go on with
//! by itself, and a performance that may block.
//!
//! `session/` calls this. A `Layer` is a `Disk` around a `Disk`. Nothing here knows NBD.

mod auditor;
mod buffer;
mod closer;
mod descriptors;
mod durability;
mod error;
pub mod file;
mod full;
mod identity;
mod layer;
mod memory;
mod null;
mod ones;
mod op;
mod page;
mod pattern;
mod pieces;
mod primitives;
mod queue;
mod random;
mod ranges;
mod registry;
pub mod ring;
mod split;
mod sys;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod zeroes;

use std::{fmt, pin::Pin};

pub use buffer::{joined, room, zeroed};
pub use closer::{close, start as start_closer};
pub use durability::{Client, Durability};
pub use error::{DiskError, Kind, Verb};
pub use file::FileDisk;
pub use full::FullDisk;
pub use identity::Identity;
pub use layer::Layer;
pub use memory::{MemoryBudget, MemoryDisk};
pub use null::NullDisk;
pub use ones::OnesDisk;
pub use op::{Asked, Data, Op};
pub use page::{NoMemory, PAGE, Page, Pages, Slice};
pub use pattern::PatternDisk;
pub use pieces::{DATA_PIECE, PIECE, Progress, execute_all, in_pieces};
pub use queue::Payer;
pub use random::RandomDisk;
pub use split::SplitDisk;

/// The target of log lines about lost data. No client's share of the log suppresses them.
pub const LOSS: &str = "loss";

/// What stays true of a disk while it is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskInfo {
    /// Bytes; at most 2^63 - 1.
    pub size: u64,
    /// Writes, trims and zeroes are refused.
    pub read_only: bool,
    /// `Op::Flush` is taken: without it there is no way to make writes durable.
    pub can_flush: bool,
    /// Writes may ask to be durable before they are answered.
    pub can_fua: bool,
    /// `Op::Zero` is taken.
    pub can_zero: bool,
    /// `Op::Trim` does something.
    pub can_trim: bool,
    /// `Op::Zero` can be quicker than a write (`fast` may be asked).
    pub can_fast_zero: bool,
    /// `Op::Cache` does something.
    pub can_cache: bool,
    /// `Op::Extents` tells holes from data; otherwise all is data.
    pub can_extents: bool,
    /// A flush on one connection covers what another connection was answered.
    pub multi_conn: bool,
    /// A spinning disk, or one that gains from sequential access.
    pub rotational: bool,
    /// Smallest unit of a request in bytes: a power of two, 1 to 65536.
    pub block_minimum: u32,
    /// Smallest unit that clients are told to keep to, where it is larger than `block_minimum`,
    /// which they have to.
    pub block_advertised: u32,
    /// Longest read or write that clients are told of, in bytes.
    pub block_maximum: u32,
    /// Longest write that is answered, in bytes: a longer one ends the connection.
    pub write_cutoff: u32,
    /// Unit at which requests cost least, bytes: a power of two, at least 512.
    pub block_preferred: u32,
    /// One line for people; shown by LIST and INFO.
    pub description: Option<String>,
    /// Which disk it is, for clients that come back; `None` if that cannot be known. A layer that makes
    /// another disk of the one below has to say so.
    pub identity: Option<Identity>,
    /// The disk ends with the connection that has opened it, and no other connection sees its bytes.
    pub ephemeral: bool,
    /// A read is answered with pages that the disk keeps: nothing was copied for it.
    pub lends: bool,
}

impl DiskInfo {
    /// The facts of a plain writable disk in which everything is supported.
    pub fn plain(size: u64, identity: impl Into<Option<Identity>>) -> Self {
        Self {
            size,
            read_only: false,
            can_flush: true,
            can_fua: true,
            can_zero: true,
            can_trim: true,
            can_fast_zero: true,
            can_cache: true,
            can_extents: true,
            multi_conn: true,
            rotational: false,
            block_minimum: 1,
            block_advertised: 1,
            block_maximum: 32 << 20,
            write_cutoff: u32::MAX,
            block_preferred: 4096,
            description: None,
            identity: identity.into(),
            ephemeral: false,
            lends: false,
        }
    }
}

/// What a disk has to say; emptied by the engine before each request, and used again. After an error
/// it means nothing.
#[derive(Debug, Default)]
pub struct Answer {
    /// Of a read.
    pub pieces: Vec<Piece>,
    /// Of `Op::Extents`.
    pub extents: Vec<Extent>,
}

impl Answer {
    #[inline]
    pub fn clear(&mut self) {
        self.pieces.clear();
        self.extents.clear();
    }
}

/// A run of what was read.
#[derive(Debug)]
pub enum Piece {
    /// Bytes, lent or owned: they are sent from where they are.
    Bytes(Slice),
    /// So many bytes that are a hole and read as zeroes.
    Hole(u64),
}

impl Piece {
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(slice) => slice.len() as u64,
            Self::Hole(len) => *len,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A run of one kind of allocation (`base:allocation` of the NBD specification).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub len: u64,
    /// Not allocated.
    pub hole: bool,
    /// Reads as zeroes.
    pub zero: bool,
}

/// What an attempt came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Done; the answer is complete.
    Done,
    /// It would block: nothing has been done, nothing has been put into the answer or taken from
    /// the data. The engine calls `execute` where blocking is allowed.
    WouldBlock,
}

/// Who waits for a request that a disk has begun. It is told once, on any thread; never of an error: that is for
/// who performs the request to find.
pub trait Waiter: fmt::Debug + Send {
    /// It is done.
    fn done(self: Box<Self>, answer: Answer);

    /// It is to be performed where blocking is allowed; `pages` is a write's payload.
    fn blocks(self: Box<Self>, pages: Pages);
}

/// A disk, shared by all connections to it.
///
/// Both calls may come from many threads at once. Requests that overlap and are in flight at the
/// same time may be done in either order, but a byte is never anything but its old or new value.
pub trait Disk: Send + Sync + fmt::Debug {
    fn info(&self) -> DiskInfo;

    /// Does `op` if that takes no waiting. Called on a thread that serves other connections too.
    fn try_execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Turn, DiskError>;

    /// Does `op`, waiting as long as it takes. A trim, zero or cache request that takes long is left after a
    /// while (`in_pieces`), and the caller calls again for the rest.
    fn execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Progress, DiskError>;

    /// Whether `begin` may go on with a request by itself. Asked once by each connection.
    fn begins(&self) -> bool {
        false
    }

    /// Goes on with `op` while no thread waits for it, or has `waiter` perform it. Called on a thread that serves
    /// other connections too, after `try_execute` or in place of it. The payload of a write is in pages, and is taken
    /// from them.
    fn begin(&self, op: &mut Op<'_>, waiter: Box<dyn Waiter>) {
        waiter.blocks(op.take_pages());
    }

    /// To perform it takes microseconds as a rule, less than to wake a thread: it is better done on the connection's
    /// own thread, if it has one, or by a thread that does others of it, one after the other.
    fn is_brief(&self, _: Asked) -> bool {
        false
    }

    /// Whether `throttle` may make a request wait. Asked once by each connection: where it is false,
    /// `throttle` is never called and costs nothing.
    fn throttles(&self) -> bool {
        false
    }

    /// Waits until a request may be performed. No thread waits with it: this is for layers that are slow on purpose.
    fn throttle(&self, _: Asked) -> Throttle<'_> {
        Box::pin(std::future::ready(()))
    }

    /// Its requests wait for another machine, which may never answer: what takes long is the waiting, and not this
    /// machine's processors.
    fn is_remote(&self) -> bool {
        false
    }

    /// The client of this disk has gone, or has ended its sending: what waits for it on others, for as long as these
    /// like, may be given up. May be called more than once.
    fn client_gone(&self) {}

    /// Waits before the connection of a client that has said its last is closed. Called once, and only where
    /// `throttles`.
    fn linger(&self) -> Throttle<'_> {
        Box::pin(std::future::ready(()))
    }
}

/// A wait, on the runtime of the connection.
pub type Throttle<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;
