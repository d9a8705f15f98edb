//! A guest's connection, for the session: as `sys::socket::Socket` is for one of the kernel's.

use std::{
    fmt,
    future::poll_fn,
    io::{self, IoSlice, IoSliceMut},
    sync::Arc,
};

use crate::{
    connections::{GuestShutdown, Key},
    device::Device,
};

/// A connection that a guest has made. It ends when this is dropped.
pub struct Connection {
    device: Arc<Device>,
    id: (Key, u64),
    /// Nothing is to be told of its end.
    forgotten: bool,
}

impl Connection {
    pub(crate) fn new(device: Arc<Device>, key: Key, id: u64) -> Self {
        Self { device, id: (key, id), forgotten: false }
    }

    /// Drops it without a word.
    pub(crate) fn forget(mut self) {
        self.forgotten = true;
    }

    /// The port that the guest's end has.
    pub fn port(&self) -> u32 {
        self.id.0.guest_port
    }

    /// Receives what is there: `Ok(0)` is the end of the stream, `WouldBlock` nothing yet.
    pub fn try_recv(&self, runs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.device.receive(self.id, runs)
    }

    /// Sends as much as goes: `WouldBlock` if nothing does.
    pub fn try_send(&self, runs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.device.send(self.id, runs)
    }

    /// Waits until `try_recv` is worth a call.
    pub async fn readable(&self) {
        poll_fn(|cx| self.device.poll_readable(self.id, cx)).await;
    }

    /// Waits until `try_send` is worth a call.
    pub async fn writable(&self) {
        poll_fn(|cx| self.device.poll_writable(self.id, cx)).await;
    }

    /// Whether the guest has said that it sends no more, also while bytes of it wait to be received.
    pub fn has_hung_up(&self) -> bool {
        let mut inner = self.device.lock();
        inner.flow.connections.get(self.id).is_none_or(|state| !state.guest.sends())
    }

    /// Whether nothing that is sent arrives.
    pub fn is_closed(&self) -> bool {
        let mut inner = self.device.lock();
        let state = inner.flow.connections.get(self.id);
        state.is_none_or(|state| state.guest == GuestShutdown::Both)
    }

    /// Says that nothing more will be sent.
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
