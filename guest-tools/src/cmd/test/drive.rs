//! The connections of a test, all on one thread. This module keeps requests in flight apart, and passes
//! every answer to the model. `rounds`, `bytes`, `extents` and `far` decide what is sent, and when.

use std::{collections::HashMap, fs, mem, ops::Range};

use nbd::{
    Uri,
    wire::{BASE_ALLOCATION, CommandFlags, Errno, TransmissionFlags},
};
use nbd_client::{Client, Connector, Done, Order, Verb, client::wait};

use super::{
    super::CommandError,
    block::mix,
    model::{Kind, Model, Stroke, Wrong},
};

/// The most bytes of reads and writes in flight together, and of one request. Most servers allow
/// requests of this length. Where memory is short the bound is an eighth of the free memory.
const FLYING: u64 = 32 << 20;
const SHARE: u64 = 8;
/// The most buffers that are kept for reuse, and the longest of them in bytes.
const SPARE: usize = 64;
const SPARE_LEN: usize = 256 << 10;
/// More changes than a run makes.
const MOST_CHANGES: u32 = 1 << 24;
/// The first words of the header.
const MAGIC: &str = "guest-tools test 1";

pub(super) struct Settings {
    /// The offset and the length of the tested range, in bytes. Its first block is the header.
    pub(super) at: u64,
    pub(super) len: u64,
    /// The end of what may be changed. It may be within a block.
    pub(super) end: u64,
    /// The size of the export, in bytes.
    pub(super) size: u64,
    pub(super) block: u64,
    /// Offsets and lengths must be multiples of this number of bytes.
    pub(super) unit: u64,
    /// No range was given, so blocks after the tested range may be tested too.
    pub(super) whole: bool,
    pub(super) seed: u64,
    pub(super) connections: usize,
    /// Requests in flight per connection.
    pub(super) requests: usize,
}

/// The length, the seed and the number of the last change, from the header that the last run has left.
pub(super) fn header(block: &[u8]) -> Option<(u64, u64, u32)> {
    let end = block.iter().position(|byte| *byte == 0)?;
    let text = str::from_utf8(block.get(..end)?).ok()?;
    let mut words = text.strip_prefix(MAGIC)?.split_whitespace();
    let (len, seed) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let last = words.next()?.parse().ok().filter(|last| *last < MOST_CHANGES)?;
    Some((len, seed, last))
}

/// A request in flight.
pub(super) enum Under {
    Read(Range<usize>),
    Change {
        stroke: Stroke,
        fua: bool,
    },
    Flush(Vec<Stroke>),
    /// It changes nothing, and its answer contains nothing.
    Hint,
    /// The answer is put into `answers`, for the caller of `ask`.
    Own,
}

pub(super) struct Drive<'a> {
    connector: &'a Connector,
    uri: &'a Uri,
    pub(super) settings: Settings,
    flags: TransmissionFlags,
    clients: Vec<Client>,
    pub(super) model: Model,
    under: HashMap<u64, Under>,
    /// Bytes of reads and writes in flight, and their limit.
    flying: u64,
    most: u64,
    answers: Vec<Done>,
    random: u64,
    requests: u64,
    cuts: u64,
    /// Buffers for reuse.
    spare: Vec<Vec<u8>>,
}

impl<'a> Drive<'a> {
    pub(super) fn new(
        connector: &'a Connector,
        uri: &'a Uri,
        settings: Settings,
    ) -> Result<Self, CommandError> {
        let block = usize::try_from(settings.block).unwrap_or(usize::MAX);
        let blocks = usize::try_from(settings.len / settings.block - 1).unwrap_or(usize::MAX);
        let model = Model::new(settings.seed, settings.at + settings.block, block, blocks)
            .map_err(|_| CommandError::Memory { len: settings.len, block: settings.block })?;
        let random = mix(settings.seed);
        let most = (available() / SHARE).clamp(settings.block, FLYING);
        let mut drive = Self {
            connector,
            uri,
            settings,
            flags: TransmissionFlags::empty(),
            clients: Vec::new(),
            model,
            under: HashMap::new(),
            flying: 0,
            most,
            answers: Vec::new(),
            random,
            requests: 0,
            cuts: 0,
            spare: Vec::new(),
        };
        drive.connect()?;
        Ok(drive)
    }

