//! One client's session.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    sync::MutexGuard,
};

use super::{Disk, Kind, Shared, lock};
use crate::wire::{
    OPT_GO, OPT_SET_CONTEXT, OPT_STRUCTURED, REP_ACK, REP_ERR_UNSUP, REP_INFO, option_reply,
    simple_reply,
};

const LIST_CONTEXTS: u32 = 9;
const CONTEXT: u32 = 4;
/// Chunks.
const DATA: u16 = 1;
const HOLE: u16 = 2;
const EXTENTS: u16 = 5;
/// The id of `base:allocation`.
const ID: u32 = 7;
/// Flush, FUA, trim, zeroes, multi-conn; and with structured replies DF, cache and fast zeroes.
const FLAGS: u16 = 0b1_0110_1101;
const MORE_FLAGS: u16 = 0b1100_1000_0000;
const READ_ONLY: u16 = 2;
/// Zeroes of this length, in bytes, are sent as a hole.
const GRANULE: usize = 4096;

/// Where in a request the server crashes, or which invalid answer it sends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Crash {
    Before,
    Unanswered,
    HalfAnswered,
    WrongMagic,
    UnknownCookie,
}

/// A request.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) command: u8,
    pub(super) fua: bool,
    pub(super) whole: bool,
    pub(super) one: bool,
    pub(super) fast: bool,
    cookie: u64,
    pub(super) at: usize,
    pub(super) len: usize,
}

#[derive(Debug)]
pub(super) struct Session {
    stream: UnixStream,
    pub(super) disk: Shared,
    pub(super) kind: Kind,
    run: u64,
    generation: u64,
    /// Structured replies were agreed.
    structured: bool,
    /// Writes that other connections do not see yet.
    pub(super) hidden: Vec<(usize, Vec<u8>)>,
    /// Ranges that this client has changed since its last flush.
    pub(super) changed: Vec<(usize, usize)>,
}

impl Session {
    pub(super) fn new(stream: UnixStream, disk: Shared) -> Self {
        let (kind, run) = {
            let disk = lock(&disk);
            (disk.kind, disk.run)
        };
        let (hidden, changed) = (Vec::new(), Vec::new());
        Self { stream, disk, kind, run, generation: 0, structured: false, hidden, changed }
    }

