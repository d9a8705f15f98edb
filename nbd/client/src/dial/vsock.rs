//! AF_VSOCK connects a guest to its host without a network. This module explains what a failed
//! connection means.

use std::{fs, io};

use nix::errno::Errno;
use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;
use vsock_cid::Cid;

/// The state of this machine's virtio vsock device, as the kernel shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Device {
    Driven,
    /// There is a device without a driver.
    Idle,
    Absent,
    /// /sys does not show it.
    Unknown,
}

pub(super) fn device() -> Device {
    const DEVICES: &str = "/sys/bus/virtio/devices";
    let Ok(entries) = fs::read_dir(DEVICES) else { return Device::Unknown };
    let id = format!("{VIRTIO_ID_VSOCK:#06x}");
    let is_vsock = |path: &std::path::Path| {
        fs::read_to_string(path.join("device")).is_ok_and(|text| text.trim() == id)
    };
    let found = entries.flatten().map(|entry| entry.path()).find(|path| is_vsock(path));
    match found {
        Some(path) if path.join("driver").exists() => Device::Driven,
        Some(_) => Device::Idle,
        None => Device::Absent,
    }
}

/// What a failed connect means and what to do about it. A host without a listener answers with a reset,
/// exactly like a host that refuses this guest.
pub(super) fn hint(error: &io::Error, device: Device, cid: Cid, port: u32) -> String {
    let errno = error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw);
    match (errno, device) {
        (Errno::EAFNOSUPPORT, _) => {
            "the kernel has no AF_VSOCK: modprobe vmw_vsock_virtio_transport".to_owned()
        }
        (Errno::ENODEV | Errno::ENETUNREACH | Errno::EADDRNOTAVAIL, Device::Idle) => {
            "the vsock device has no driver: modprobe vmw_vsock_virtio_transport".to_owned()
        }
        (Errno::ENODEV | Errno::ENETUNREACH | Errno::EADDRNOTAVAIL, Device::Driven) => format!(
            "this machine has a vsock device, but no route to CID {cid}; from a guest, the \
             host is CID 2"
        ),
        (Errno::ENODEV | Errno::ENETUNREACH | Errno::EADDRNOTAVAIL, _) => {
            "this machine has no vsock device: give the VM one, with QEMU's -device \
             vhost-vsock-pci,guest-cid=N or libvirt's <vsock model='virtio'/>"
                .to_owned()
        }
        (Errno::ECONNRESET | Errno::ECONNREFUSED, _) if cid == Cid::HOST => format!(
            "no process listens on vsock port {port} of the host, or it refuses this guest: is the \
             agent running there, with --vsock --port {port}?"
        ),
        (Errno::ECONNRESET | Errno::ECONNREFUSED, _) => {
            format!("no process listens on vsock port {port} of CID {cid}; the host is CID 2")
        }
        (Errno::ETIMEDOUT, _) if cid == Cid::HOST => {
            "the vsock device answers no connection: its backend on the host (vhost, vhost-user \
             or hybrid) hangs or has ended"
                .to_owned()
        }
        (Errno::ETIMEDOUT, _) => {
            format!("CID {cid} does not answer; from a guest, the host is CID 2")
        }
        (Errno::EPERM | Errno::EACCES, _) => {
            "forbidden here: a container's seccomp profile can forbid AF_VSOCK".to_owned()
        }
        _ => format!("CID {cid}, vsock port {port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_errno_has_its_hint() {
        for (errno, device, cid, says) in [
            (Errno::EAFNOSUPPORT, Device::Unknown, 2, "modprobe"),
            (Errno::ENODEV, Device::Idle, 2, "modprobe"),
            (Errno::ENODEV, Device::Absent, 2, "vhost-vsock-pci"),
            (Errno::ENODEV, Device::Unknown, 2, "vhost-vsock-pci"),
            (Errno::ENETUNREACH, Device::Driven, 9, "no route to CID 9"),
            (Errno::ECONNRESET, Device::Driven, 2, "running there, with --vsock"),
            (Errno::ECONNRESET, Device::Driven, 9, "the host is CID 2"),
            (Errno::ETIMEDOUT, Device::Driven, 9, "does not answer"),
            (Errno::ETIMEDOUT, Device::Driven, 2, "answers no connection"),
            (Errno::EPERM, Device::Unknown, 2, "seccomp"),
            (Errno::EIO, Device::Unknown, 2, "port 10809"),
        ] {
            let text = hint(&io::Error::from(errno), device, Cid::new(cid), 10809);
            assert!(text.contains(says), "{errno}: {text}");
        }
    }
}
