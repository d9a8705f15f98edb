//! The connections of a test, all on one thread: chooses requests, keeps those under way apart, and
//! gives every answer to the model.

use std::{collections::HashMap, ops::Range};

use nbd::{
    Uri,
    wire::{CommandFlags, TransmissionFlags},
};

use super::{
    super::CommandError,
    block::mix,
    model::{Kind, Model, Stroke, Wrong},
};
use crate::link::{Done, Link, Order, Verb, wait};

/// Longest random request, blocks; those of a fill or a check are bytes.
const LONG: u64 = 128;
const PIECE: u64 = 256 << 10;
/// More than a run makes.
const MOST_CHANGES: u32 = 1 << 24;
/// The header's first words.
const MAGIC: &str = "guest-tools test 1";

pub(super) struct Settings {
    /// Of the tested range, bytes; its first block is the header's.
    pub(super) at: u64,
    pub(super) len: u64,
    /// Of the export, bytes.
    pub(super) size: u64,
    pub(super) block: u64,
    pub(super) seed: u64,
    pub(super) connections: usize,
    /// Under way on each.
    pub(super) requests: usize,
}

/// The length, the seed and the number of the last change, which the last run has left in its header.
pub(super) fn header(block: &[u8]) -> Option<(u64, u64, u32)> {
    let end = block.iter().position(|byte| *byte == 0)?;
    let text = str::from_utf8(block.get(..end)?).ok()?;
    let mut words = text.strip_prefix(MAGIC)?.split_whitespace();
    let (len, seed) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let last = words.next()?.parse().ok().filter(|last| *last < MOST_CHANGES)?;
    Some((len, seed, last))
}

/// What is under way.
enum Under {
    Read(Range<usize>),
    Change { stroke: Stroke, fua: bool },
    Flush(Vec<Stroke>),
}

pub(super) struct Drive<'a> {
    uri: &'a Uri,
    settings: Settings,
    flags: TransmissionFlags,
    links: Vec<Link>,
    model: Model,
    under: HashMap<u64, Under>,
    random: u64,
    requests: u64,
    cuts: u64,
    /// Emptied buffers.
    spare: Vec<Vec<u8>>,
}

impl<'a> Drive<'a> {
    pub(super) fn new(uri: &'a Uri, settings: Settings) -> Result<Self, CommandError> {
        let block = usize::try_from(settings.block).unwrap_or(usize::MAX);
        let blocks = usize::try_from(settings.len / settings.block - 1).unwrap_or(usize::MAX);
        let model = Model::new(settings.seed, settings.at + settings.block, block, blocks)
            .map_err(|_| CommandError::Memory { len: settings.len, block: settings.block })?;
        let (under, random, spare) = (HashMap::new(), mix(settings.seed), Vec::new());
        let (links, flags) = (Vec::new(), TransmissionFlags::empty());
        let (requests, cuts) = (0, 0);
        let mut drive =
            Self { uri, settings, flags, links, model, under, random, requests, cuts, spare };
        drive.connect()?;
        Ok(drive)
    }

    /// All that `test --destroy` does.
    pub(super) fn all(&mut self) -> Result<(), CommandError> {
        self.fill(None)?;
        self.check()?;
        for _ in 0..3 {
            self.changes()?;
            self.flush()?;
            self.cut()?;
            self.check()?;
            // And in the middle of changes.
            self.changes_under_way()?;
            self.cut()?;
            self.check()?;
        }
        let last = self.model.begin(Kind::Data);
        self.fill(Some(last))?;
        self.write_header(last)?;
        self.flush()?;
        self.cut()?;
        self.check()
    }

    /// All that `test --read-only` does.
    pub(super) fn check_last_run(&mut self, last: u32) -> Result<(), CommandError> {
        let blocks = 0..self.model.blocks();
        let change = (0..last).map(|_| self.model.begin(Kind::Data)).last().unwrap_or_default();
        self.model.answered(Stroke { blocks, change }, true);
        self.check()
    }

    /// Ends all connections; requests that were made, and cuts.
    pub(super) fn close(mut self) -> (u64, u64) {
        for mut link in self.links.drain(..) {
            link.settle();
            link.close();
        }
        (self.requests, self.cuts)
    }

    fn connect(&mut self) -> Result<(), CommandError> {
        for _ in 0..self.settings.connections {
            let link = Link::again(self.uri, self.settings.size)?;
            self.flags = link.described().flags;
            self.links.push(link);
        }
        Ok(())
    }

