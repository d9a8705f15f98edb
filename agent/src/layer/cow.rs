//! Keeps writes in an overlay, and only reads the disk below: nbdkit-cow-filter(1).
//!
//! All connections to a disk share one overlay, for as long as the agent runs and the disk is the same (`overlays`).
//! The overlay ends with the agent, so a flush has nothing to make durable. It reports what the host has lost of the
//! overlay.

mod map;
mod overlay;
mod overlays;

use std::{ops::Range, path::PathBuf, sync::Arc};

use self::{
    overlay::{Content, Overlay, State},
    overlays::Overlays,
};
use super::{Entry, absolute, window};
use crate::{
    exports::{Exports, Listing, Opened, Permit},
    params::{Key, Params},
    stack::{BuildError, Stack},
};
use disk::{
    Answer, Client, Disk, DiskError, DiskInfo, Extent, Kind as DiskKind, Layer, Op, Piece,
    Progress, Turn, Verb, execute_all, in_pieces,
};

pub(super) const NAME: &str = "cow";

pub(super) const ENTRY: Entry = Entry {
    name: NAME,
    about: "Keep writes in a temporary overlay, and only read the disk",
    keys: &[
        Key::once(
            "cow-block-size",
            "SIZE",
            "Size of the blocks that are copied, 4K to 64M [default: 64K]",
        ),
        Key::once("cow-on-cache", "BOOL", "Cache requests fill the overlay [default: false]"),
        Key::once(
            "cow-on-read",
            "BOOL|/PATH",
            "Reads fill the overlay; with a path, while it exists",
        ),
    ],
    build: |params, stack, context| {
        let settings = Settings::parse(params)?;
        let overlays = Overlays::new(settings.block, Arc::clone(&context.memory));
        let overlays = Arc::new(overlays);
        let exports = Cow { below: stack.exports, settings, overlays };
        Ok(Stack { exports: Arc::new(exports), gates: stack.gates })
    },
};

#[derive(Debug, Clone)]
struct Settings {
    block: u64,
    on_cache: bool,
    on_read: OnRead,
}

#[derive(Debug, Clone)]
enum OnRead {
    Never,
    Always,
    While(PathBuf),
}

impl OnRead {
    fn is_on(&self) -> bool {
        match self {
            Self::Never => false,
            Self::Always => true,
            Self::While(path) => path.exists(),
        }
    }
}

/// Largest block, in bytes. Each partial write copies one block.
const LARGEST: u64 = 64 << 20;

impl Settings {
    fn parse(params: &Params<'_>) -> Result<Self, BuildError> {
        let block = params.size("cow-block-size")?.unwrap_or(64 << 10);
        if !block.is_power_of_two() || !(4096..=LARGEST).contains(&block) {
            let (key, what) = ("cow-block-size", "a block's size");
            let why = "write a power of two from 4K to 64M";
            return Err(params.wrong(key, &block.to_string(), what, why).into());
        }
        let on_read = match params.value("cow-on-read") {
            Some(path) if path.starts_with('/') => OnRead::While(absolute(path)),
            _ if params.switch("cow-on-read")?.unwrap_or(false) => OnRead::Always,
            _ => OnRead::Never,
        };
        Ok(Self { block, on_cache: params.switch("cow-on-cache")?.unwrap_or(false), on_read })
    }
}

#[derive(Debug)]
struct Cow {
    below: Arc<dyn Exports>,
    settings: Settings,
    overlays: Arc<Overlays>,
}

impl Exports for Cow {
    fn list<'a>(&'a self, permit: &'a Permit) -> Listing<'a> {
        self.below.list(permit)
    }

    fn open<'a>(&'a self, name: &'a str, permit: &'a Permit) -> Opened<'a> {
        Box::pin(async move {
            let below = self.below.open(name, permit).await?;
            let name = self.below.canonical(name).to_owned();
            let (overlays, settings) = (Arc::clone(&self.overlays), self.settings.clone());
            // Creating the file of the overlay may block.
            let cover = move || {
                let overlay = overlays.of(&name, &*below)?;
                Ok(Arc::new(CowDisk::new(below, overlay, settings)) as _)
            };
            permit.blocking(cover).await?
        })
    }

    fn canonical<'a>(&'a self, name: &'a str) -> &'a str {
        self.below.canonical(name)
    }
}

