//! A small NBD server in memory that has one fault, or none. What is not durable is lost when its last
//! client leaves without a word, as in a crash; it can also crash by itself, again and again.

#![allow(dead_code, reason = "no test file uses all of it")]

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::{
        fd::AsFd,
        unix::net::{UnixListener, UnixStream},
    },
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tempfile::TempDir;

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
}

struct Disk {
    now: Vec<u8>,
    durable: Vec<u8>,
    writes: u64,
    requests: u64,
    /// It crashes at each so-many-th request.
    lifetime: Option<u64>,
    crashes: u64,
    /// What it says to whoever connects.
    size: usize,
    /// It takes requests and answers none.
    silent: bool,
    clients: Vec<UnixStream>,
}

impl Disk {
    /// Everybody is cut off. Of what is not durable, any part may have become so.
    fn crash(&mut self) {
        self.crashes += 1;
        let (now, durable) = (self.now.chunks(512), self.durable.chunks_mut(512));
        for (n, (now, durable)) in now.zip(durable).enumerate() {
            if (n as u64 * 7 + self.requests).is_multiple_of(3) {
                durable.copy_from_slice(now);
            }
        }
        for client in self.clients.drain(..) {
            // It may have left.
            client.shutdown(Shutdown::Both).ok();
        }
    }
}

/// Where in a request the server crashes; or what it answers that is no answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Crash {
    Before,
    Unanswered,
    HalfAnswered,
    WrongMagic,
    UnknownCookie,
}

type Shared = Arc<Mutex<Disk>>;

pub(crate) struct Server {
    pub(crate) uri: String,
    disk: Shared,
    _dir: TempDir,
}

