//! A stream inside TLS with keys that both ends share: OpenSSL between the engine and the socket.
//!
//! The bounds are the same as with certificates (`tls.rs`): a lent buffer of received data, and at most `UNSENT` bytes
//! of plaintext that was encrypted and is not sent yet.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};

use nbd::Buffer;
use openssl::ssl::{Error, ErrorCode, SslCipherRef, SslStream};

use super::{buffer_pool, wire::Wire};
use crate::{
    text::quoted,
    tls::{self, Failure, SharedKeys},
};

/// The maximum of plaintext that is encrypted before it is sent, in bytes.
const UNSENT: usize = 16 * RECORD;
/// Bytes of plaintext in the longest record.
const RECORD: usize = 16 * 1024;

/// A stream whose handshake is complete.
#[derive(Debug)]
pub(crate) struct Shared {
    stream: SslStream<Ends>,
    /// The last receive stopped because the caller had no more room, not for lack of bytes.
    more: bool,
}

/// The socket as OpenSSL uses it. A receive takes all available bytes. Records are collected until they are sent
/// together.
#[derive(Debug)]
struct Ends {
    socket: Wire,
    received: Buffer,
    /// Bytes of plaintext that the caller of a receive could take.
    room: usize,
    unsent: Vec<u8>,
    /// Bytes at the front of `unsent` that have been sent.
    sent: usize,
}

impl Shared {
    /// Runs the TLS handshake. Nothing may have been received after STARTTLS.
    pub(crate) async fn accept(socket: Wire, keys: &SharedKeys) -> Result<Self, Failure> {
        let wire =
            Ends { socket, received: Buffer::default(), room: 0, unsent: Vec::new(), sent: 0 };
        let stream = SslStream::new(keys.begin()?, wire);
        let mut shared = Self { stream: stream.map_err(|error| error.to_string())?, more: false };
        match shared.handshake().await {
            Ok(()) => Ok(shared),
            Err(failure) => {
                // The alert tells the client the reason.
                shared.finish_sending();
                shared.wire().linger().await;
                Err(failure)
            }
        }
    }

    async fn handshake(&mut self) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::from(error.to_string());
        loop {
            let accepted = self.stream.accept();
            while let Err(error) = self.try_flush() {
                match error.kind() {
                    io::ErrorKind::WouldBlock => self.writable().await.map_err(failed)?,
                    _ => return Err(failed(error)),
                }
            }
            match accepted {
                Ok(()) => break,
                Err(error) if error.code() == ErrorCode::WANT_READ => {
                    self.wire().readable().await.map_err(failed)?;
                }
                Err(error) if error.ssl_error().is_none() => {
                    return Err("the client closed in the middle of the handshake".into());
                }
                Err(error) => {
                    let user =
                        tls::user(self.stream.ssl()).map(|user| format!(", as {}", quoted(user)));
                    let user = user.unwrap_or_default();
                    return Err(format!("no user and key of --tls-psk{user}: {}", said(&error)))?;
                }
            }
        }
        // The socket does not announce again the data that arrived with the last message of the handshake.
        self.more = true;
        tracing::debug!(
            version = self.stream.ssl().version_str(),
            suite = self.stream.ssl().current_cipher().map(SslCipherRef::name),
            user = tls::user(self.stream.ssl()),
            "inside TLS"
        );
        Ok(())
    }

    pub(super) fn try_recv(&mut self, runs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.stream.get_mut().room = runs.iter().map(|run| run.len()).sum();
        self.more = false;
        let mut taken = 0;
        for run in runs {
            let mut run: &mut [u8] = run;
            while !run.is_empty() {
                match self.stream.ssl_read(run) {
                    Ok(0) => return Ok(taken),
                    Ok(n) => {
                        taken += n;
                        run = &mut run[n..];
                    }
                    Err(error) => match error.code() {
                        ErrorCode::ZERO_RETURN => return Ok(taken),
                        ErrorCode::WANT_READ if taken > 0 => return Ok(taken),
                        ErrorCode::WANT_READ => return Err(io::ErrorKind::WouldBlock.into()),
                        _ => match cut(error) {
                            None => {
                                // A truncated message is detected anyway, because each message contains its length.
                                tracing::debug!("the client closed without TLS's close_notify");
                                return Ok(taken);
                            }
                            Some(error) => return Err(error),
                        },
                    },
                }
            }
        }
        self.more = true;
        Ok(taken)
    }

    pub(super) fn try_send(&mut self, runs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.try_flush()?;
        let mut record = [0; RECORD];
        let (mut len, mut taken) = (0, 0);
        'runs: for run in runs {
            let mut run: &[u8] = run;
            while !run.is_empty() {
                let n = run.len().min(RECORD - len);
                record[len..len + n].copy_from_slice(&run[..n]);
                (len, taken, run) = (len + n, taken + n, &run[n..]);
                if len == RECORD {
                    self.encrypt(&record)?;
                    len = 0;
                    if taken >= UNSENT {
                        break 'runs;
                    }
                }
            }
        }
        self.encrypt(&record[..len])?;
        match self.try_flush() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(taken),
        }
    }

    /// Encrypts one record, which `Ends` always accepts.
    fn encrypt(&mut self, mut record: &[u8]) -> io::Result<()> {
        while !record.is_empty() {
            let n = self
                .stream
                .ssl_write(record)
                .map_err(|error| cut(error).unwrap_or_else(|| io::ErrorKind::BrokenPipe.into()))?;
            record = &record[n..];
        }
        Ok(())
    }

    pub(super) fn try_flush(&mut self) -> io::Result<()> {
        self.stream.get_mut().send()
    }

    pub(super) fn is_flushed(&self) -> bool {
        self.stream.get_ref().unsent.is_empty()
    }

    pub(super) async fn readable(&self) -> io::Result<()> {
        if self.more { Ok(()) } else { self.wire().readable().await }
    }

    pub(super) async fn writable(&self) -> io::Result<()> {
        self.wire().writable().await
    }

    /// Tells the client that the stream ends on purpose and was not truncated.
    pub(super) fn say_goodbye(&mut self) {
        self.stream.shutdown().ok();
        // If there is no room to send it, the client is not reading.
        self.try_flush().ok();
    }

    pub(super) fn finish_sending(&mut self) {
        self.say_goodbye();
        self.wire().finish_sending();
    }

    pub(super) fn wire(&self) -> &Wire {
        &self.stream.get_ref().socket
    }

    pub(super) fn wire_mut(&mut self) -> &mut Wire {
        &mut self.stream.get_mut().socket
    }

    /// Bytes of memory held by encrypted data that waits here.
    pub(super) fn held(&self) -> u64 {
        let wire = self.stream.get_ref();
        (wire.received.capacity() + wire.unsent.capacity()) as u64
    }

    pub(super) fn rest(&mut self) {
        let wire = self.stream.get_mut();
        buffer_pool::shrink(&mut wire.received);
        if wire.unsent.is_empty() {
            wire.unsent = Vec::new();
        }
    }
}