#[derive(Debug)]
struct CowDisk {
    below: Arc<dyn Disk>,
    overlay: Arc<Overlay>,
    client: Client,
    settings: Settings,
}

/// Who learns that a flush has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listener {
    Client,
    /// The client has gone.
    Nobody,
}

/// What a range is to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clear {
    /// A trim: the parts of blocks stay as they are.
    Advice,
    /// Zeroes everywhere; `may_trim` allows holes.
    Zeroes { may_trim: bool },
}

impl CowDisk {
    fn new(below: Arc<dyn Disk>, overlay: Arc<Overlay>, settings: Settings) -> Self {
        let client = overlay.durability.join();
        Self { below, overlay, client, settings }
    }

    /// Fails if the host has lost something of the overlay.
    fn flush(&self, listener: Listener) -> Result<Progress, DiskError> {
        let (durability, check) = (&self.overlay.durability, || self.overlay.check());
        let flushed = match listener {
            Listener::Client => durability.flush(&self.client, check),
            Listener::Nobody => durability.make_durable(check),
        };
        flushed
            .map(|()| Progress::Done)
            .map_err(|error| DiskError::from_io(Verb::Flush, (0, 0), error))
    }

    /// The bytes of a block as the disk below has them.
    fn original(&self, number: u64) -> Result<Vec<u8>, DiskError> {
        let range = self.overlay.block(number);
        // Blocks are 64 MiB at most.
        let len = u32::try_from(range.end - range.start).unwrap_or(u32::MAX);
        window::read(&*self.below, range.start, len)
    }

    fn read(&self, range: &Range<u64>, answer: &mut Answer) -> Result<(), DiskError> {
        let copy = self.settings.on_read.is_on();
        for (number, part) in self.overlay.blocks(range) {
            if copy {
                match self.overlay.fill(number, || self.original(number)) {
                    // The block can be read without a copy.
                    Err(DiskError { kind: DiskKind::NoSpace | DiskKind::NoMemory, .. }) => {}
                    filled => filled?,
                }
            }
            let len = part.end - part.start;
            match self.overlay.read(number, &part)? {
                Content::Bytes(bytes) => answer.pieces.push(Piece::Bytes(bytes.into())),
                Content::Zeroes => answer.pieces.push(Piece::Hole(len)),
                Content::Below => {
                    // A length within one block fits in 32 bits.
                    let len = u32::try_from(len).unwrap_or(u32::MAX);
                    let mut op = Op::Read { at: part.start, len };
                    execute_all(&*self.below, &mut op, answer)?;
                }
            }
        }
        Ok(())
    }

    fn write(&self, range: &Range<u64>, bytes: &[u8]) -> Result<(), DiskError> {
        for (number, part) in self.overlay.blocks(range) {
            let index = |at: u64| usize::try_from(at - range.start).unwrap_or(usize::MAX);
            let bytes = &bytes[index(part.start)..index(part.end)];
            self.overlay.write(number, &part, bytes, || self.original(number))?;
        }
        Ok(())
    }

    /// Makes whole blocks holes of the overlay, and of the rest what `clear` asks for.
    fn clear(&self, range: &Range<u64>, clear: Clear) -> Result<Progress, DiskError> {
        let (may_trim, exact) = match clear {
            Clear::Advice => (true, false),
            Clear::Zeroes { may_trim } => (may_trim, true),
        };
        if self.overlay.blocks(range).nth(MOST_BLOCKS).is_some() {
            if exact {
                return Err(DiskError::new(DiskKind::NoMemory, Verb::Zero, (range.start, 0)));
            }
            return Ok(Progress::Done);
        }
        in_pieces(range.clone(), self.overlay.block_size(), |part| {
            let number = part.start / self.overlay.block_size();
            if may_trim && part == self.overlay.block(number) {
                // A trim is advice. Without memory for the map the block stays as it is.
                self.overlay
                    .trim(number)
                    .or_else(|error| if exact { Err(error) } else { Ok(()) })?;
            } else if exact {
                let zeroes = overlay::zeroes(&part)?;
                self.overlay.write(number, &part, &zeroes, || self.original(number))?;
            }
            Ok(())
        })
    }

