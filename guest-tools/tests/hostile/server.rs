//! A server that keeps to the protocol but where a script says otherwise. Its disk is as large as is
//! wanted, holds the pattern of `write --pattern`, and forgets what is written to it.

use std::{
    io::{self, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    sync::Arc,
    thread,
    time::Duration,
};

use rustls::ServerConfig;
pub(crate) use support::wire::{option_reply as reply, simple_reply as simple};
use tempfile::TempDir;

use crate::channel::{Channel, Pace, config};

pub(crate) const GREETING: &[u8] = b"NBDMAGICIHAVEOPT\x00\x03";
/// Options, as the protocol numbers them.
pub(crate) const EXPORT_NAME: u32 = 1;
pub(crate) const LIST: u32 = 3;
pub(crate) const STARTTLS: u32 = 5;
pub(crate) const INFO: u32 = 6;
pub(crate) const GO: u32 = 7;
pub(crate) const STRUCTURED: u32 = 8;
pub(crate) const LIST_CONTEXTS: u32 = 9;
pub(crate) const SET_CONTEXTS: u32 = 10;
pub(crate) const EXTENDED: u32 = 11;
/// Replies to options.
pub(crate) const ACK: u32 = 1;
pub(crate) const SERVER: u32 = 2;
pub(crate) const TOLD: u32 = 3;
pub(crate) const CONTEXT: u32 = 4;
pub(crate) const UNSUP: u32 = 1 << 31 | 1;
pub(crate) const POLICY: u32 = 1 << 31 | 2;
/// Commands.
pub(crate) const READ: u16 = 0;
pub(crate) const WRITE: u16 = 1;
pub(crate) const FLUSH: u16 = 3;
pub(crate) const STATUS: u16 = 7;
/// Chunks, and the flag of the last.
pub(crate) const NONE: u16 = 0;
pub(crate) const DATA: u16 = 1;
pub(crate) const HOLE: u16 = 2;
pub(crate) const EXTENTS: u16 = 5;
pub(crate) const WIDE_EXTENTS: u16 = 6;
pub(crate) const ERROR: u16 = 1 << 15 | 1;
pub(crate) const ERROR_AT: u16 = 1 << 15 | 2;
pub(crate) const DONE: u16 = 1;

/// Everything but read-only, rotational, FAST_ZERO and what is newer.
pub(crate) const FLAGS: u16 = 0b101_1110_1101;
/// The id of `base:allocation`.
pub(crate) const ID: u32 = 7;

/// What the client waits for an answer to.
#[derive(Debug, Clone)]
pub(crate) enum Asked {
    Greeting,
    Option {
        code: u32,
        /// Which connection it is, from 0 on.
        nth: usize,
    },
    Request(Request),
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Request {
    /// Of which connection.
    pub(crate) nth: usize,
    pub(crate) extended: bool,
    pub(crate) command: u16,
    pub(crate) cookie: u64,
    pub(crate) at: u64,
    pub(crate) len: u64,
}

/// What it gets instead.
#[derive(Debug)]
pub(crate) enum Act {
    Say(Vec<u8>),
    /// These bytes, and again, for as long as the client takes them.
    Endless(Vec<u8>),
    /// A byte each so often; of the records, inside TLS. In place of an answer to STARTTLS, of the
    /// handshake too.
    Drip(Vec<u8>, Duration),
    /// The same at another pace.
    Flow(Vec<u8>, Pace),
    /// Nothing, while the client stays.
    Mute,
    /// These bytes, and then no ear for the client either.
    Deaf(Vec<u8>),
    /// The end, after these bytes.
    Close(Vec<u8>),
}

/// What is said instead of the honest answer, which it is given.
pub(crate) type Script = fn(&Asked, Vec<u8>) -> Act;

pub(crate) const HONEST: Script = |_, honest| Act::Say(honest);

/// The most that the server agrees to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Framing {
    Simple,
    Structured,
    Extended,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Manner {
    pub(crate) framing: Framing,
    /// Bytes of the export.
    pub(crate) size: u64,
    pub(crate) script: Script,
    /// It dies after so many bytes of one connection.
    pub(crate) lives: usize,
    /// And only of the first one.
    pub(crate) recovers: bool,
    /// What it says is inside TLS, and nothing outside.
    pub(crate) tls: bool,
}

impl Manner {
    pub(crate) const fn new(framing: Framing, script: Script) -> Self {
        let (size, lives) = (64 << 10, usize::MAX);
        Self { framing, size, script, lives, recovers: false, tls: false }
    }

    pub(crate) const fn inside_tls(self) -> Self {
        Self { tls: true, ..self }
    }
}

pub(crate) struct Server {
    pub(crate) uri: String,
    pub(crate) dir: TempDir,
}

impl Server {
    pub(crate) fn start(manner: Manner) -> Self {
        let dir = TempDir::with_prefix("guest-tools-test-").expect("a directory");
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).expect("a socket");
        let tls = manner.tls.then(|| config(dir.path()));
        let (scheme, words) = match tls {
            Some(_) => ("nbds+unix", format!("&tls-certificates={}", dir.path().display())),
            None => ("nbd+unix", String::new()),
        };
        let uri = format!("{scheme}:///?socket={}{words}", path.display());
        thread::spawn(move || {
            for (nth, stream) in listener.incoming().map_while(Result::ok).enumerate() {
                // It ends with an error when its client leaves.
                let tls = tls.clone();
                thread::spawn(move || drop(Session::new(stream, manner, nth, tls).serve()));
            }
        });
        Self { uri, dir }
    }
}

struct Session {
    stream: Channel,
    /// What STARTTLS needs, until it was asked for.
    tls: Option<Arc<ServerConfig>>,
    manner: Manner,
    nth: usize,
    agreed: Framing,
    left: usize,
}

impl Session {
    fn new(stream: UnixStream, manner: Manner, nth: usize, tls: Option<Arc<ServerConfig>>) -> Self {
        let left = if manner.recovers && nth > 0 { usize::MAX } else { manner.lives };
        Self { stream: Channel::new(stream), tls, manner, nth, agreed: Framing::Simple, left }
    }

    fn serve(mut self) -> io::Result<()> {
        self.answer(&Asked::Greeting, GREETING.to_vec())?;
        self.stream.read_exact(&mut [0; 4])?;
        if self.manner.tls {
            self.option()?;
            let Some(config) = self.tls.take() else { return Ok(()) };
            self.stream = self.stream.secured(&config);
        }
        while !self.option()? {}
        while self.request()? {}
        Ok(())
    }

    fn answer(&mut self, asked: &Asked, honest: Vec<u8>) -> io::Result<()> {
        match (self.manner.script)(asked, honest) {
            Act::Say(bytes) => self.say(&bytes),
            Act::Endless(bytes) => loop {
                self.say(&bytes)?;
            },
            Act::Drip(bytes, pause) => self.flow(asked, &bytes, (1, pause)),
            Act::Flow(bytes, pace) => self.flow(asked, &bytes, pace),
            Act::Mute => loop {
                if self.stream.read(&mut [0; 4096])? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            },
            Act::Deaf(bytes) => {
                self.say(&bytes)?;
                loop {
                    thread::park();
                }
            }
            Act::Close(bytes) => {
                self.say(&bytes)?;
                Err(io::ErrorKind::ConnectionAborted.into())
            }
        }
    }

    fn flow(&mut self, asked: &Asked, bytes: &[u8], pace: Pace) -> io::Result<()> {
        self.stream.slows(Some(pace));
        self.say(bytes)?;
        // A handshake comes next.
        let goes_on = matches!(asked, Asked::Option { code: STARTTLS, .. });
        self.stream.slows(Some(pace).filter(|_| goes_on));
        Ok(())
    }

    fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        let part = bytes.len().min(self.left);
        self.left -= part;
        self.stream.write_all(&bytes[..part])?;
        self.stream.flush()?;
        if part < bytes.len() { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }

    /// Whether the transmission begins.
    fn option(&mut self) -> io::Result<bool> {
        let mut header = [0; 16];
        self.stream.read_exact(&mut header)?;
        let code = u32::from_be_bytes(header[8..12].try_into().expect("4 bytes"));
        let len = u32::from_be_bytes(header[12..].try_into().expect("4 bytes"));
        let mut data = vec![0; len as usize];
        self.stream.read_exact(&mut data)?;
        let wanted = match code {
            STRUCTURED => Framing::Structured,
            EXTENDED => Framing::Extended,
            _ => Framing::Simple,
        };
        let unsupported = || reply(code, UNSUP, &[]);
        let honest = match code {
            STARTTLS if self.tls.is_some() => reply(code, ACK, &[]),
            STRUCTURED | EXTENDED if wanted <= self.manner.framing => {
                self.agreed = wanted;
                reply(code, ACK, &[])
            }
            LIST => [reply(code, SERVER, &[0; 4]), reply(code, ACK, &[])].concat(),
            INFO | GO => told(code, self.manner.size, FLAGS),
            LIST_CONTEXTS if self.agreed > Framing::Simple => contexts(code, 0),
            SET_CONTEXTS if self.agreed > Framing::Simple => contexts(code, ID),
            EXPORT_NAME => [&self.manner.size.to_be_bytes()[..], &FLAGS.to_be_bytes()].concat(),
            _ => unsupported(),
        };
        let refused = honest.get(12) == Some(&0x80);
        let asked = Asked::Option { code, nth: self.nth };
        self.answer(&asked, honest)?;
        Ok(matches!(code, GO | EXPORT_NAME) && !refused)
    }

    fn request(&mut self) -> io::Result<bool> {
        let mut header = [0; 32];
        let extended = self.agreed == Framing::Extended;
        let len = if extended { 32 } else { 28 };
        self.stream.read_exact(&mut header[..len])?;
        let long = |at: usize| u64::from_be_bytes(header[at..at + 8].try_into().expect("8 bytes"));
        let request = Request {
            nth: self.nth,
            extended,
            command: u16::from_be_bytes([header[6], header[7]]),
            cookie: long(8),
            at: long(16),
            len: if extended { long(24) } else { long(20) & 0xffff_ffff },
        };
        let Request { command, cookie, at, len, .. } = request;
        let mut honest = match (command, self.agreed) {
            (2, _) => return Ok(false),
            (READ, Framing::Simple) => simple(cookie, 0),
            (READ, _) => {
                chunk(&request, 0, DATA, &[&at.to_be_bytes()[..], &pattern(at, len)].concat())
            }
            (STATUS, _) => status(&request, &[(len, 0)]),
            (_, Framing::Simple | Framing::Structured) => simple(cookie, 0),
            (..) => Vec::new(),
        };
        match (command, self.agreed) {
            (READ, Framing::Simple) => honest.extend(pattern(at, len)),
            (READ, _) | (_, Framing::Extended) => honest.extend(chunk(&request, DONE, NONE, &[])),
            _ => {}
        }
        if command == WRITE {
            io::copy(&mut (&mut self.stream).take(len), &mut io::sink())?;
        }
        self.answer(&Asked::Request(request), honest)?;
        Ok(true)
    }
}

/// What the disk holds: each aligned 8 bytes are their own offset.
pub(crate) fn pattern(at: u64, len: u64) -> Vec<u8> {
    let byte = |at: u64| (at & !7).to_be_bytes()[usize::try_from(at & 7).expect("small")];
    (at..at + len).map(byte).collect()
}

/// NBD_REP_INFO of any kind.
pub(crate) fn info(option: u32, kind: u16, data: &[u8]) -> Vec<u8> {
    reply(option, TOLD, &[&kind.to_be_bytes()[..], data].concat())
}

/// The answer to INFO and GO.
pub(crate) fn told(option: u32, size: u64, flags: u16) -> Vec<u8> {
    let export = [&size.to_be_bytes()[..], &flags.to_be_bytes()].concat();
    [info(option, 0, &export), reply(option, ACK, &[])].concat()
}

/// One export of a list.
pub(crate) fn listed(name: &[u8], description: &[u8]) -> Vec<u8> {
    let len = u32::try_from(name.len()).expect("short");
    reply(LIST, SERVER, &[&len.to_be_bytes()[..], name, description].concat())
}

fn contexts(option: u32, id: u32) -> Vec<u8> {
    [context(option, id, b"base:allocation"), reply(option, ACK, &[])].concat()
}

pub(crate) fn context(option: u32, id: u32, name: &[u8]) -> Vec<u8> {
    reply(option, CONTEXT, &[&id.to_be_bytes()[..], name].concat())
}

pub(crate) fn chunk(request: &Request, flags: u16, kind: u16, payload: &[u8]) -> Vec<u8> {
    [head(request, flags, kind, payload.len() as u64), payload.to_vec()].concat()
}

/// The header of a chunk of any length.
pub(crate) fn head(request: &Request, flags: u16, kind: u16, len: u64) -> Vec<u8> {
    let magic = if request.extended { 0x6e8a_278c_u32 } else { 0x668e_33ef };
    let mut bytes = magic.to_be_bytes().to_vec();
    bytes.extend(flags.to_be_bytes());
    bytes.extend(kind.to_be_bytes());
    bytes.extend(request.cookie.to_be_bytes());
    if request.extended {
        bytes.extend(request.at.to_be_bytes());
        bytes.extend(len.to_be_bytes());
    } else {
        bytes.extend(u32::try_from(len).expect("32 bits").to_be_bytes());
    }
    bytes
}

/// The answer to NBD_CMD_BLOCK_STATUS, but for its end where that is honest.
pub(crate) fn status(request: &Request, extents: &[(u64, u32)]) -> Vec<u8> {
    let mut payload = ID.to_be_bytes().to_vec();
    if request.extended {
        payload.extend(u32::try_from(extents.len()).expect("few").to_be_bytes());
    }
    for (len, flags) in extents {
        if request.extended {
            payload.extend(len.to_be_bytes());
            payload.extend(u64::from(*flags).to_be_bytes());
        } else {
            payload.extend(u32::try_from(*len).expect("32 bits").to_be_bytes());
            payload.extend(flags.to_be_bytes());
        }
    }
    let kind = if request.extended { WIDE_EXTENTS } else { EXTENTS };
    // In structured replies this chunk is all; extended ones have an end behind it.
    chunk(request, if request.extended { 0 } else { DONE }, kind, &payload)
}
