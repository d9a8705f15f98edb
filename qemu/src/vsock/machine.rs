//! The kind of a machine, and the place of a new vsock device while the machine runs.

use std::fmt;

use qapi::{
    Command,
    qmp::{QmpCommand, query_name},
};
use serde::{Serialize, de::IgnoredAny};
use thiserror::Error;

use super::{Peripheral, child, children, get, peripherals};
use crate::{
    qmp::{Client, Error},
    text::{Text, list},
};

/// How a virtio device is connected to its machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    /// PCI Express: a device that is added while the machine runs needs a free port.
    Pcie,
    /// PCI: the bus accepts devices without a port.
    Pci,
    /// Channel I/O of s390x.
    Ccw,
    /// virtio-mmio: a device can be added only before the machine starts.
    Mmio,
}

impl Bus {
    /// The model of the kernel's vsock device for this bus.
    pub fn vhost_vsock(self) -> &'static str {
        match self {
            Self::Pcie | Self::Pci => "vhost-vsock-pci",
            Self::Ccw => "vhost-vsock-ccw",
            Self::Mmio => "vhost-vsock-device",
        }
    }

    /// The model of the vhost-user vsock device for this bus.
    pub fn vhost_user_vsock(self) -> &'static str {
        match self {
            Self::Pcie | Self::Pci => "vhost-user-vsock-pci",
            Self::Ccw => "vhost-user-vsock-ccw",
            Self::Mmio => "vhost-user-vsock-device",
        }
    }

    /// The default bus of a machine of this name (`-machine help`).
    pub fn of(machine: &str) -> Self {
        let is = |names: &[&str]| {
            // The version comes last: `pc-q35-10.0`, `virt-10.0`.
            names.iter().any(|name| {
                let rest = machine.strip_prefix(name);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
            })
        };
        if is(&["s390-ccw-virtio"]) {
            Self::Ccw
        } else if is(&["microvm"]) {
            Self::Mmio
        } else if is(&["q35", "pc-q35", "virt", "sbsa-ref"]) {
            Self::Pcie
        } else {
            Self::Pci
        }
    }
}

/// The virtual machine of a QEMU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// The type, as in `-machine`, with its version: `pc-q35-10.0`.
    pub name: Text,
    /// The name given by `-name`.
    pub given: Option<Text>,
    /// The bus for virtio devices.
    pub bus: Bus,
}

/// `query-pci`, of which only the number of buses is used: addresses in the reply overflow the types of `qapi`.
#[derive(Debug, Serialize)]
struct PciBuses {}

impl QmpCommand for PciBuses {}
impl Command for PciBuses {
    type Ok = Vec<IgnoredAny>;

    const NAME: &'static str = "query-pci";
    const ALLOW_OOB: bool = false;
}

impl Machine {
    /// Asks QEMU about its machine.
    ///
    /// # Errors
    /// As [`Client::execute`].
    pub async fn ask(client: &mut Client) -> Result<Self, Error> {
        let name = get(client, "/machine", "type").await?;
        let name = name.as_ref().and_then(|name| name.as_str()).unwrap_or("unknown");
        let name = name.strip_suffix("-machine").unwrap_or(name);
        let usual = Bus::of(name);
        let bus = if usual == Bus::Ccw {
            usual
        } else {
            // A microvm may have PCI, and other machines may have none.
            let buses = match client.execute(&PciBuses {}).await {
                Err(error) if error.refusal().is_some() => 0,
                result => result?.len(),
            };
            match (buses, usual) {
                (0, _) => Bus::Mmio,
                (_, Bus::Mmio) => Bus::Pcie,
                (_, usual) => usual,
            }
        };
        let given = client.execute(&query_name {}).await?.name.map(Text::from);
        Ok(Self { name: name.into(), given, bus })
    }
}

/// The place of a new device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The machine.
    pub machine: Machine,
    /// The id of the port; `None` if QEMU chooses the bus.
    pub port: Option<String>,
}

/// Why a machine has no place for a new device.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PlaceError {
    /// QEMU could not be asked.
    #[error(transparent)]
    Qmp(#[from] Error),
    /// The machine takes virtio devices only before it starts.
    #[error("{machine} takes no virtio device while it runs")]
    NoHotplug {
        /// The machine's type.
        machine: Text,
    },
    /// No PCI Express port of the machine is free.
    #[error("{machine} has no free PCI Express port: {ports}")]
    NoPort {
        /// The machine's type.
        machine: Text,
        /// Its ports.
        ports: Ports,
    },
}

