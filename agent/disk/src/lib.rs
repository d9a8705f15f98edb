//! Disks: the trait [`Disk`] by which the agent's engine reads and writes, and the disks of memory, files and block
//! devices.
//!
//! The engine calls a disk in one of three ways: [`Disk::try_execute`] never blocks, [`Disk::begin`] starts a request
//! that completes later without a thread (io_uring), and [`Disk::execute`] may block. A [`Layer`] is a disk around a
//! disk. The crate knows nothing of NBD.
//!
//! ```
//! use disk::{Answer, Data, Disk, MemoryDisk, Op, Piece, Turn};
//!
//! let disk = MemoryDisk::new(1 << 20);
//! let mut answer = Answer::default();
//! let mut write = Op::Write { at: 0, data: Data::Bytes(b"hello"), fua: false };
//! assert_eq!(disk.try_execute(&mut write, &mut answer)?, Turn::Done);
//!
//! answer.clear();
//! assert_eq!(disk.try_execute(&mut Op::Read { at: 0, len: 5 }, &mut answer)?, Turn::Done);
//! let [Piece::Bytes(bytes)] = &answer.pieces[..] else { panic!("one piece") };
//! assert_eq!(bytes.as_ref(), b"hello");
//! # Ok::<(), disk::DiskError>(())
//! ```

mod auditor;
mod buffer;
mod closer;
mod descriptors;
mod durability;
mod error;
pub mod file;
mod full;
mod identity;
mod inode;
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

/// The target of log lines about lost data. These lines do not count against any client's share of the log.
pub const LOSS: &str = "loss";

/// The properties of a disk. They stay the same while the disk is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskInfo {
    /// The size in bytes, at most 2^63 - 1.
    pub size: u64,
    /// Whether writes, trims and zeroes are refused.
    pub read_only: bool,
    /// Whether `Op::Flush` is supported. Without it writes cannot be made durable.
    pub can_flush: bool,
    /// Whether a write may ask to be durable before it is answered.
    pub can_fua: bool,
    /// Whether `Op::Zero` is supported.
    pub can_zero: bool,
    /// Whether `Op::Trim` has an effect.
    pub can_trim: bool,
    /// Whether `Op::Zero` can be quicker than a write. Only then may `fast` be set.
    pub can_fast_zero: bool,
    /// Whether `Op::Cache` has an effect.
    pub can_cache: bool,
    /// Whether `Op::Extents` distinguishes holes from data. Otherwise everything is data.
    pub can_extents: bool,
    /// Whether a flush on one connection covers requests that were answered on other connections.
    pub multi_conn: bool,
    /// Whether sequential access is faster, as on a spinning disk.
    pub rotational: bool,
    /// The unit of requests in bytes: a power of two, 1 to 65536. Other requests are refused.
    pub block_minimum: u32,
    /// The unit of requests that is advertised to clients, in bytes, at least `block_minimum`. Requests in smaller
    /// units are not refused.
    pub block_advertised: u32,
    /// The longest read or write that is advertised to clients, in bytes.
    pub block_maximum: u32,
    /// The longest write that is answered, in bytes. A longer write ends the connection.
    pub write_cutoff: u32,
    /// The unit of requests that is cheapest, in bytes: a power of two, at least 512.
    pub block_preferred: u32,
    /// One line for people, which LIST and INFO show.
    pub description: Option<String>,
    /// The identity of the disk, for clients that reconnect; `None` if it is unknown. A layer that changes the bytes
    /// must change the identity.
    pub identity: Option<Identity>,
    /// Whether the disk ends with the connection that opened it, and no other connection sees its bytes.
    pub ephemeral: bool,
    /// Whether reads are answered with pages of the disk, without a copy.
    pub lends: bool,
}

