//! A small NBD server in memory that has one fault, or none. What is not durable is lost when its last
//! client leaves without a word, as in a crash; it can also crash by itself, again and again.
//!
//! `session` speaks the protocol, `disk` does what is asked, or what its fault makes of it.

#![allow(dead_code, reason = "no test file uses all of it")]

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

pub(crate) const SIZE: usize = 2 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    DropsAWrite,
    SwapsTwo,
    TearsAWrite,
    FlushesEarly,
    IgnoresFua,
    /// Others see a connection's writes at its next flush only, though it says multi-conn.
    ShowsOthersLate,
    TrimsTooMuch,
    ZeroesTooLittle,
    FlipsABit,
    /// Only the first bytes of a long request are done, 64 KiB or 256 KiB.
    CutsZeroes,
    CutsWrites,
    /// Of a long read the rest is zeroes.
    CutsReads,
    /// As many bytes more than were asked are trimmed, or zeroed, of a long request only.
    TrimsLongTooFar,
    ZeroesLongTooFar,
    /// At an offset inside a block the write goes to the block's start.
    WritesAtBlocks,
    /// As reads do.
    ReadsAtBlocks,
    /// Parts of blocks are not written.
    WritesWholeBlocks,
    /// What is beside a part of a block becomes zeroes.
    WritesZeroesBeside,
    /// Zeroes and trims reach over all of a block that they touch.
    ZeroesWholeBlocks,
    TrimsWholeBlocks,
    /// A block is read, changed and written back, and another does so meanwhile.
    RacesInABlock,
    /// Bytes behind the last whole block of the disk are not kept.
    LosesTheTail,
    /// A write that begins with zeroes is taken for zeroes.
    TakesForZeroes,
    /// Fast zeroes are none.
    ForgetsFastZeroes,
    /// A read in one piece is none behind its first page.
    CutsWholeReads,
    /// What is asked to be cached is zeroes from then on.
    CacheDestroys,
    /// Everything is a hole.
    SaysAllIsHole,
    /// Behind 64 KiB of what was asked everything is a hole.
    SaysTheRestIsHole,
    /// What was written since the last flush is still a hole.
    SaysLate,
    /// 64 KiB are a hole if they begin with one.
    SaysInLargeBlocks,
    /// Extents are those of a block later.
    SaysShifted,
    /// Offsets of extents count from the block before, where they are inside one.
    SaysOfBlocks,
    /// Zeroes with FUA are not durable.
    IgnoresFuaOfZeroes,
    /// A flush is of the own connection's writes only, though it says multi-conn.
    FlushesItsOwn,
    /// Of offsets, 32 bits count.
    CutsOffsets,
    /// The end of the disk is not there.
    HasLess,
}

/// What a server offers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) fault: Option<Fault>,
    /// Bytes; the disk has `SIZE` in any case, and what is behind it is somewhere else.
    pub(crate) size: usize,
    /// Structured replies, and with them `base:allocation`.
    pub(crate) structured: bool,
    /// It says which disk it is, and which run of the server, as the agent does.
    pub(crate) known: bool,
    pub(crate) read_only: bool,
}

impl Kind {
    pub(crate) const PLAIN: Self =
        Self { fault: None, size: SIZE, structured: false, known: false, read_only: false };
    pub(crate) const STRUCTURED: Self = Self { structured: true, ..Self::PLAIN };
    pub(crate) const KNOWN: Self = Self { known: true, ..Self::STRUCTURED };
}

struct Disk {
    kind: Kind,
    now: Vec<u8>,
    durable: Vec<u8>,
    /// What is behind `SIZE`, in blocks by offset. It is durable at once.
    far: HashMap<usize, Vec<u8>>,
    writes: u64,
    requests: u64,
    /// It crashes at each so-many-th request.
    lifetime: Option<u64>,
    crashes: u64,
    /// Which run of the server it is. What an earlier one has not done is not done any more.
    run: u64,
    /// The highest generation of a client that has come in place of its older connections.
    generation: u64,
    /// It takes requests and answers none.
    silent: bool,
    /// Flushes that are to fail, and to lose what they were to keep.
    failing: u64,
    clients: Vec<UnixStream>,
}

impl Disk {
    /// Everybody is cut off. Of what is not durable, any part may have become so.
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

    /// Everybody is cut off, and what is not durable is gone.
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

pub(crate) struct Server {
    pub(crate) uri: String,
    disk: Shared,
    _dir: TempDir,
}

impl Server {
    pub(crate) fn start(kind: Kind) -> Self {
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
            failing: 0,
            clients: Vec::new(),
        };
        let disk = Arc::new(Mutex::new(disk));
        let shared = Arc::clone(&disk);
        thread::spawn(move || accept(&listener, &shared));
        Self { uri: format!("nbd+unix:///?socket={}", path.display()), disk, _dir: dir }
    }

    /// From now on it crashes at each so-many-th request, or never.
    pub(crate) fn lives_for(&self, requests: Option<u64>) {
        lock(&self.disk).lifetime = requests;
    }

    /// Crashes now, and says another size to whoever comes back.
    pub(crate) fn crash_and_be(&self, size: usize) {
        let mut disk = lock(&self.disk);
        disk.kind.size = size;
        disk.crash();
    }

    /// Ends now, and comes back with what is durable and nothing else.
    pub(crate) fn restart(&self) {
        lock(&self.disk).lose();
    }

    /// So many flushes fail from now on, and what they were to make durable is lost.
    pub(crate) fn fails_flushes(&self, count: u64) {
        lock(&self.disk).failing = count;
    }

    /// Whether those who are connected get no answers any more.
    pub(crate) fn is_silent(&self, silent: bool) {
        lock(&self.disk).silent = silent;
    }

    pub(crate) fn crashes(&self) -> u64 {
        lock(&self.disk).crashes
    }

    pub(crate) fn requests(&self) -> u64 {
        lock(&self.disk).requests
    }

    /// What a crash would leave.
    pub(crate) fn durable(&self) -> Vec<u8> {
        lock(&self.disk).durable.clone()
    }

    /// Changes a byte behind everybody's back.
    pub(crate) fn spoil(&self, at: usize) {
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
        // Those that have left have left before this one came.
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