    /// Closes every connection as a crash would, without a word.
    fn cut(&mut self) -> Result<(), CommandError> {
        self.links.clear();
        self.cuts += 1;
        let ranges = self.under.drain().filter_map(|(_, under)| match under {
            Under::Change { stroke, .. } => Some(stroke.blocks),
            _ => None,
        });
        let ranges: Vec<_> = ranges.collect();
        let blocks = 0..self.model.blocks();
        self.model.cut(&ranges);
        self.model.occupy(&blocks, false);
        self.connect()
    }

    /// Writes every block, in an order that jumps; each request is a change of its own, or all are
    /// `one`.
    fn fill(&mut self, one: Option<u32>) -> Result<(), CommandError> {
        for blocks in self.pieces() {
            let change = match one {
                Some(change) => change,
                None => self.model.begin(Kind::Data),
            };
            self.write(Stroke { blocks, change }, false)?;
        }
        self.finish()
    }

    /// Reads every block, and judges it.
    fn check(&mut self) -> Result<(), CommandError> {
        for blocks in self.pieces() {
            self.read(blocks)?;
        }
        self.finish()
    }

    /// Many changes at random, and reads between them.
    fn changes(&mut self) -> Result<(), CommandError> {
        for _ in 0..self.amount() {
            if self.below(100) < 3 {
                self.send_flush()?;
            }
            self.change()?;
        }
        self.finish()
    }

    /// The same without flushes, so that only FUA makes durable, and left off in the middle.
    fn changes_under_way(&mut self) -> Result<(), CommandError> {
        let under_way = self.settings.connections * self.settings.requests;
        for _ in 0..self.amount() / 4 + 3 * under_way {
            self.change()?;
        }
        Ok(())
    }

    /// As many requests as touch each block about once.
    fn amount(&self) -> usize {
        (self.model.blocks() / 32).clamp(400, 40_000)
    }

    fn change(&mut self) -> Result<(), CommandError> {
        let dice = self.below(100);
        let blocks = self.free_blocks()?;
        let has = |flag| self.flags.contains(flag);
        let fua = has(TransmissionFlags::SEND_FUA) && self.random.is_multiple_of(4);
        let (zeroes, trims) =
            (has(TransmissionFlags::SEND_WRITE_ZEROES), has(TransmissionFlags::SEND_TRIM));
        match dice {
            0..40 => self.read(blocks),
            40..50 if zeroes => {
                let change = self.model.begin(Kind::Zeroes);
                let mut flags = CommandFlags::empty();
                flags.set(CommandFlags::FUA, fua);
                flags.set(CommandFlags::NO_HOLE, self.below(2) == 0);
                self.bare(Verb::Zero(flags), Stroke { blocks, change }, fua)
            }
            50..55 if trims => {
                let change = self.model.begin(Kind::Anything);
                self.bare(Verb::Trim { fua }, Stroke { blocks, change }, fua)
            }
            _ => {
                let change = self.model.begin(Kind::Data);
                self.write(Stroke { blocks, change }, fua)
            }
        }
    }

    /// Blocks at random where nothing is under way.
    fn free_blocks(&mut self) -> Result<Range<usize>, CommandError> {
        let all = self.model.blocks() as u64;
        let longest = self.longest();
        loop {
            for _ in 0..8 {
                let long = if self.below(2) == 0 { 8 } else { LONG };
                let len = 1 + self.below(long.min(longest).min(all));
                let first = self.below(all - len + 1);
                let blocks = index(first)..index(first + len);
                if self.model.is_free(&blocks) {
                    return Ok(blocks);
                }
            }
            self.progress()?;
        }
    }

    /// All blocks, in pieces, first those at even places and then the others.
    fn pieces(&self) -> Vec<Range<usize>> {
        let piece = index((PIECE / self.settings.block).clamp(1, self.longest()));
        let all = self.model.blocks();
        let places = (0..all.div_ceil(piece)).map(|n| n * piece..((n + 1) * piece).min(all));
        let (even, odd): (Vec<_>, Vec<_>) =
            places.enumerate().partition(|(n, _)| n.is_multiple_of(2));
        even.into_iter().chain(odd).map(|(_, blocks)| blocks).collect()
    }

