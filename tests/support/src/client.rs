//! A raw client. It sends what a test says, also what no client may send.

use std::{
    io::{ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
};

use crate::{
    DEADLINE,
    wire::{
        CLIENT_FLAGS, DISC, GREETING, OPT_EXPORT_NAME, OPT_GO, READ, REP_ACK, REP_INFO, WRITE,
        export, option, request,
    },
};

/// A reply to an option.
#[derive(Debug)]
pub struct OptionReply {
    /// The option that is answered.
    pub option: u32,
    /// NBD_REP_*.
    pub kind: u32,
    /// What follows the header.
    pub data: Vec<u8>,
}

impl OptionReply {
    /// Receives one.
    pub fn receive(stream: &mut impl Read) -> std::io::Result<Self> {
        let mut header = [0; 20];
        stream.read_exact(&mut header)?;
        assert_eq!(header[..8], 0x0003_e889_0455_65a9_u64.to_be_bytes(), "an option reply");
        let number = |i: usize| u32::from_be_bytes(header[i..i + 4].try_into().expect("4 bytes"));
        let mut data = vec![0; number(16) as usize];
        stream.read_exact(&mut data)?;
        Ok(Self { option: number(8), kind: number(12), data })
    }

    /// Whether no further reply to the option follows: it is an acknowledgement or an error.
    pub fn is_last(&self) -> bool {
        self.kind == REP_ACK || self.kind >> 31 == 1
    }
}

/// Connects to a Unix socket and receives the greeting.
pub fn greeted(socket: &Path) -> UnixStream {
    let mut stream = UnixStream::connect(socket).expect("a server that listens");
    receive_greeting(&mut stream);
    stream
}

/// Receives the greeting of a newstyle server, whatever its flags.
pub fn receive_greeting(stream: &mut impl Read) {
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting).expect("a greeting");
    assert_eq!(&greeting[..16], GREETING);
}

/// Opens the default export by NBD_OPT_EXPORT_NAME, after the greeting; its size.
pub fn opened(stream: &mut (impl Read + Write)) -> u64 {
    opened_export(stream, "")
}

/// Opens an export by NBD_OPT_EXPORT_NAME, after the greeting; its size.
pub fn opened_export(stream: &mut (impl Read + Write), name: &str) -> u64 {
    let bytes = [&CLIENT_FLAGS[..], &option(OPT_EXPORT_NAME, name.as_bytes())].concat();
    stream.write_all(&bytes).expect("a server that reads");
    let mut reply = [0; 10];
    stream.read_exact(&mut reply).expect("a size and flags");
    u64::from_be_bytes(reply[..8].try_into().expect("8 bytes"))
}

/// Sends an option, and receives the types of its replies up to the last one.
pub fn ask(stream: &mut (impl Read + Write), code: u32, data: &[u8]) -> Vec<u32> {
    stream.write_all(&option(code, data)).expect("a server that reads");
    replies(stream, code)
}

/// The types of the replies to an option that was sent, up to the last one.
pub fn replies(stream: &mut impl Read, code: u32) -> Vec<u32> {
    let mut kinds = Vec::new();
    loop {
        let reply = OptionReply::receive(stream).expect("a reply");
        assert_eq!(reply.option, code, "the option that is answered");
        kinds.push(reply.kind);
        if reply.is_last() {
            return kinds;
        }
    }
}

/// A client on any stream.
#[derive(Debug)]
pub struct Client<S = UnixStream> {
    /// The connection.
    pub stream: S,
}

impl Client {
    /// Connects to a Unix socket. Sends and receives fail at the deadline.
    pub fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).expect("the server listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        stream.set_write_timeout(Some(DEADLINE)).expect("a timeout");
        Self { stream }
    }
}

impl<S: Read + Write> Client<S> {
    /// Sends all of `bytes`.
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server takes bytes");
    }

    /// Receives `N` bytes.
    pub fn recv<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes).expect("the server answers");
        bytes
    }

    /// Receives `len` bytes.
    pub fn recv_len(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).expect("the server answers");
        bytes
    }

    /// Receives until the server closes. A reset counts as a close.
    pub fn recv_to_end(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.stream.read_to_end(&mut bytes) {
            Err(error) if error.kind() != ErrorKind::ConnectionReset => {
                panic!("the server does not close: {error}")
            }
            _ => bytes,
        }
    }

    /// Receives the greeting and answers with fixed newstyle without zeroes.
    pub fn greet(&mut self) {
        assert_eq!(&self.recv::<18>(), b"NBDMAGICIHAVEOPT\0\x03");
        self.send(&CLIENT_FLAGS);
    }

    /// Sends an option.
    pub fn option(&mut self, code: u32, data: &[u8]) {
        self.send(&option(code, data));
    }

    /// Receives one reply to an option: its type and its data.
    pub fn option_reply(&mut self) -> (u32, Vec<u8>) {
        let reply = OptionReply::receive(&mut self.stream).expect("the server answers");
        (reply.kind, reply.data)
    }

    /// Opens the default export with simple replies; its size.
    pub fn negotiate(&mut self) -> u64 {
        self.negotiate_export("")
    }

    /// Opens an export with simple replies; its size.
    pub fn negotiate_export(&mut self, name: &str) -> u64 {
        self.greet();
        self.go(name)
    }

    /// Opens an export by NBD_OPT_GO; its size.
    pub fn go(&mut self, name: &str) -> u64 {
        self.option(OPT_GO, &export(name));
        let mut size = 0;
        loop {
            match self.option_reply() {
                (REP_INFO, info) if info[..2] == [0, 0] => {
                    size = u64::from_be_bytes(info[2..10].try_into().expect("8 bytes"));
                }
                (REP_INFO, _) => {}
                (REP_ACK, _) => return size,
                (code, text) => panic!("GO failed: {code:#x} {}", String::from_utf8_lossy(&text)),
            }
        }
    }

    /// Sends a request without payload.
    pub fn request(&mut self, command: u16, cookie: u64, offset: u64, len: u32) {
        self.send(&request(command, cookie, offset, len));
    }

    /// Receives the error and the cookie of a simple reply.
    pub fn reply(&mut self) -> (u32, u64) {
        let header = self.recv::<16>();
        assert_eq!(&header[..4], &0x6744_6698_u32.to_be_bytes(), "a simple reply");
        let error = u32::from_be_bytes(header[4..8].try_into().expect("4 bytes"));
        (error, u64::from_be_bytes(header[8..].try_into().expect("8 bytes")))
    }

    /// Reads, with a simple reply.
    pub fn read_at(&mut self, offset: u64, len: u32) -> Vec<u8> {
        self.request(READ, 77, offset, len);
        assert_eq!(self.reply(), (0, 77));
        self.recv_len(len as usize)
    }

    /// Writes, with a simple reply.
    pub fn write_at(&mut self, offset: u64, data: &[u8]) {
        let len = u32::try_from(data.len()).expect("short");
        self.request(WRITE, 78, offset, len);
        self.send(data);
        assert_eq!(self.reply(), (0, 78));
    }

    /// Disconnects in order, and waits until the server has closed.
    pub fn disconnect(mut self) {
        self.request(DISC, 0, 0, 0);
        assert!(self.recv_to_end().is_empty());
    }
}