impl Server {
    pub(crate) fn start(fault: Option<Fault>) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).expect("a socket");
        let disk = Disk {
            now: vec![0; SIZE],
            durable: vec![0; SIZE],
            writes: 0,
            requests: 0,
            lifetime: None,
            crashes: 0,
            size: SIZE,
            silent: false,
            clients: Vec::new(),
        };
        let disk = Arc::new(Mutex::new(disk));
        let shared = Arc::clone(&disk);
        thread::spawn(move || accept(&listener, &shared, fault));
        Self { uri: format!("nbd+unix:///?socket={}", path.display()), disk, _dir: dir }
    }

    /// From now on it crashes at each so-many-th request, or never.
    pub(crate) fn lives_for(&self, requests: Option<u64>) {
        lock(&self.disk).lifetime = requests;
    }

    /// Crashes now, and says another size to whoever comes back.
    pub(crate) fn crash_and_be(&self, size: usize) {
        let mut disk = lock(&self.disk);
        disk.size = size;
        disk.crash();
    }

    /// Whether those who are connected get no answers any more.
    pub(crate) fn is_silent(&self, silent: bool) {
        lock(&self.disk).silent = silent;
    }

    pub(crate) fn crashes(&self) -> u64 {
        lock(&self.disk).crashes
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

fn lock(disk: &Shared) -> std::sync::MutexGuard<'_, Disk> {
    disk.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept(listener: &UnixListener, disk: &Shared, fault: Option<Fault>) {
    let mut clients: Vec<(UnixStream, JoinHandle<()>)> = Vec::new();
    while let Ok((stream, _)) = listener.accept() {
        // Those that have left have left before this one came.
        let had = clients.len();
        for n in (0..clients.len()).rev() {
            if has_left(&clients[n].0) {
                clients.swap_remove(n).1.join().expect("no panic");
            }
        }
        if had > 0 && clients.is_empty() {
            let mut disk = lock(disk);
            let Disk { now, durable, .. } = &mut *disk;
            now.clone_from(durable);
        }
        let (disk, mine) = (Arc::clone(disk), stream.try_clone().expect("a descriptor"));
        lock(&disk).clients.push(stream.try_clone().expect("a descriptor"));
        // It ends with an error when its client leaves.
        let serves = thread::spawn(move || {
            drop(Session { stream, disk, fault, hidden: Vec::new() }.serve());
        });
        clients.push((mine, serves));
    }
}

fn has_left(stream: &UnixStream) -> bool {
    let mut fds = [PollFd::new(stream.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO).expect("poll");
    fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
}

struct Session {
    stream: UnixStream,
    disk: Shared,
    fault: Option<Fault>,
    /// What others do not see yet.
    hidden: Vec<(usize, Vec<u8>)>,
}

impl Session {
    fn serve(mut self) -> io::Result<()> {
        self.stream.write_all(b"NBDMAGICIHAVEOPT\x00\x03")?;
        self.stream.read_exact(&mut [0; 4])?;
        while !self.option()? {}
        while self.request()? {}
        Ok(())
    }

    /// Whether the transmission begins.
    fn option(&mut self) -> io::Result<bool> {
        let (mut header, go) = ([0; 16], 7);
        self.stream.read_exact(&mut header)?;
        let word = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().expect("4 bytes"));
        let (option, len) = (word(8), word(12));
        self.stream.read_exact(&mut vec![0; len as usize])?;
        if option != go {
            self.reply(option, 1 << 31 | 1, &[])?;
            return Ok(false);
        }
        // Flush, FUA, trim, zeroes, multi-conn.
        let flags = 0b1_0110_1101_u16.to_be_bytes();
        let size = (lock(&self.disk).size as u64).to_be_bytes();
        self.reply(option, 3, &[&[0, 0][..], &size, &flags].concat())?;
        self.reply(option, 1, &[])?;
        Ok(true)
    }

    fn reply(&mut self, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
        let mut bytes = 0x0003_e889_0455_65a9_u64.to_be_bytes().to_vec();
        for word in [option, kind, u32::try_from(data.len()).expect("short")] {
            bytes.extend(word.to_be_bytes());
        }
        bytes.extend(data);
        self.stream.write_all(&bytes)
    }

    fn request(&mut self) -> io::Result<bool> {
        let mut header = [0; 28];
        self.stream.read_exact(&mut header)?;
        let fua = header[5] & 1 != 0;
        let at = usize::try_from(u64::from_be_bytes(header[16..24].try_into().expect("8")))
            .expect("64 bits");
        let len = u32::from_be_bytes(header[24..28].try_into().expect("4")) as usize;
        let mut answer = Vec::new();
        let mut written = vec![0; if header[7] == 1 { len } else { 0 }];
        self.stream.read_exact(&mut written)?;
        if lock(&self.disk).silent {
            io::copy(&mut self.stream, &mut io::sink())?;
            return Ok(false);
        }
        let crash = self.crash();
        if crash == Some(Crash::Before) {
            lock(&self.disk).crash();
            return Ok(false);
        }
        match header[7] {
            0 => answer = self.read(at, len),
            1 => self.write(at, written, fua),
            2 => return Ok(false),
            3 => self.flush(),
            4 => {
                let more = if self.fault == Some(Fault::TrimsTooMuch) { 512 } else { 0 };
                self.put(at, &vec![0; (len + more).min(SIZE - at)], fua);
            }
            6 => {
                let less = if self.fault == Some(Fault::ZeroesTooLittle) { 512 } else { 0 };
                self.put(at, &vec![0; len - less], fua);
            }
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
        let mut bytes = b"\x67\x44\x66\x98\0\0\0\0".to_vec();
        bytes.extend(&header[8..16]);
        bytes.extend(answer);
        if crash == Some(Crash::HalfAnswered) {
            self.stream.write_all(&bytes[..bytes.len() / 2])?;
        }
        match crash {
            // Whoever hears that is to leave.
            Some(lie @ (Crash::WrongMagic | Crash::UnknownCookie)) => {
                bytes[if lie == Crash::WrongMagic { 0 } else { 8 }] ^= 0x80;
                lock(&self.disk).crashes += 1;
            }
            Some(_) => {
                lock(&self.disk).crash();
                return Ok(false);
            }
            None => {}
        }
        self.stream.write_all(&bytes)?;
        Ok(true)
    }

    /// Whether it is time, and where.
    fn crash(&self) -> Option<Crash> {
        let mut disk = lock(&self.disk);
        disk.requests += 1;
        let lifetime = disk.lifetime?;
        disk.requests.is_multiple_of(lifetime).then(|| match disk.requests / lifetime % 5 {
            0 => Crash::Before,
            1 => Crash::Unanswered,
            2 => Crash::HalfAnswered,
            3 => Crash::WrongMagic,
            _ => Crash::UnknownCookie,
        })
    }

    fn read(&self, at: usize, len: usize) -> Vec<u8> {
        let mut bytes = lock(&self.disk).now[at..at + len].to_vec();
        for (start, hidden) in &self.hidden {
            for (n, byte) in hidden.iter().enumerate() {
                if let Some(place) = (start + n).checked_sub(at).and_then(|n| bytes.get_mut(n)) {
                    *place = *byte;
                }
            }
        }
        bytes
    }

    fn write(&mut self, at: usize, mut bytes: Vec<u8>, fua: bool) {
        let nth = {
            let mut disk = lock(&self.disk);
            disk.writes += 1;
            disk.writes
        };
        let now = nth % 50 == 49;
        match self.fault {
            Some(Fault::DropsAWrite) if now => {}
            Some(Fault::SwapsTwo) if now && at >= bytes.len() => {
                let before = at - bytes.len();
                self.put(before, &bytes, fua);
            }
            Some(Fault::TearsAWrite) if now && bytes.len() > 512 => {
                bytes.truncate(bytes.len() / 2);
                self.put(at, &bytes, fua);
            }
            Some(Fault::FlipsABit) if now => {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 4;
                self.put(at, &bytes, fua);
            }
            Some(Fault::ShowsOthersLate) if !fua => self.hidden.push((at, bytes)),
            _ => self.put(at, &bytes, fua),
        }
    }

    fn put(&self, at: usize, bytes: &[u8], fua: bool) {
        let mut disk = lock(&self.disk);
        disk.now[at..at + bytes.len()].copy_from_slice(bytes);
        if fua && self.fault != Some(Fault::IgnoresFua) {
            disk.durable[at..at + bytes.len()].copy_from_slice(bytes);
        }
    }

    fn flush(&mut self) {
        for (at, bytes) in std::mem::take(&mut self.hidden) {
            self.put(at, &bytes, false);
        }
        if self.fault != Some(Fault::FlushesEarly) {
            let mut disk = lock(&self.disk);
            let Disk { now, durable, .. } = &mut *disk;
            durable.clone_from(now);
        }
    }
}