    /// The disk. `None` after a crash, or after the client's next connection has replaced this one.
    pub(super) fn disk(&self) -> Option<MutexGuard<'_, Disk>> {
        let disk = lock(&self.disk);
        (disk.run == self.run && disk.generation <= self.generation).then_some(disk)
    }

    pub(super) fn serve(mut self) -> io::Result<()> {
        self.stream.write_all(b"NBDMAGICIHAVEOPT\x00\x03")?;
        self.stream.read_exact(&mut [0; 4])?;
        while !self.option()? {}
        while self.request()? {}
        Ok(())
    }

    /// Whether the transmission begins.
    fn option(&mut self) -> io::Result<bool> {
        let mut header = [0; 16];
        self.stream.read_exact(&mut header)?;
        let word = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().expect("4 bytes"));
        let (option, len) = (word(8), word(12));
        let mut data = vec![0; len as usize];
        self.stream.read_exact(&mut data)?;
        match option {
            OPT_GO => {
                let more = if self.structured { MORE_FLAGS } else { 0 };
                let read_only = if self.kind.read_only { READ_ONLY } else { 0 };
                let flags = (FLAGS | more | read_only).to_be_bytes();
                let size = (self.kind.size as u64).to_be_bytes();
                self.reply(option, REP_INFO, &[&[0, 0][..], &size, &flags].concat())?;
                self.reply(option, REP_ACK, &[])?;
                return Ok(true);
            }
            OPT_STRUCTURED if self.kind.structured => {
                self.structured = true;
                self.reply(option, REP_ACK, &[])?;
            }
            OPT_SET_CONTEXT if self.structured => {
                let name = [&ID.to_be_bytes()[..], b"base:allocation"].concat();
                self.reply(option, CONTEXT, &name)?;
                self.reply(option, REP_ACK, &[])?;
            }
            LIST_CONTEXTS if self.structured && self.kind.known => {
                let asked = String::from_utf8_lossy(&data).into_owned();
                let run = format!("x-agent:instance={}", lock(&self.disk).run);
                let mut names = vec!["x-agent:identity=1".to_owned(), run];
                // From now on requests of the older connections are not executed.
                if let Some(at) = asked.find("x-agent:instead=") {
                    let text = asked[at..].to_owned();
                    let generation = text.rsplit('.').next().and_then(|text| text.parse().ok());
                    self.generation = generation.expect("a generation");
                    let mut disk = lock(&self.disk);
                    disk.generation = disk.generation.max(self.generation);
                    drop(disk);
                    names.push(text);
                }
                for name in names {
                    self.reply(option, CONTEXT, &[&[0; 4][..], name.as_bytes()].concat())?;
                }
                self.reply(option, REP_ACK, &[])?;
            }
            _ => self.reply(option, REP_ERR_UNSUP, &[])?,
        }
        Ok(false)
    }

    fn reply(&mut self, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
        self.stream.write_all(&option_reply(option, kind, data))
    }

    fn request(&mut self) -> io::Result<bool> {
        let mut header = [0; 28];
        self.stream.read_exact(&mut header)?;
        let number = |at: usize| u64::from_be_bytes(header[at..at + 8].try_into().expect("8"));
        let flag = |bit: u8| header[5] & 1 << bit != 0;
        let asked = Asked {
            command: header[7],
            fua: flag(0),
            whole: flag(2),
            one: flag(3),
            fast: flag(4),
            cookie: number(8),
            at: usize::try_from(number(16)).expect("64 bits"),
            len: usize::try_from(number(20) & 0xffff_ffff).expect("32 bits"),
        };
        let mut written = vec![0; if asked.command == 1 { asked.len } else { 0 }];
        self.stream.read_exact(&mut written)?;
        if lock(&self.disk).silent {
            io::copy(&mut self.stream, &mut io::sink())?;
            return Ok(false);
        }
        if asked.command == 0 && lock(&self.disk).unanswered == Some(asked.at) {
            return Ok(true);
        }
        let crash = self.crash();
        if crash == Some(Crash::Before) {
            lock(&self.disk).crash();
            return Ok(false);
        }
        let mut errno = 0_u32;
        let mut bytes = Vec::new();
        match asked.command {
            0 => bytes = self.answer_read(&asked),
            1 => self.write(&asked, written),
            2 => return Ok(false),
            3 => errno = self.flush(),
            4 => self.trim(&asked),
            5 => self.cache(&asked),
            6 => errno = self.zero(&asked),
            7 => bytes = self.answer_extents(&asked),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
        if bytes.is_empty() {
            bytes = simple_reply(asked.cookie, errno);
        }
        if crash == Some(Crash::HalfAnswered) {
            self.stream.write_all(&bytes[..bytes.len() / 2])?;
        }
        match crash {
            // A client that receives this has to disconnect.
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

    /// Whether and where the server crashes in this request.
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

    /// Sends zeroes as holes where DF does not forbid it.
    fn answer_read(&self, asked: &Asked) -> Vec<u8> {
        let bytes = self.read(asked);
        if !self.structured {
            return [simple_reply(asked.cookie, 0), bytes].concat();
        }
        let at = |from: usize| ((asked.at + from) as u64).to_be_bytes();
        if asked.whole {
            return chunk(asked, true, DATA, &[&at(0)[..], &bytes].concat());
        }
        let mut out = Vec::new();
        for (n, piece) in bytes.chunks(GRANULE).enumerate() {
            let (from, last) = (n * GRANULE, (n + 1) * GRANULE >= bytes.len());
            let hole = piece.len() == GRANULE && piece.iter().all(|byte| *byte == 0);
            let len = u32::try_from(piece.len()).expect("short").to_be_bytes();
            let (kind, what) = if hole { (HOLE, &len[..]) } else { (DATA, piece) };
            out.extend(chunk(asked, last, kind, &[&at(from)[..], what].concat()));
        }
        out
    }

    fn answer_extents(&self, asked: &Asked) -> Vec<u8> {
        let mut payload = ID.to_be_bytes().to_vec();
        for (len, flags) in self.extents(asked) {
            payload.extend(u32::try_from(len).expect("32 bits").to_be_bytes());
            payload.extend(flags.to_be_bytes());
        }
        chunk(asked, true, EXTENTS, &payload)
    }
}

fn chunk(asked: &Asked, last: bool, kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = 0x668e_33ef_u32.to_be_bytes().to_vec();
    bytes.extend(u16::from(last).to_be_bytes());
    bytes.extend(kind.to_be_bytes());
    bytes.extend(asked.cookie.to_be_bytes());
    bytes.extend(u32::try_from(payload.len()).expect("32 bits").to_be_bytes());
    bytes.extend(payload);
    bytes
}
