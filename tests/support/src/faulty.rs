//! A small NBD server in memory that has one fault, or none.
//!
//! It loses what is not durable when its last client has left, as in a crash. It can also crash by itself, again and
//! again. `session` speaks the protocol, `disk` executes requests and applies the fault.

mod disk;
mod session;

use std::{
    collections::HashMap,
    net::Shutdown,
    os::{
        fd::AsFd,
        unix::net::{UnixListener, UnixStream},
    },
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tempfile::TempDir;

use self::session::Session;

/// Bytes that the server keeps.
pub const SIZE: usize = 2 << 20;

/// What a server does wrong. The first four faults concern one write of fifty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A write is acknowledged and not done.
    DropsAWrite,
    /// A write goes to the range in front of its own.
    SwapsTwo,
    /// The second half of a write is not done.
    TearsAWrite,
    /// A flush makes nothing durable.
    FlushesEarly,
    /// FUA makes nothing durable.
    IgnoresFua,
    /// Other connections see a write at the next flush only, although the server advertises multi-conn.
    ShowsOthersLate,
    /// A trim reaches a block too far.
    TrimsTooMuch,
    /// The last block of a range of zeroes is not zeroed.
    ZeroesTooLittle,
    /// A write has a wrong bit.
    FlipsABit,
    /// Of a long request for zeroes the first 64 KiB are done.
    CutsZeroes,
    /// Of a long write the first 256 KiB are done.
    CutsWrites,
    /// A long read returns zeroes after its first 256 KiB.
    CutsReads,
    /// A long trim reaches a block too far.
    TrimsLongTooFar,
    /// A long request for zeroes reaches a block too far.
    ZeroesLongTooFar,
    /// At an offset inside a block the write goes to the block's start.
    WritesAtBlocks,
    /// At an offset inside a block the read comes from the block's start.
    ReadsAtBlocks,
    /// A write leaves out blocks that it covers in part.
    WritesWholeBlocks,
    /// The rest of a block that is written in part becomes zeroes.
    WritesZeroesBeside,
    /// A request for zeroes clears every block that it touches.
    ZeroesWholeBlocks,
    /// A trim clears every block that it touches.
    TrimsWholeBlocks,
    /// A write of a part of a block reads, changes and writes the block without a lock.
    RacesInABlock,
    /// Writes after the last whole block of the disk are not done.
    LosesTheTail,
    /// A write that begins with 64 zeroes writes zeroes.
    TakesForZeroes,
    /// A request for fast zeroes does nothing.
    ForgetsFastZeroes,
    /// A read with DF returns zeroes after its first page.
    CutsWholeReads,
    /// NBD_CMD_CACHE clears its range.
    CacheDestroys,
    /// NBD_CMD_BLOCK_STATUS reports a hole for everything.
    SaysAllIsHole,
    /// It reports a hole for everything after the first 64 KiB of its range.
    SaysTheRestIsHole,
    /// It reports holes as of the last flush.
    SaysLate,
    /// It reports a hole for 64 KiB that begin with one.
    SaysInLargeBlocks,
    /// It reports the extents of a range one block later.
    SaysShifted,
    /// At an offset inside a block it reports the extents from the block's start.
    SaysOfBlocks,
    /// FUA makes zeroes not durable.
    IgnoresFuaOfZeroes,
    /// A flush makes the own connection's writes durable alone, although the server advertises multi-conn.
    FlushesItsOwn,
    /// It takes the low 32 bits of an offset.
    CutsOffsets,
    /// It has less than its size; what lies after that is mapped to its last page.
    HasLess,
}

/// What a server advertises, and its fault.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// What it does wrong.
    pub fault: Option<Fault>,
    /// The size that it advertises, in bytes. Blocks after [`SIZE`] are kept one by one.
    pub size: usize,
    /// Structured replies, and with them `base:allocation`.
    pub structured: bool,
    /// It has the agent's contexts for the identity of the disk and of the run.
    pub known: bool,
    /// It advertises that the export is read-only.
    pub read_only: bool,
}

impl Kind {
    /// No fault, simple replies.
    pub const PLAIN: Self =
        Self { fault: None, size: SIZE, structured: false, known: false, read_only: false };
    /// No fault, structured replies.
    pub const STRUCTURED: Self = Self { structured: true, ..Self::PLAIN };
    /// No fault, structured replies and the agent's contexts.
    pub const KNOWN: Self = Self { known: true, ..Self::STRUCTURED };
}

#[derive(Debug)]
struct Disk {
    kind: Kind,
    now: Vec<u8>,
    durable: Vec<u8>,
    /// Blocks after `SIZE` by their offset. They are durable at once.
    far: HashMap<usize, Vec<u8>>,
    writes: u64,
    requests: u64,
    /// It crashes once per this many requests.
    lifetime: Option<u64>,
    crashes: u64,
    /// The number of this run. Requests of an earlier run are not executed.
    run: u64,
    /// The highest generation of a client that replaced its older connections.
    generation: u64,
    /// It receives requests and answers none.
    silent: bool,
    /// It never answers a read at this offset.
    unanswered: Option<usize>,
    /// Flushes that will fail and lose what they were to make durable.
    failing: u64,
    clients: Vec<UnixStream>,
}

