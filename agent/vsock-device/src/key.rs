//! What tells the connections of a guest apart.

use crate::header::Header;

/// The ports of a connection, the guest's and the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) guest_port: u32,
    pub(crate) host_port: u32,
}

impl Key {
    /// The ports of a packet from the guest.
    pub(crate) fn of(header: &Header) -> Self {
        Self { guest_port: header.src_port, host_port: header.dst_port }
    }
}
