//! A stream inside TLS: rustls between the engine and the socket.
//!
//! Bounds of one connection: data that was received and is not decrypted yet is in a lent buffer (`buffer_pool`).
//! Decrypted data is at most two records of 16 KiB. Encrypted data that is not sent yet is at most `UNSENT` bytes plus
//! the overhead of its records.

use std::{
    io::{self, IoSlice, IoSliceMut, Read, Write},
    sync::Arc,
};

use nbd::Buffer;

use super::{buffer_pool, wire::Wire};
use crate::tls::{self, Certificate, Failure, IoState, ServerConfig, ServerConnection};

/// The maximum of plaintext that is encrypted before it is sent, in bytes: a number of whole records.
const UNSENT: usize = 16 * 16 * 1024;
/// The maximum of runs per call: rustls goes through all of them for each record.
const RUNS: usize = 128;

/// A stream whose handshake is complete.
#[derive(Debug)]
pub(crate) struct Secure {
    socket: Wire,
    session: ServerConnection,
    /// Received, and not yet passed to the session.
    received: Buffer,
    /// The last receive stopped because the caller had no more room, not for lack of bytes.
    more: bool,
}

impl Secure {
    /// Runs the TLS handshake. Nothing may have been received after STARTTLS.
    pub(crate) async fn accept(socket: Wire, config: &Arc<ServerConfig>) -> Result<Self, Failure> {
        let mut session = ServerConnection::new(Arc::clone(config)).map_err(Failure::from)?;
        session.set_buffer_limit(Some(UNSENT));
        let mut secure = Self { socket, session, received: Buffer::default(), more: false };
        match secure.handshake().await {
            Ok(()) => Ok(secure),
            Err(error) => {
                // The alert tells the client the reason.
                secure.finish_sending();
                secure.socket.linger().await;
                Err(super::failure(&error).unwrap_or_else(|| error.to_string().into()))
            }
        }
    }

    async fn handshake(&mut self) -> io::Result<()> {
        loop {
            match self.try_flush() {
                Ok(()) if !self.session.is_handshaking() => break,
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.socket.writable().await?;
                    continue;
                }
                Err(error) => return Err(error),
            }
            if self.received.is_empty() {
                match self.receive(0) {
                    Ok(0) => return Err(closed()),
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.socket.readable().await?;
                        continue;
                    }
                    Err(error) => return Err(error),
                }
            }
            if self.decrypt()?.peer_has_closed() {
                return Err(closed());
            }
        }
        // The socket does not announce again the data that arrived with the last message of the handshake.
        self.more = true;
        tracing::debug!(
            version = self.session.protocol_version().and_then(|version| version.as_str()),
            suite = self.session.negotiated_cipher_suite().and_then(|it| it.suite().as_str()),
            certificate = self.certificate().map(tracing::field::display),
            "inside TLS"
        );
        Ok(())
    }

    pub(super) fn try_recv(&mut self, runs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let room: usize = runs.iter().map(|run| run.len()).sum();
        self.more = false;
        let mut taken = 0;
        let mut runs = runs.iter_mut();
        let mut run: &mut [u8] = &mut [];
        loop {
            while run.is_empty() {
                let Some(next) = runs.next() else {
                    self.more = true;
                    return Ok(taken);
                };
                run = next;
            }
            match self.session.reader().read(run) {
                Ok(0) => return Ok(taken),
                Ok(n) => {
                    taken += n;
                    run = &mut run[n..];
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // A truncated message is detected anyway, because each message contains its length.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    tracing::debug!("the client closed without TLS's close_notify");
                    return Ok(taken);
                }
                Err(error) => return Err(error),
            }
            if self.received.is_empty() {
                match self.receive(room) {
                    Ok(0) => {
                        self.session.read_tls(&mut io::empty())?;
                        continue;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock && taken > 0 => {
                        return Ok(taken);
                    }
                    received => received?,
                };
            }
            self.decrypt()?;
        }
    }

    /// Receives once from the socket. `room` is how many bytes of plaintext the caller could take.
    fn receive(&mut self, room: usize) -> io::Result<usize> {
        if room > buffer_pool::SMALL {
            buffer_pool::grow(&mut self.received);
        } else if self.received.capacity() == 0 {
            self.received = Buffer::new(vec![0; buffer_pool::SMALL].into());
        }
        let n = self.socket.try_recv(&mut [IoSliceMut::new(self.received.spare())])?;
        self.received.added(n);
        Ok(n)
    }

    /// Passes some of the received data to the session. One call takes less than a record, and yields at most one
    /// record's plaintext.
    fn decrypt(&mut self) -> io::Result<IoState> {
        let mut bytes = self.received.filled();
        let n = self.session.read_tls(&mut bytes)?;
        self.received.consume(n);
        let processed = self.session.process_new_packets();
        processed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, Failure::from(error)))
    }

    pub(super) fn try_send(&mut self, runs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.try_flush()?;
        let n = self.session.writer().write_vectored(&runs[..runs.len().min(RUNS)])?;
        match self.try_flush() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(n),
        }
    }

    pub(super) fn try_flush(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            self.session.write_tls(&mut Sink(&self.socket))?;
        }
        Ok(())
    }

    pub(super) fn is_flushed(&self) -> bool {
        !self.session.wants_write()
    }

    /// Bytes of memory held by encrypted data that waits here.
    pub(super) fn held(&self) -> u64 {
        let unsent = if self.is_flushed() { 0 } else { UNSENT };
        (self.received.capacity() + unsent) as u64
    }

    pub(super) async fn readable(&self) -> io::Result<()> {
        if self.more { Ok(()) } else { self.socket.readable().await }
    }

    pub(super) async fn writable(&self) -> io::Result<()> {
        self.socket.writable().await
    }

    /// Tells the client that the stream ends on purpose and was not truncated.
    pub(super) fn say_goodbye(&mut self) {
        self.session.send_close_notify();
        // If there is no room to send it, the client is not reading.
        self.try_flush().ok();
    }

    pub(super) fn finish_sending(&mut self) {
        self.say_goodbye();
        self.socket.finish_sending();
    }

    pub(super) fn wire(&self) -> &Wire {
        &self.socket
    }

    pub(super) fn wire_mut(&mut self) -> &mut Wire {
        &mut self.socket
    }

    pub(super) fn rest(&mut self) {
        buffer_pool::shrink(&mut self.received);
    }

    pub(super) fn certificate(&self) -> Option<Arc<Certificate>> {
        tls::certificate(&self.session).map(Arc::new)
    }
}

fn closed() -> io::Error {
    io::Error::other("the client closed in the middle of the handshake")
}

/// The socket as rustls writes to it.
struct Sink<'a>(&'a Wire);

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_send(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, runs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_send(runs)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