    fn extents(&self, range: &Range<u64>, one: bool, answer: &mut Answer) -> Result<(), DiskError> {
        let mut blocks = self.overlay.blocks(range).take(LOOKED_AT);
        let Some((first, part)) = blocks.next() else { return Ok(()) };
        let state = self.overlay.state(first);
        let same = blocks.take_while(|(number, _)| self.overlay.state(*number) == state);
        let end = same.last().map_or(part.end, |(_, part)| part.end);
        let len = end - part.start;
        match state {
            State::Below if self.below.info().can_extents => {
                // The answer may cover less than the range.
                let mut op = Op::Extents { at: part.start, len, one };
                execute_all(&*self.below, &mut op, answer)?;
            }
            State::Below | State::Here => {
                answer.extents.push(Extent { len, hole: false, zero: false });
            }
            State::Trimmed => answer.extents.push(Extent { len, hole: true, zero: true }),
        }
        Ok(())
    }
}

/// Most blocks that one request changes, because their map is in memory: 64 GiB with the default block size. A longer
/// trim does nothing, and a longer zero request is refused.
const MOST_BLOCKS: usize = 1 << 20;
/// Most blocks that one extent request looks at. This takes some milliseconds.
const LOOKED_AT: usize = 1 << 14;

impl Layer for CowDisk {
    fn below(&self) -> &dyn Disk {
        &*self.below
    }

    fn info(&self) -> DiskInfo {
        let below = self.below.info();
        let identity = below.identity.map(|below| below.and_disk(self.overlay.identity()));
        DiskInfo {
            can_cache: below.can_cache || self.settings.on_cache,
            rotational: below.rotational,
            block_preferred: below.block_preferred,
            write_cutoff: below.write_cutoff,
            description: below.description.clone(),
            can_fast_zero: false,
            // With an ephemeral disk each connection has its own disk and overlay.
            multi_conn: !below.ephemeral,
            ephemeral: below.ephemeral,
            ..DiskInfo::plain(below.size, identity)
        }
    }

    fn try_execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Turn, DiskError> {
        match *op {
            Op::Read { at, len } if matches!(self.settings.on_read, OnRead::Never) => {
                let range = at..at + u64::from(len);
                let below = |(number, _)| self.overlay.state(number) == State::Below;
                if self.overlay.blocks(&range).all(below) {
                    self.below.try_execute(op, answer)
                } else {
                    Ok(Turn::WouldBlock)
                }
            }
            _ => Ok(Turn::WouldBlock),
        }
    }

    fn execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Progress, DiskError> {
        let (at, len) = op.range();
        let range = at..at + len;
        match op {
            Op::Read { .. } => self.read(&range, answer).map(|()| Progress::Done),
            Op::Write { .. } => self.write(&range, &op.copied_data()?).map(|()| Progress::Done),
            Op::Trim { .. } => self.clear(&range, Clear::Advice),
            Op::Zero { may_trim, .. } => self.clear(&range, Clear::Zeroes { may_trim: *may_trim }),
            Op::Cache { .. } if self.settings.on_cache => {
                in_pieces(range, self.overlay.block_size(), |part| {
                    let number = part.start / self.overlay.block_size();
                    self.overlay.fill(number, || self.original(number))
                })
            }
            Op::Cache { .. } if self.below.info().can_cache => self.below.execute(op, answer),
            Op::Cache { .. } => Ok(Progress::Done),
            Op::Flush => self.flush(Listener::Client),
            Op::Settle => self.flush(Listener::Nobody),
            Op::Extents { one, .. } => self.extents(&range, *one, answer).map(|()| Progress::Done),
        }
        .map_err(|error| match error.verb {
            // An error of the overlay's file is reported for the client's request.
            Verb::Open => DiskError { verb: op.verb(), at, len, ..error },
            _ => error,
        })
    }
}

#[cfg(test)]
mod tests;
