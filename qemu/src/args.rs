//! The part of QEMU's command line that gives a guest its vsock device.
//!
//! The tests start their guests with it, and the agent's subcommand `qemu` prints it. Pure: it
//! looks at no machine.

pub use crate::cid::{CidError, GuestCid};

/// The arguments for a vsock device whose other end is this machine's kernel (`/dev/vhost-vsock`).
///
/// ```
/// let cid = "3".parse().unwrap();
/// assert_eq!(qemu::args::vsock(cid), ["-device", "vhost-vsock-pci,id=vsock0,guest-cid=3"]);
/// ```
pub fn vsock(cid: GuestCid) -> [String; 2] {
    ["-device".to_owned(), format!("vhost-vsock-pci,id=vsock0,guest-cid={cid}")]
}

#[cfg(test)]
mod tests {
    use super::{GuestCid, vsock};

    #[test]
    fn the_greatest_cid_reaches_the_command_line_whole() {
        let cid = GuestCid::new(GuestCid::MAX).unwrap();
        assert_eq!(vsock(cid)[1], "vhost-vsock-pci,id=vsock0,guest-cid=4294967294");
    }
}
