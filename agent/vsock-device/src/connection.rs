//! A session's handle to a connection of a guest. It has the calls of the agent's `sys::socket::Socket`.

use std::{
    fmt,
    future::poll_fn,
    io::{self, IoSlice, IoSliceMut},
    sync::Arc,
};

use crate::{connections::GuestShutdown, device::Device, key::Key};

/// A connection that a guest has made. Dropping it closes the connection.
pub struct Connection {
    device: Arc<Device>,
    id: (Key, u64),
    /// Dropping it does not close the connection.
    forgotten: bool,
}

impl Connection {
    pub(crate) fn new(device: Arc<Device>, key: Key, id: u64) -> Self {
        Self { device, id: (key, id), forgotten: false }
    }

    /// Drops the handle without closing the connection.
    pub(crate) fn forget(mut self) {
        self.forgotten = true;
    }

    /// The port of the guest's end.
    pub fn port(&self) -> u32 {
        self.id.0.guest_port
    }

    /// Receives the bytes that have arrived. `Ok(0)` is the end of the stream.
    ///
    /// # Errors
    /// `WouldBlock`, if nothing has arrived.
    pub fn try_recv(&self, runs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.device.receive(self.id, runs)
    }

    /// Sends as many bytes as the guest has room for, and returns their number.
    ///
    /// # Errors
    /// `WouldBlock`, if the guest has no room or it is another connection's turn; `BrokenPipe`, if the connection has
    /// ended.
    pub fn try_send(&self, runs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.device.send(self.id, runs)
    }

    /// Waits until `try_recv` may return something else than `WouldBlock`.
    pub async fn readable(&self) {
        poll_fn(|cx| self.device.poll_readable(self.id, cx)).await;
    }

    /// Waits until `try_send` may return something else than `WouldBlock`.
    pub async fn writable(&self) {
        poll_fn(|cx| self.device.poll_writable(self.id, cx)).await;
    }

    /// Whether the guest has shut down its sending. Bytes that it sent before may still wait to be received.
    pub fn has_hung_up(&self) -> bool {
        let mut inner = self.device.lock();
        inner.flow.connections.get(self.id).is_none_or(|state| !state.guest.sends())
    }

    /// Whether the guest has shut down both directions, or the connection has ended.
    pub fn is_closed(&self) -> bool {
        let mut inner = self.device.lock();
        let state = inner.flow.connections.get(self.id);
        state.is_none_or(|state| state.guest == GuestShutdown::Both)
    }

    /// Shuts down the session's sending.
    pub fn finish_sending(&self) {
        self.device.finish(self.id);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if !self.forgotten {
            self.device.close(self.id);
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("device", &self.device).finish_non_exhaustive()
    }
}