    /// Closes all connections. Returns the numbers of requests and of cuts.
    pub(super) fn close(mut self) -> (u64, u64) {
        for mut client in self.clients.drain(..) {
            client.settle();
            client.close();
        }
        (self.requests, self.cuts)
    }

    fn connect(&mut self) -> Result<(), CommandError> {
        for _ in 0..self.settings.connections {
            let client = self.connector.reopen(self.uri, self.settings.size)?;
            self.flags = client.described().flags;
            self.clients.push(client);
        }
        Ok(())
    }

    /// Cuts every connection as a crash would, without NBD_CMD_DISC.
    pub(super) fn cut(&mut self) -> Result<(), CommandError> {
        self.clients.clear();
        self.cuts += 1;
        self.flying = 0;
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

    pub(super) fn has(&self, flag: TransmissionFlags) -> bool {
        self.flags.contains(flag)
    }

    /// Whether the server reports allocation.
    pub(super) fn has_extents(&self) -> bool {
        self.clients.first().is_some_and(|client| client.terms().context(BASE_ALLOCATION).is_some())
    }

    /// The longest read or write, in bytes.
    pub(super) fn longest_payload(&self) -> u64 {
        self.clients.first().map_or(self.settings.block, Client::longest_payload).min(self.most)
    }

    /// The longest range of any other request, in bytes.
    pub(super) fn longest_range(&self) -> u64 {
        self.clients.first().map_or(self.settings.block, Client::longest_range)
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.random = mix(self.random);
        self.random % limit.max(1)
    }

    /// Returns a buffer of this length, once the limit on bytes in flight allows it.
    pub(super) fn room(&mut self, len: u64) -> Result<Vec<u8>, CommandError> {
        self.wait_for_room(len)?;
        Ok(self.spare.pop().unwrap_or_default())
    }

    fn wait_for_room(&mut self, len: u64) -> Result<(), CommandError> {
        while self.flying > 0 && self.flying.saturating_add(len) > self.most {
            self.progress()?;
        }
        Ok(())
    }

    pub(super) fn place(&self, blocks: &Range<usize>) -> (u64, u64) {
        (self.model.at(blocks.start), (blocks.len() * self.model.size) as u64)
    }

    /// Sends a flush on one of the connections, if the server supports it.
    pub(super) fn send_flush(&mut self) -> Result<(), CommandError> {
        if !self.has(TransmissionFlags::SEND_FLUSH) {
            return Ok(());
        }
        let covered = self.model.covered();
        self.submit(Order::bare(Verb::Flush, 0, 0), Under::Flush(covered))
    }

    pub(super) fn flush(&mut self) -> Result<(), CommandError> {
        self.send_flush()?;
        self.finish()
    }

    /// Writes what a later `--read-only` has to know.
    pub(super) fn write_header(&mut self, last: u32) -> Result<(), CommandError> {
        let Settings { at, len, seed, block, .. } = self.settings;
        let mut bytes = format!("{MAGIC} {len} {seed} {last}\n").into_bytes();
        bytes.resize(usize::try_from(block).unwrap_or(usize::MAX), 0);
        let under = Under::Change { stroke: Stroke { blocks: 0..0, change: last }, fua: false };
        self.submit(Order::write(at, bytes, false), under)?;
        self.finish()
    }

    /// Sends a request on the connection with the fewest in flight, once there is room.
    pub(super) fn submit(&mut self, order: Order, under: Under) -> Result<(), CommandError> {
        let weight = weight(&order);
        self.wait_for_room(weight)?;
        while self.clients.iter().all(|client| client.under_way() >= self.settings.requests) {
            self.progress()?;
        }
        if let Under::Read(blocks) | Under::Change { stroke: Stroke { blocks, .. }, .. } = &under {
            self.model.occupy(blocks, true);
        }
        self.requests += 1;
        let turn = usize::try_from(self.requests).unwrap_or_default() % self.clients.len().max(1);
        let least = self.clients.iter().map(Client::under_way).min();
        let count = self.clients.len();
        let place = (0..count)
            .map(|n| (n + turn) % count)
            .find(|n| self.clients.get(*n).map(Client::under_way) == least);
        if let Some(client) = place.and_then(|place| self.clients.get_mut(place)) {
            self.under.insert(self.requests, under);
            self.flying += weight;
            client.submit(order.tagged(self.requests))?;
            client.turn()?;
        }
        Ok(())
    }

    /// Sends a request whose answer the caller checks. `collect` returns the answer.
    pub(super) fn ask(&mut self, order: Order) -> Result<(), CommandError> {
        self.submit(order, Under::Own)
    }

    /// Waits for everything, and returns the answers to `ask` in any order.
    pub(super) fn collect(&mut self) -> Result<Vec<Done>, CommandError> {
        self.finish()?;
        Ok(mem::take(&mut self.answers))
    }

    /// Waits until everything is answered.
    pub(super) fn finish(&mut self) -> Result<(), CommandError> {
        while !self.under.is_empty() {
            self.progress()?;
        }
        Ok(())
    }

    /// Handles at least one answer.
    pub(super) fn progress(&mut self) -> Result<(), CommandError> {
        let mut some = false;
        for n in 0..self.clients.len() {
            let Some(client) = self.clients.get_mut(n) else { continue };
            client.turn()?;
            while let Some(done) = self.clients.get_mut(n).and_then(Client::pop) {
                some = true;
                self.flying = self.flying.saturating_sub(weight(&done.order));
                if is_not_fast(&done) {
                    self.was_not_fast(done);
                    continue;
                }
                let good =
                    self.clients.get(n).map_or(Ok(None), |client| client.good(done).map(Some));
                if let Some(done) = good? {
                    self.take(done)?;
                }
            }
        }
        if !some {
            let busy: Vec<_> =
                self.clients.iter().filter(|client| client.under_way() > 0).collect();
            wait(&busy)?;
        }
        Ok(())
    }

    fn take(&mut self, mut done: Done) -> Result<(), CommandError> {
        match self.under.remove(&done.order.tag) {
            Some(Under::Read(blocks)) => {
                self.model.occupy(&blocks, false);
                if let Some(wrong) = self.model.judge(&blocks, &done.order.bytes) {
                    return Err(wrong.into());
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
            Some(Under::Own) => {
                self.answers.push(done);
                return Ok(());
            }
            Some(Under::Hint) | None => {}
        }
        self.give_back(mem::take(&mut done.order.bytes));
        Ok(())
    }

    fn give_back(&mut self, bytes: Vec<u8>) {
        if (1..=SPARE_LEN).contains(&bytes.capacity()) && self.spare.len() < SPARE {
            self.spare.push(bytes);
        }
    }

    /// The server refused because it would have been as slow as writing zeroes, which is a valid answer.
    /// The content is unknown then.
    fn was_not_fast(&mut self, done: Done) {
        match self.under.remove(&done.order.tag) {
            Some(Under::Change { stroke, .. }) => {
                self.model.occupy(&stroke.blocks, false);
                let change = self.model.begin(Kind::Anything);
                self.model.answered(Stroke { change, ..stroke }, false);
            }
            Some(Under::Own) => self.answers.push(done),
            _ => {}
        }
    }
}

impl From<Wrong> for CommandError {
    fn from(Wrong { at, found, due }: Wrong) -> Self {
        Self::Wrong { at, found, due }
    }
}

/// Whether a fast zero request was refused because it cannot be fast.
fn is_not_fast(done: &Done) -> bool {
    let fast =
        matches!(done.order.verb, Verb::Zero(flags) if flags.contains(CommandFlags::FAST_ZERO));
    fast && done.result.as_ref().is_err_and(|failure| failure.errno == Errno::ENOTSUP)
}

/// The memory of a request in flight, in bytes.
const fn weight(order: &Order) -> u64 {
    match order.verb {
        Verb::Read | Verb::ReadWhole | Verb::Write { .. } => order.len,
        _ => 0,
    }
}

/// The memory that is free or can be freed, in bytes.
fn available() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
    kib.map_or(u64::MAX, |kib: u64| kib.saturating_mul(1024))
}

/// A number of blocks as an index: there are never more of them than fit into memory.
pub(super) fn index(blocks: u64) -> usize {
    usize::try_from(blocks).unwrap_or(usize::MAX)
}
