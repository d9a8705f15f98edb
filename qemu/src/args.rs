//! The part of QEMU's command line that gives a guest its vsock device.
//!
//! The tests start their guests with it, and the agent's subcommand `qemu` prints it. Pure: it
//! looks at no machine.

use std::{fmt, path::PathBuf, str::FromStr};

pub use crate::cid::{CidError, GuestCid};
use crate::vsock::Bus;

/// The arguments for a vsock device whose other end is this machine's kernel (`/dev/vhost-vsock`).
///
/// ```
/// let cid = "3".parse().unwrap();
/// assert_eq!(qemu::args::vsock(cid), ["-device", "vhost-vsock-pci,id=vsock0,guest-cid=3"]);
/// ```
pub fn vsock(cid: GuestCid) -> [String; 2] {
    kernel(Bus::Pci, "vsock0", cid)
}

/// The same on any machine and with any id.
pub fn kernel(bus: Bus, id: &str, cid: GuestCid) -> [String; 2] {
    ["-device".to_owned(), format!("{},id={},guest-cid={cid}", bus.vhost_vsock(), value(id))]
}

/// A vsock device whose other end is a process at a Unix socket, which needs no kernel module and
/// has to share the guest's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VhostUser {
    pub bus: Bus,
    pub id: String,
    /// Where that process listens.
    pub socket: PathBuf,
    /// All of the guest's memory.
    pub memory: Memory,
    pub sharing: Sharing,
}

/// How the memory that is shared becomes the machine's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    /// `-machine memory-backend=`: QEMU 5.0 and newer.
    #[default]
    Machine,
    /// `-numa node,memdev=`: for machines with NUMA, and for older ones.
    Numa,
}

impl VhostUser {
    /// In the order in which QEMU needs them. `-m` is one of them: it has to agree.
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

/// A comma is QEMU's separator, and two are one.
fn value(text: &str) -> String {
    text.replace(',', ",,")
}

/// A size of memory in QEMU's words: a number, of bytes or with a suffix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory(String);

/// A text that is no size.
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
    fn the_greatest_cid_reaches_the_command_line_whole() {
        let cid = GuestCid::new(GuestCid::MAX).unwrap();
        assert_eq!(vsock(cid)[1], "vhost-vsock-pci,id=vsock0,guest-cid=4294967294");
    }

    #[test]
    fn each_bus_has_its_model() {
        let cid = GuestCid::new(3).unwrap();
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
