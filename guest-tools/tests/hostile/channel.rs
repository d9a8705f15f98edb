//! A server's end of a connection, in plain text or inside TLS.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    sync::Arc,
    thread,
    time::Duration,
};

use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use support::certificates::Ca;

/// So many bytes, each so often.
pub(crate) type Pace = (usize, Duration);

/// Writes at a pace, if that is wanted.
struct Slow {
    stream: UnixStream,
    pace: Option<Pace>,
}

impl Read for Slow {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        self.stream.read(room)
    }
}

impl Write for Slow {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.pace {
            None => self.stream.write(bytes),
            Some((step, pause)) => {
                // There is no event to wait for: it is slow.
                thread::sleep(pause);
                self.stream.write(&bytes[..step.min(bytes.len())])
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Inner {
    Plain(Slow),
    Tls(Box<StreamOwned<ServerConnection, Slow>>),
}

pub(crate) struct Channel(Inner);

impl Channel {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self(Inner::Plain(Slow { stream, pace: None }))
    }

    /// From here on it is slow: with the text, or with the records that it is in.
    pub(crate) fn slows(&mut self, pace: Option<Pace>) {
        match &mut self.0 {
            Inner::Plain(slow) => slow.pace = pace,
            Inner::Tls(tls) => tls.sock.pace = pace,
        }
    }

    /// Goes on inside TLS; the handshake comes with the first bytes.
    pub(crate) fn secured(self, config: &Arc<ServerConfig>) -> Self {
        let Inner::Plain(slow) = self.0 else { return self };
        let connection = ServerConnection::new(Arc::clone(config)).expect("a configuration");
        Self(Inner::Tls(Box::new(StreamOwned::new(connection, slow))))
    }
}

impl Read for Channel {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Inner::Plain(slow) => slow.read(room),
            Inner::Tls(tls) => tls.read(room),
        }
    }
}

impl Write for Channel {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Inner::Plain(slow) => slow.write(bytes),
            Inner::Tls(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Inner::Plain(slow) => slow.flush(),
            Inner::Tls(tls) => tls.flush(),
        }
    }
}

/// A server's certificate, and beside it, in `directory`, what a client knows it by.
pub(crate) fn config(directory: &Path) -> Arc<ServerConfig> {
    Ca::new("the CA").server_in(directory);
    let read = |name: &str| fs::read(directory.join(name)).expect("a file");
    let certificate = CertificateDer::from_pem_slice(&read("server-cert.pem")).expect("PEM");
    let key = PrivateKeyDer::from_pem_slice(&read("server-key.pem")).expect("PEM");
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth();
    Arc::new(builder.with_single_cert(vec![certificate], key).expect("they belong together"))
}
