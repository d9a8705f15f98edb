//! The noisy tenant: connections that randomly do what costs a server most.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use nix::{
    libc,
    sys::socket::{setsockopt, sockopt},
};
use support::{
    client::OptionReply,
    random::Random,
    wire::{
        CACHE, CLIENT_FLAGS, FLUSH, OPT_EXTENDED, OPT_GO, OPT_LIST, OPT_SET_CONTEXT,
        OPT_STRUCTURED, PAYLOAD, READ, STATUS, TRIM, WRITE, ZERO, export, extended, option,
        request_with,
    },
};

/// Threads that make noise, and connections that each of them keeps.
const THREADS: u64 = 3;
const KEPT: usize = 20;
/// A send that the agent does not accept for this long is given up, even in the middle of a request.
const PATIENCE: Duration = Duration::from_millis(10);
/// The longest payload that the agent accepts.
const PAYLOAD_MOST: u64 = 64 << 20;
/// How many bytes of a payload are sent at once.
const PIECE: usize = 1 << 20;

/// A tenant that makes noise at this address.
pub(crate) struct Noise {
    pub(crate) address: SocketAddr,
    /// The size of the disk, in bytes.
    pub(crate) size: u64,
    pub(crate) seed: u64,
}

/// The form of a connection's requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    Simple,
    Structured,
    Extended,
}

struct Connection {
    stream: TcpStream,
    dialect: Dialect,
}

impl Noise {
    /// Makes noise until `stop`. Then all connections are closed, and the number of those that reached
    /// transmission is returned.
    pub(crate) fn make(&self, stop: &AtomicBool) -> u64 {
        let open = AtomicU64::new(0);
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let open = &open;
                scope.spawn(move || {
                    let mut random = Random::new(self.seed ^ thread << 56);
                    let mut kept = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        // An error means that the agent has closed a connection, or does not read from it.
                        self.act(&mut random, &mut kept, open).ok();
                    }
                });
            }
        });
        open.into_inner()
    }

    fn act(
        &self,
        random: &mut Random,
        kept: &mut Vec<Connection>,
        open: &AtomicU64,
    ) -> io::Result<()> {
        if random.one_in(12) {
            return self.visit(random);
        }
        let mut connection = if !kept.is_empty() && random.one_in(3) {
            let which = random.below(kept.len() as u64);
            kept.swap_remove(usize::try_from(which).expect("small"))
        } else {
            let connection = Connection::open(self.address, random)?;
            open.fetch_add(1, Ordering::Relaxed);
            connection
        };
        let done = self.misuse(&mut connection, random);
        if kept.len() < KEPT {
            // Also a connection that stopped in the middle of something.
            kept.push(connection);
        }
        done
    }

    /// Clients that connect and leave before they open a disk.
    fn visit(&self, random: &mut Random) -> io::Result<()> {
        for _ in 0..random.below(30) {
            let mut stream = TcpStream::connect(self.address)?;
            let handshake =
                [&CLIENT_FLAGS[..], &option(OPT_LIST, &[]), &option(OPT_GO, &export(""))];
            let handshake = handshake.concat();
            let cut = usize::try_from(random.below(handshake.len() as u64 + 1)).expect("small");
            stream.write_all(&handshake[..cut])?;
        }
        Ok(())
    }

    fn misuse(&self, connection: &mut Connection, random: &mut Random) -> io::Result<()> {
        match random.below(8) {
            // Requests whose replies are not read, or all read.
            0 | 1 => {
                let most = 1 << random.below(26);
                let count = random.length(400);
                self.flood(connection, random, count, |random| (READ, random.length(most)))?;
            }
            // A payload that stops, perhaps before its last byte.
            2 | 3 => {
                let len = random.length(PAYLOAD_MOST);
                let missing = if random.one_in(2) { 1 } else { random.below(len) };
                self.write(connection, random, len, len - missing)?;
            }
            // Complete writes.
            4 => {
                for _ in 0..random.length(200) {
                    let most = 64 << random.below(15);
                    let len = random.length(most);
                    self.write(connection, random, len, len)?;
                }
            }
            // The whole disk, again and again.
            5 | 6 => {
                let command = [TRIM, ZERO, CACHE, STATUS, FLUSH];
                let count = random.length(2000);
                let whole = random.one_in(2);
                self.flood(connection, random, count, |random| {
                    let which = usize::try_from(random.below(5)).expect("small");
                    (command[which], if whole { u64::MAX } else { random.length(1 << 40) })
                })?;
            }
            _ => {
                let count = random.length(8000);
                self.flood(connection, random, count, |random| {
                    (u16::try_from(random.below(9)).expect("small"), random.length(4096))
                })?;
            }
        }
        if random.one_in(3) { drain(&mut connection.stream) } else { Ok(()) }
    }

    /// Sends many requests at once.
    fn flood(
        &self,
        connection: &mut Connection,
        random: &mut Random,
        count: u64,
        one: impl Fn(&mut Random) -> (u16, u64),
    ) -> io::Result<()> {
        let mut bytes = Vec::new();
        for _ in 0..count {
            let (mut command, len) = one(random);
            if matches!(command, WRITE | 2) {
                // Payloads are sent elsewhere, and a DISC would end the noise.
                command = READ;
            }
            let len = if command == FLUSH { 0 } else { len.min(self.size) };
            let offset = if command == FLUSH { 0 } else { random.below(self.size - len + 1) };
            let flags = flags_of(command, random);
            bytes.extend(connection.dialect.request(flags, command, offset, len));
        }
        connection.stream.write_all(&bytes)
    }

    /// A write of `len` bytes of which only a part is sent.
    fn write(
        &self,
        connection: &mut Connection,
        random: &mut Random,
        len: u64,
        sent: u64,
    ) -> io::Result<()> {
        static PAYLOAD_BYTES: [u8; PIECE] = [7; PIECE];
        let len = len.min(self.size);
        let offset = random.below(self.size - len + 1);
        let flags = flags_of(WRITE, random);
        connection.stream.write_all(&connection.dialect.request(flags, WRITE, offset, len))?;
        let mut rest = usize::try_from(sent.min(len)).expect("64 MiB at most");
        while rest > 0 {
            let piece = rest.min(PIECE);
            connection.stream.write_all(&PAYLOAD_BYTES[..piece])?;
            rest -= piece;
        }
        Ok(())
    }
}

