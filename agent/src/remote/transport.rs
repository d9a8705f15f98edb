//! The byte stream of one link, in plain text or inside TLS. One thread reads. The thread that has the turn to send
//! writes. Inside TLS both take a lock for each call, and no call waits.

use std::{
    io::{self, IoSlice, IoSliceMut, Read, Write},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use nbd_client::stream::{Carrier, Stream, Tls};
use nix::{
    errno::Errno,
    sys::{
        socket::{MsgFlags, Shutdown, send, shutdown},
        uio::writev,
    },
};

use crate::sys::socket::{MAX_RUNS, Socket};

/// A link's socket, and its TLS session if it has one.
#[derive(Debug)]
pub(super) struct Transport {
    /// Registered with the runtime of the reading thread.
    socket: Arc<Socket>,
    tls: Option<Mutex<Tls<Wire>>>,
}

/// The carrier of TLS. Only the reader reads from it, so reads tell the runtime when the socket is empty.
#[derive(Debug)]
struct Wire(Arc<Socket>);

impl Carrier for Wire {}

impl Read for Wire {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        self.0.try_recv(&mut [IoSliceMut::new(room)])
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        write(&self.0, &[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, runs: &[IoSlice<'_>]) -> io::Result<usize> {
        write(&self.0, runs)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes without the runtime, which keeps only one waker for each direction.
fn write(socket: &Socket, runs: &[IoSlice<'_>]) -> io::Result<usize> {
    loop {
        match writev(socket, &runs[..runs.len().min(MAX_RUNS)]) {
            Err(Errno::EINTR) => {}
            done => return Ok(done?),
        }
    }
}

impl Transport {
    /// Registers the stream with the runtime of the current thread.
    pub(super) fn new(stream: Stream) -> io::Result<Self> {
        let stream = stream
            .try_map(|socket| Ok(Wire(Arc::new(Socket::new(socket.into_descriptor(), None)?))))?;
        Ok(match stream {
            Stream::Plain(wire) => Self { socket: wire.0, tls: None },
            Stream::Tls(tls) => {
                let socket = Arc::clone(&tls.carrier().0);
                Self { socket, tls: Some(Mutex::new(*tls)) }
            }
        })
    }

    fn tls(&self) -> Option<MutexGuard<'_, Tls<Wire>>> {
        self.tls.as_ref().map(|tls| tls.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Receives what is there. `Ok(0)` is the end of the stream, and `WouldBlock` means nothing yet. Only for the
    /// reader.
    pub(super) fn try_recv(&self, room: &mut [u8]) -> io::Result<usize> {
        match self.tls() {
            Some(mut tls) => tls.read(room),
            None => self.socket.try_recv(&mut [IoSliceMut::new(room)]),
        }
    }

    /// Waits until `try_recv` is worth a call.
    pub(super) async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// Sends or encrypts as many bytes as possible. `WouldBlock` if none.
    pub(super) fn try_send(&self, runs: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.tls() {
            Some(mut tls) => tls.write_vectored(runs),
            None => write(&self.socket, runs),
        }
    }

    /// Sends the encrypted bytes. `WouldBlock` if some are left.
    pub(super) fn try_flush(&self) -> io::Result<()> {
        self.tls().map_or(Ok(()), |mut tls| tls.flush())
    }

    /// Sends all bytes, on the runtime of the reading thread.
    pub(super) async fn send_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        loop {
            let done = self.socket.try_write(|| {
                if bytes.is_empty() {
                    return self.try_flush().map(|()| 0);
                }
                self.try_send(&[IoSlice::new(bytes)])
            });
            match done {
                Ok(_) if bytes.is_empty() => return Ok(()),
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => bytes = &bytes[n..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.socket.writable().await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends the last bytes, without waiting for a server that does not read.
    pub(super) fn end(&self, last: &[u8]) {
        if let Some(mut tls) = self.tls() {
            tls.write_all(last).ok();
            tls.end();
        } else {
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            send(self.as_fd().as_raw_fd(), last, flags).ok();
        }
        self.close();
    }

    /// Shuts down both directions.
    pub(super) fn close(&self) {
        shutdown(self.as_fd().as_raw_fd(), Shutdown::Both).ok();
    }
}

impl AsFd for Transport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