impl Ends {
    fn send(&mut self) -> io::Result<()> {
        while self.sent < self.unsent.len() {
            self.sent += self.socket.try_send(&[IoSlice::new(&self.unsent[self.sent..])])?;
        }
        self.unsent.clear();
        self.sent = 0;
        Ok(())
    }
}

impl Read for Ends {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        if self.received.is_empty() {
            if self.room > buffer_pool::SMALL {
                buffer_pool::grow(&mut self.received);
            } else if self.received.capacity() == 0 {
                self.received = Buffer::new(vec![0; buffer_pool::SMALL].into());
            }
            let n = self.socket.try_recv(&mut [IoSliceMut::new(self.received.spare())])?;
            self.received.added(n);
        }
        let n = self.received.len().min(room.len());
        room[..n].copy_from_slice(&self.received.filled()[..n]);
        self.received.consume(n);
        Ok(n)
    }
}

impl Write for Ends {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // There are few answers to the client's own records. No honest client causes more than this bound.
        if self.unsent.len() > 2 * UNSENT {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.unsent.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The text of the last entry in OpenSSL's stack of errors.
fn said(error: &Error) -> String {
    let last = error.ssl_error().and_then(|all| all.errors().last());
    last.and_then(openssl::error::Error::reason).map_or_else(|| error.to_string(), str::to_owned)
}

/// The error of the socket or of TLS; `None` if the client closed without close_notify.
fn cut(error: Error) -> Option<io::Error> {
    /// ERR_LIB_SSL and SSL_R_UNEXPECTED_EOF_WHILE_READING of OpenSSL 3, which the crate does not name.
    const UNEXPECTED_EOF: (libc::c_int, libc::c_int) = (20, 294);
    let last = error.ssl_error().map(|all| all.errors().last());
    let last = last.map(|last| last.map(|last| (last.library_code(), last.reason_code())));
    if last.is_some_and(|last| last != Some(UNEXPECTED_EOF)) {
        let failure = Failure::from(said(&error));
        return Some(io::Error::new(io::ErrorKind::InvalidData, failure));
    }
    error.into_io_error().ok()
}