impl Disk {
    /// Disconnects all clients. Some blocks that were not durable become durable.
    fn crash(&mut self) {
        self.crashes += 1;
        self.run += 1;
        let (now, durable) = (self.now.chunks(512), self.durable.chunks_mut(512));
        for (n, (now, durable)) in now.zip(durable).enumerate() {
            if (n as u64 * 7 + self.requests).is_multiple_of(3) {
                durable.copy_from_slice(now);
            }
        }
        self.hang_up();
    }

    /// Disconnects all clients and drops what is not durable.
    fn lose(&mut self) {
        self.run += 1;
        self.now.clone_from(&self.durable);
        self.hang_up();
    }

    fn hang_up(&mut self) {
        for client in self.clients.drain(..) {
            // It may have left.
            client.shutdown(Shutdown::Both).ok();
        }
    }
}

type Shared = Arc<Mutex<Disk>>;

/// A running server.
#[derive(Debug)]
pub struct Server {
    /// Its default export.
    pub uri: String,
    disk: Shared,
    _dir: TempDir,
}

impl Server {
    /// Starts it, with a disk of zeroes.
    pub fn start(kind: Kind) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).expect("a socket");
        let disk = Disk {
            kind,
            now: vec![0; SIZE],
            durable: vec![0; SIZE],
            far: HashMap::new(),
            writes: 0,
            requests: 0,
            lifetime: None,
            crashes: 0,
            run: 1,
            generation: 0,
            silent: false,
            unanswered: None,
            failing: 0,
            clients: Vec::new(),
        };
        let disk = Arc::new(Mutex::new(disk));
        let shared = Arc::clone(&disk);
        thread::spawn(move || accept(&listener, &shared));
        Self { uri: format!("nbd+unix:///?socket={}", path.display()), disk, _dir: dir }
    }

    /// From now on it crashes once per this many requests, or never.
    pub fn lives_for(&self, requests: Option<u64>) {
        lock(&self.disk).lifetime = requests;
    }

    /// Crashes now, and advertises another size from then on.
    pub fn crash_and_be(&self, size: usize) {
        let mut disk = lock(&self.disk);
        disk.kind.size = size;
        disk.crash();
    }

    /// Restarts now, with what is durable and nothing else.
    pub fn restart(&self) {
        lock(&self.disk).lose();
    }

    /// The next `count` flushes fail, and lose what they were to make durable.
    pub fn fails_flushes(&self, count: u64) {
        lock(&self.disk).failing = count;
    }

    /// Whether connected clients get no answers.
    pub fn is_silent(&self, silent: bool) {
        lock(&self.disk).silent = silent;
    }

    /// From now on it never answers a read at this offset.
    pub fn never_answers_a_read_at(&self, at: Option<usize>) {
        lock(&self.disk).unanswered = at;
    }

    /// How often it has crashed.
    pub fn crashes(&self) -> u64 {
        lock(&self.disk).crashes
    }

    /// How many requests it has received.
    pub fn requests(&self) -> u64 {
        lock(&self.disk).requests
    }

    /// What a crash would leave.
    pub fn durable(&self) -> Vec<u8> {
        lock(&self.disk).durable.clone()
    }

    /// Changes a byte without a request.
    pub fn spoil(&self, at: usize) {
        let mut disk = lock(&self.disk);
        disk.now[at] ^= 1;
        disk.durable[at] ^= 1;
    }
}

fn lock(disk: &Shared) -> MutexGuard<'_, Disk> {
    disk.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept(listener: &UnixListener, disk: &Shared) {
    let mut clients: Vec<(UnixStream, JoinHandle<()>)> = Vec::new();
    while let Ok((stream, _)) = listener.accept() {
        // Clients that had left before this one connected.
        let had = clients.len();
        for n in (0..clients.len()).rev() {
            if has_left(&clients[n].0) {
                clients.swap_remove(n).1.join().expect("no panic");
            }
        }
        if had > 0 && clients.is_empty() && !lock(disk).kind.known {
            let mut disk = lock(disk);
            let Disk { now, durable, .. } = &mut *disk;
            now.clone_from(durable);
        }
        let (disk, mine) = (Arc::clone(disk), stream.try_clone().expect("a descriptor"));
        lock(&disk).clients.push(stream.try_clone().expect("a descriptor"));
        // It ends with an error when its client leaves.
        let serves = thread::spawn(move || drop(Session::new(stream, disk).serve()));
        clients.push((mine, serves));
    }
}

fn has_left(stream: &UnixStream) -> bool {
    let mut fds = [PollFd::new(stream.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO).expect("poll");
    fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
}