    /// Blocks that one request may have.
    fn longest(&self) -> u64 {
        let longest = self.links.first().map_or(1, Link::longest_payload);
        (longest / self.settings.block).max(1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.random = mix(self.random);
        self.random % limit.max(1)
    }

    fn read(&mut self, blocks: Range<usize>) -> Result<(), CommandError> {
        let (at, len) = self.place(&blocks);
        let room = self.spare.pop().unwrap_or_default();
        self.submit(Order::read(at, len, room), Under::Read(blocks))
    }

    fn write(&mut self, stroke: Stroke, fua: bool) -> Result<(), CommandError> {
        let (at, _) = self.place(&stroke.blocks);
        let spare = self.spare.pop().unwrap_or_default();
        let bytes = self.model.payload(&stroke, spare);
        self.submit(Order::write(at, bytes, fua), Under::Change { stroke, fua })
    }

    fn bare(&mut self, verb: Verb, stroke: Stroke, fua: bool) -> Result<(), CommandError> {
        let (at, len) = self.place(&stroke.blocks);
        self.submit(Order::bare(verb, at, len), Under::Change { stroke, fua })
    }

    fn place(&self, blocks: &Range<usize>) -> (u64, u64) {
        (self.model.at(blocks.start), (blocks.len() * self.model.size) as u64)
    }

    /// A flush, if there is such a thing, on any of the connections.
    fn send_flush(&mut self) -> Result<(), CommandError> {
        if !self.flags.contains(TransmissionFlags::SEND_FLUSH) {
            return Ok(());
        }
        let covered = self.model.covered();
        self.submit(Order::bare(Verb::Flush, 0, 0), Under::Flush(covered))
    }

    fn flush(&mut self) -> Result<(), CommandError> {
        self.send_flush()?;
        self.finish()
    }

    /// What a later `--read-only` has to know.
    fn write_header(&mut self, last: u32) -> Result<(), CommandError> {
        let Settings { at, len, seed, block, .. } = self.settings;
        let mut bytes = format!("{MAGIC} {len} {seed} {last}\n").into_bytes();
        bytes.resize(usize::try_from(block).unwrap_or(usize::MAX), 0);
        let under = Under::Change { stroke: Stroke { blocks: 0..0, change: last }, fua: false };
        self.submit(Order::write(at, bytes, false), under)?;
        self.finish()
    }

    /// Puts a request on the connection that has the fewest, when there is room.
    fn submit(&mut self, order: Order, under: Under) -> Result<(), CommandError> {
        while self.links.iter().all(|link| link.under_way() >= self.settings.requests) {
            self.progress()?;
        }
        if let Under::Read(blocks) | Under::Change { stroke: Stroke { blocks, .. }, .. } = &under {
            self.model.occupy(blocks, true);
        }
        self.requests += 1;
        let turn = usize::try_from(self.requests).unwrap_or_default() % self.links.len().max(1);
        let least = self.links.iter().map(Link::under_way).min();
        let count = self.links.len();
        let place = (0..count)
            .map(|n| (n + turn) % count)
            .find(|n| self.links.get(*n).map(Link::under_way) == least);
        if let Some(link) = place.and_then(|place| self.links.get_mut(place)) {
            self.under.insert(self.requests, under);
            link.submit(order.tagged(self.requests))?;
            link.turn()?;
        }
        Ok(())
    }

    /// Waits until everything is answered.
    fn finish(&mut self) -> Result<(), CommandError> {
        while !self.under.is_empty() {
            self.progress()?;
        }
        Ok(())
    }

    /// Takes in at least one answer.
    fn progress(&mut self) -> Result<(), CommandError> {
        let mut some = false;
        for n in 0..self.links.len() {
            let Some(link) = self.links.get_mut(n) else { continue };
            link.turn()?;
            while let Some(done) = self.links.get_mut(n).and_then(Link::pop) {
                some = true;
                let good = self.links.get(n).map_or(Ok(None), |link| link.good(done).map(Some));
                if let Some(done) = good? {
                    self.take(done)?;
                }
            }
        }
        if !some {
            let busy: Vec<_> = self.links.iter().filter(|link| link.under_way() > 0).collect();
            wait(&busy)?;
        }
        Ok(())
    }

    fn take(&mut self, done: Done) -> Result<(), CommandError> {
        let order = done.order;
        match self.under.remove(&order.tag) {
            Some(Under::Read(blocks)) => {
                self.model.occupy(&blocks, false);
                if let Some(Wrong { at, found, due }) = self.model.judge(&blocks, &order.bytes) {
                    return Err(CommandError::Wrong { at, found, due });
                }
            }
            Some(Under::Change { stroke, fua }) => {
                self.model.occupy(&stroke.blocks, false);
                self.model.answered(stroke, fua);
            }
            Some(Under::Flush(covered)) => {
                for stroke in &covered {
                    self.model.made_durable(stroke);
                }
            }
            None => {}
        }
        if order.bytes.capacity() > 0 && self.spare.len() < 64 {
            self.spare.push(order.bytes);
        }
        Ok(())
    }
}

/// A number of blocks: there are no more than memory has places.
fn index(blocks: u64) -> usize {
    usize::try_from(blocks).unwrap_or(usize::MAX)
}
