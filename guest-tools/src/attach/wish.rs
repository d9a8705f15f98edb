//! What `attach` is asked for, and what comes of it.

use std::{os::unix::net::UnixStream, path::PathBuf, time::Duration};

use nbd::Uri;
use nbd_client::Connector;
use serde_json::{Value, json};

use super::name::Device;

/// What to attach, and how.
#[derive(Debug)]
pub(crate) struct Wish {
    pub(crate) connector: Connector,
    pub(crate) uri: Uri,
    /// The device to make. `None`: the first free device of the driver that the kernel has.
    pub(crate) device: Option<Device>,
    /// Use the ublk driver.
    pub(crate) ublk: bool,
    pub(crate) connections: Option<usize>,
    pub(crate) read_only: bool,
    /// How long the kernel's requests wait for a server that is gone. `None`: without limit.
    pub(crate) dead_timeout: Option<Duration>,
    /// How long to try to connect at the start.
    pub(crate) wait: Duration,
    /// The most bytes of acknowledged changes to keep before a flush.
    pub(crate) keep: usize,
    /// The relay's ends of socket pairs whose other ends the caller has. If there are any, no kernel
    /// driver is used.
    pub(crate) ends: Vec<UnixStream>,
    /// With `ends`: the file that stores the facts for the next relay.
    pub(crate) facts: Option<PathBuf>,
}

/// A device that is ready for use.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) device: String,
    pub(super) uri: String,
    pub(super) size: u64,
    pub(super) block: u32,
    pub(super) connections: usize,
    pub(super) read_only: bool,
    /// Whether a relay passes requests between the kernel and the server.
    pub(super) relay: bool,
}

impl Ready {
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "device": self.device,
            "uri": self.uri,
            "size": self.size,
            "block_size": self.block,
            "connections": self.connections,
            "read_only": self.read_only,
            "relay": self.relay,
        })
    }
}
