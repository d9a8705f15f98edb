//! Where a VM is served.

use std::{path::Path, sync::Arc};

use vsock_cid::GuestCid;

/// The VM of a path, and the port that it can connect to.
#[derive(Debug, Clone)]
pub struct Place {
    pub path: Arc<Path>,
    /// The CID of the guest within its VM.
    pub cid: GuestCid,
    /// The port on which the host accepts connections.
    pub port: u32,
}