/// Random flags that are valid for the command.
fn flags_of(command: u16, random: &mut Random) -> u16 {
    let bits = u16::try_from(random.below(1 << 5)).expect("small");
    match command {
        WRITE => bits & 1 | PAYLOAD,
        READ => bits & 1 << 2,
        TRIM => bits & 1,
        ZERO => bits & (1 | 1 << 1 | 1 << 4),
        STATUS => bits & 1 << 3,
        _ => 0,
    }
}

impl Dialect {
    fn request(self, flags: u16, command: u16, offset: u64, len: u64) -> Vec<u8> {
        if self == Self::Extended {
            return extended(flags, command, 9, offset, len);
        }
        let len = u32::try_from(len).unwrap_or(!4095);
        request_with(flags & !PAYLOAD, command, 9, offset, len)
    }
}

/// Leaves with a reset. The end of a TCP stream comes after the client's unread bytes, so a server that does
/// not read cannot see it.
impl Drop for Connection {
    fn drop(&mut self) {
        let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
        setsockopt(&self.stream, sockopt::Linger, &at_once).expect("SO_LINGER");
    }
}

impl Connection {
    /// A connection in transmission.
    fn open(address: SocketAddr, random: &mut Random) -> io::Result<Self> {
        let dialect = match random.below(4) {
            0 => Dialect::Simple,
            1 => Dialect::Structured,
            _ => Dialect::Extended,
        };
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut words = CLIENT_FLAGS.to_vec();
        let mut replies = 1;
        if dialect != Dialect::Simple {
            let mode = if dialect == Dialect::Extended { OPT_EXTENDED } else { OPT_STRUCTURED };
            words.extend(option(mode, &[]));
            let query =
                [&[0; 4][..], &1u32.to_be_bytes(), &15u32.to_be_bytes(), b"base:allocation"];
            words.extend(option(OPT_SET_CONTEXT, &query.concat()));
            replies = 3;
        }
        words.extend(option(OPT_GO, &export("")));
        stream.write_all(&words)?;
        stream.read_exact(&mut [0; 18])?;
        while replies > 0 {
            replies -= u32::from(OptionReply::receive(&mut stream)?.is_last());
        }
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream, dialect })
    }
}

/// Reads for a while.
fn drain(stream: &mut TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    for _ in 0..200 {
        if stream.read(&mut buffer)? == 0 {
            break;
        }
    }
    Ok(())
}
