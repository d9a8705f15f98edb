//! The arguments of QEMU's command line that give a guest its vsock device.
//!
//! The tests start their guests with them, and `agent qemu args` prints them. The module does no I/O.

use std::{fmt, path::PathBuf, str::FromStr};

use vsock_cid::GuestCid;

use crate::vsock::Bus;

/// The arguments for a vsock device whose backend is this machine's kernel (`/dev/vhost-vsock`).
///
/// ```
/// let cid = "3".parse().unwrap();
/// assert_eq!(qemu::args::vsock(cid), ["-device", "vhost-vsock-pci,id=vsock0,guest-cid=3"]);
/// ```
pub fn vsock(cid: GuestCid) -> [String; 2] {
    kernel(Bus::Pci, "vsock0", cid)
}

/// The arguments for a vsock device with the kernel's backend, on any bus and with any id.
pub fn kernel(bus: Bus, id: &str, cid: GuestCid) -> [String; 2] {
    ["-device".to_owned(), format!("{},id={},guest-cid={cid}", bus.vhost_vsock(), value(id))]
}

/// A vsock device whose backend is a process at a Unix socket. It needs no kernel module, and the guest's memory
/// has to be shared with that process.
///
/// ```
/// use qemu::{args::{Sharing, VhostUser}, vsock::Bus};
///
/// let device = VhostUser {
///     bus: Bus::Pcie,
///     id: "v".into(),
///     socket: "/run/vm1.vsock".into(),
///     memory: "512M".parse().unwrap(),
///     sharing: Sharing::Machine,
/// };
/// let arguments = device.arguments().join(" ");
/// assert!(arguments.starts_with("-m 512M -object memory-backend-memfd,id=v-memory,size=512M,share=on"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VhostUser {
    /// The bus of the machine that the device is for.
    pub bus: Bus,
    /// The device's id. The ids of its memory and its chardev begin with it.
    pub id: String,
    /// The path of the socket on which the process listens.
    pub socket: PathBuf,
    /// The size of the guest's memory, all of which is shared.
    pub memory: Memory,
    /// How the shared memory becomes the machine's memory.
    pub sharing: Sharing,
}

/// How the shared memory becomes the machine's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    /// `-machine memory-backend=`: QEMU 5.0 and newer.
    #[default]
    Machine,
    /// `-numa node,memdev=`: for machines with NUMA, and for QEMU before 5.0.
    Numa,
}

impl VhostUser {
    /// The arguments, in the order that QEMU needs. They include `-m`, which must have the same size.
    pub fn arguments(&self) -> Vec<String> {
        let Self { bus, id, socket, memory, sharing } = self;
        let id = value(id);
        let backend = format!("memory-backend-memfd,id={id}-memory,size={memory},share=on");
        let shared = match sharing {
            Sharing::Machine => ["-machine".to_owned(), format!("memory-backend={id}-memory")],
            Sharing::Numa => ["-numa".to_owned(), format!("node,memdev={id}-memory")],
        };
        let path = value(&socket.display().to_string());
        let [machine, named] = shared;
        [
            "-m".to_owned(),
            memory.to_string(),
            "-object".to_owned(),
            backend,
            machine,
            named,
            "-chardev".to_owned(),
            format!("socket,id={id}-socket,path={path}"),
            "-device".to_owned(),
            format!("{},id={id},chardev={id}-socket", bus.vhost_user_vsock()),
        ]
        .into()
    }
}

/// Escapes a value: a comma separates parameters, and two commas stand for one.
fn value(text: &str) -> String {
    text.replace(',', ",,")
}

/// A size of memory in QEMU's form: a number of at least 1, followed by K, M, G or T (powers of 1024).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory(String);

/// The text is no size of memory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no size of memory: give a number with K, M, G or T behind it, such as 512M")]
pub struct MemoryError(String);

impl FromStr for Memory {
    type Err = MemoryError;

    fn from_str(text: &str) -> Result<Self, MemoryError> {
        let number = text.strip_suffix(['K', 'M', 'G', 'T']).unwrap_or_default();
        // A bare number is bytes to `-object` and mebibytes to `-m`.
        match number.parse::<u64>() {
            Ok(1..) if number.bytes().all(|byte| byte.is_ascii_digit()) => Ok(Self(text.into())),
            _ => Err(MemoryError(text.into())),
        }
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_cid_is_printed_whole() {
        let cid = GuestCid::MAX;
        assert_eq!(vsock(cid)[1], "vhost-vsock-pci,id=vsock0,guest-cid=4294967294");
    }

    #[test]
    fn each_bus_has_its_model() {
        let cid = GuestCid::MIN;
        for (bus, kernel_model, user_model) in [
            (Bus::Pcie, "vhost-vsock-pci", "vhost-user-vsock-pci"),
            (Bus::Pci, "vhost-vsock-pci", "vhost-user-vsock-pci"),
            (Bus::Ccw, "vhost-vsock-ccw", "vhost-user-vsock-ccw"),
            (Bus::Mmio, "vhost-vsock-device", "vhost-user-vsock-device"),
        ] {
            assert_eq!(kernel(bus, "a,b", cid)[1], format!("{kernel_model},id=a,,b,guest-cid=3"));
            let user = vhost_user(bus, Sharing::Machine).arguments();
            assert_eq!(user[9], format!("{user_model},id=v,chardev=v-socket"));
        }
    }

    fn vhost_user(bus: Bus, sharing: Sharing) -> VhostUser {
        let memory = "512M".parse().unwrap();
        VhostUser { bus, id: "v".into(), socket: "/run/a,b.sock".into(), memory, sharing }
    }

    #[test]
    fn the_memory_is_shared_and_commas_are_kept() {
        assert_eq!(
            vhost_user(Bus::Pcie, Sharing::Machine).arguments()[..8],
            [
                "-m",
                "512M",
                "-object",
                "memory-backend-memfd,id=v-memory,size=512M,share=on",
                "-machine",
                "memory-backend=v-memory",
                "-chardev",
                "socket,id=v-socket,path=/run/a,,b.sock",
            ]
        );
        let numa = vhost_user(Bus::Pcie, Sharing::Numa).arguments();
        assert_eq!(numa[4..6], ["-numa", "node,memdev=v-memory"]);
    }

    #[test]
    fn a_size_of_memory_has_one_meaning() {
        assert_eq!("2G".parse::<Memory>().unwrap().to_string(), "2G");
        for text in ["", "512", "0G", "G", "-1G", "+1G", "1.5G", "1GB", "1G,share=off"] {
            assert!(text.parse::<Memory>().is_err(), "{text}");
        }
    }
}