impl DiskInfo {
    /// A writable disk that supports everything, with the block sizes 1, 4096 and 32 MiB.
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

/// The result of a request. The engine clears it before each request and reuses it. After an error its content has no
/// meaning.
#[derive(Debug, Default)]
pub struct Answer {
    /// The bytes of `Op::Read`.
    pub pieces: Vec<Piece>,
    /// The extents of `Op::Extents`.
    pub extents: Vec<Extent>,
}

impl Answer {
    /// Removes everything and keeps the memory.
    #[inline]
    pub fn clear(&mut self) {
        self.pieces.clear();
        self.extents.clear();
    }
}

/// A part of the bytes that were read.
#[derive(Debug)]
pub enum Piece {
    /// Bytes, which are sent without a copy.
    Bytes(Slice),
    /// A hole of this many bytes, which reads as zeroes.
    Hole(u64),
}

impl Piece {
    /// The number of bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(slice) => slice.len() as u64,
            Self::Hole(len) => *len,
        }
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A range with one kind of allocation (`base:allocation` of the NBD specification).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The number of bytes.
    pub len: u64,
    /// Whether it is not allocated.
    pub hole: bool,
    /// Whether it reads as zeroes.
    pub zero: bool,
}

/// The result of [`Disk::try_execute`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The request is done, and the answer is complete.
    Done,
    /// The request would block. Nothing was done, nothing was added to the answer, and no page was taken from the data.
    /// The engine calls `execute` on a thread that may block.
    WouldBlock,
}

/// Gets the result of a request that a disk has begun: one call, on any thread. Errors are not reported to it: a request
/// that fails is executed again on a thread that may block, and that reports the error.
pub trait Waiter: fmt::Debug + Send {
    /// The request is done.
    fn done(self: Box<Self>, answer: Answer);

    /// The request has to be executed on a thread that may block. `pages` is the payload of a write.
    fn blocks(self: Box<Self>, pages: Pages);
}

/// A disk, which all connections to it share.
///
/// Many threads may call it at once. Overlapping requests that are in flight at the same time may be executed in any
/// order, but a byte always has its old or its new value.
pub trait Disk: Send + Sync + fmt::Debug {
    /// The properties of the disk.
    fn info(&self) -> DiskInfo;

    /// Executes `op` if it does not block. Called on a thread that serves other connections too.
    ///
    /// # Errors
    /// [`DiskError`], if the request fails.
    fn try_execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Turn, DiskError>;

    /// Executes `op` and may block. A long trim, zero or cache request returns after a part of it ([`in_pieces`]), and
    /// the caller calls again for the rest.
    ///
    /// # Errors
    /// [`DiskError`], if the request fails.
    fn execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Progress, DiskError>;

    /// Whether `begin` may start a request that completes without a thread. Each connection asks once.
    fn begins(&self) -> bool {
        false
    }

    /// Starts `op`, which completes without a thread, or calls [`Waiter::blocks`]. Called on a thread that serves other
    /// connections too, after `try_execute` or in place of it. The payload of a write is in pages and is taken out of
    /// them.
    fn begin(&self, op: &mut Op<'_>, waiter: Box<dyn Waiter>) {
        waiter.blocks(op.take_pages());
    }

    /// Whether the request usually takes microseconds, less than waking a thread. It is then executed on the
    /// connection's own thread if it has one, or by one thread that executes the connection's requests in order.
    fn is_brief(&self, _: Asked) -> bool {
        false
    }

    /// Whether `throttle` may delay a request. Each connection asks once. If it is false, `throttle` is never called
    /// and costs nothing.
    fn throttles(&self) -> bool {
        false
    }

    /// Waits until a request may be executed, without blocking a thread: for layers that delay requests on purpose.
    fn throttle(&self, _: Asked) -> Throttle<'_> {
        Box::pin(std::future::ready(()))
    }

    /// Whether requests wait for another machine, which may never answer. They take time, but not this machine's
    /// processors.
    fn is_remote(&self) -> bool {
        false
    }

    /// Tells the disk that its client has disconnected or shut down its sending. Requests that wait for another machine
    /// may be given up. May be called more than once.
    fn client_gone(&self) {}

    /// Waits before the connection of a client that has disconnected is closed. Called once, and only if `throttles`
    /// is true.
    fn linger(&self) -> Throttle<'_> {
        Box::pin(std::future::ready(()))
    }
}

/// A wait on the runtime of the connection.
pub type Throttle<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;