impl PlaceError {
    /// What the user can do about the error, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Qmp(error) => error.hint(),
            Self::NoHotplug { machine } => Some(format!(
                "end it, and start it with what 'agent qemu args --machine {machine}' prints"
            )),
            Self::NoPort { .. } => Some(
                "start it with one more port, such as '-device pcie-root-port,id=vsock-port,\
                 chassis=99', which later takes the device"
                    .into(),
            ),
        }
    }
}

/// The PCI Express ports of a machine that has no free one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ports {
    /// Ids of ports with a device.
    pub occupied: Vec<Text>,
    /// Ids of ports with `hotplug=off`.
    pub fixed: Vec<Text>,
    /// The number of ports without an id. A device can be put only into a port with an id.
    pub unnamed: usize,
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        for (names, word) in [(&self.occupied, "occupied"), (&self.fixed, "hotplug=off")] {
            if !names.is_empty() {
                parts.push(format!("{} ({word})", list(names)));
            }
        }
        if self.unnamed > 0 {
            parts.push(format!("{} without an id", self.unnamed));
        }
        if parts.is_empty() {
            return f.write_str("it has none at all");
        }
        f.write_str(&parts.join(", "))
    }
}

/// Finds the place of a new vsock device while the machine runs.
///
/// # Errors
/// [`PlaceError`]: the machine has no place, or QEMU could not be asked.
pub async fn place(client: &mut Client) -> Result<Place, PlaceError> {
    let machine = Machine::ask(client).await?;
    let port = match machine.bus {
        Bus::Mmio => return Err(PlaceError::NoHotplug { machine: machine.name }),
        Bus::Ccw | Bus::Pci => None,
        Bus::Pcie => match free_port(client).await? {
            Ok(port) => Some(port),
            Err(ports) => return Err(PlaceError::NoPort { machine: machine.name, ports }),
        },
    };
    Ok(Place { machine, port })
}

async fn free_port(client: &mut Client) -> Result<Result<String, Ports>, Error> {
    let mut ports = Ports::default();
    for Peripheral { id, path, driver } in peripherals(client).await? {
        if !["pcie-root-port", "ioh3420", "xio3130-downstream"].contains(&driver.as_str()) {
            continue;
        }
        let Some(id) = id else {
            ports.unnamed += 1;
            continue;
        };
        // The bus has the name of its port, and `child[0]` is the device on it.
        let bus = children(client, &format!("{}/{}", path.as_str(), id.as_str())).await?;
        let occupied =
            bus.iter().any(|entry| entry.name.starts_with("child[") && child(entry).is_none());
        let hotplug = get(client, path.as_str(), "hotplug").await?;
        if occupied {
            ports.occupied.push(id);
        } else if hotplug.is_some_and(|on| on == false) {
            ports.fixed.push(id);
        } else {
            return Ok(Ok(id.as_str().to_owned()));
        }
    }
    Ok(Err(ports))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bus_follows_from_the_machines_name() {
        for (name, bus) in [
            ("q35", Bus::Pcie),
            ("pc-q35-10.0", Bus::Pcie),
            ("virt-9.2", Bus::Pcie),
            ("pc", Bus::Pci),
            ("pc-i440fx-10.0", Bus::Pci),
            ("pseries-10.0", Bus::Pci),
            ("virtual", Bus::Pci),
            ("microvm", Bus::Mmio),
            ("s390-ccw-virtio-9.1", Bus::Ccw),
        ] {
            assert_eq!(Bus::of(name), bus, "{name}");
        }
    }

    #[test]
    fn ports_are_printed_with_the_reason_why_none_is_free() {
        let mut ports = Ports::default();
        assert_eq!(ports.to_string(), "it has none at all");
        ports.occupied = vec!["a".into(), "b".into()];
        ports.fixed = vec!["c".into()];
        ports.unnamed = 2;
        assert_eq!(ports.to_string(), "a, b (occupied), c (hotplug=off), 2 without an id");
    }
}
