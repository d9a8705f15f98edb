//! The vsock devices of a running machine: lists them, adds one, removes one.
//!
//! `agent qemu` and `--qmp` call this. Each result comes from a query; an event alone is not believed.

mod machine;
mod plug;

use std::fmt;

use qapi::qmp::{ObjectPropertyInfo, qom_get, qom_list};
use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;
use vsock_cid::GuestCid;

pub use self::{
    machine::{Bus, Machine, Place, PlaceError, place},
    plug::{PlugError, Plugged, UnplugError, plug, plug_claimed, unplug},
};
use crate::{
    qmp::{Client, Error},
    text::Text,
};

/// QEMU's container of the devices that `-device` and `device_add` made with an id.
const NAMED: &str = "/machine/peripheral";
/// QEMU's container of those without an id.
const UNNAMED: &str = "/machine/peripheral-anon";

/// The host's end of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// The kernel, by /dev/vhost-vsock: the guest connects over AF_VSOCK with its CID.
    Kernel,
    /// A process at a Unix socket. Only that process knows the guest's CID.
    VhostUser,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "kernel",
            Self::VhostUser => "vhost-user",
        })
    }
}

/// A vsock device of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The device's id; `None` if it was given none.
    pub id: Option<Text>,
    /// The path in QEMU's tree of objects, which every command accepts as a name of the device.
    pub path: Text,
    /// QEMU's name of the model, such as `vhost-vsock-pci`.
    pub driver: Text,
    /// The host's end.
    pub backend: Backend,
    /// The CID that QEMU reports; `None` if QEMU does not know it.
    pub cid: Option<GuestCid>,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} '{}'", self.driver, self.id.as_ref().unwrap_or(&self.path))?;
        match (self.cid, self.backend) {
            (Some(cid), _) => write!(f, " with CID {cid}"),
            (None, Backend::VhostUser) => f.write_str(", whose CID its vhost-user process knows"),
            (None, Backend::Kernel) => Ok(()),
        }
    }
}

/// Every vsock device of the machine, sorted by id.
///
/// # Errors
/// As [`Client::execute`].
pub async fn list(client: &mut Client) -> Result<Vec<Device>, Error> {
    let mut devices = Vec::new();
    for device in peripherals(client).await? {
        let Some(backend) = backend(client, &device).await? else { continue };
        let cid = match backend {
            Backend::Kernel => get(client, device.path.as_str(), "guest-cid").await?,
            Backend::VhostUser => None,
        };
        let cid = cid.and_then(|cid| guest_cid(cid.as_u64()?));
        let Peripheral { id, path, driver } = device;
        devices.push(Device { id, path, driver, backend, cid });
    }
    Ok(devices)
}

/// The CID as QEMU writes it, in 64 bits; `None` for one that no guest has.
fn guest_cid(number: u64) -> Option<GuestCid> {
    GuestCid::of(number.try_into().ok()?)
}

/// A device that `-device` or `device_add` made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Peripheral {
    id: Option<Text>,
    path: Text,
    driver: Text,
}

async fn peripherals(client: &mut Client) -> Result<Vec<Peripheral>, Error> {
    let mut all = Vec::new();
    for (container, named) in [(NAMED, true), (UNNAMED, false)] {
        for entry in children(client, container).await? {
            let Some(driver) = child(&entry) else { continue };
            all.push(Peripheral {
                id: named.then(|| entry.name.clone().into()),
                path: format!("{container}/{}", entry.name).into(),
                driver: driver.into(),
            });
        }
    }
    // QEMU lists them in the order of a hash table.
    all.sort();
    Ok(all)
}

/// The properties of an object; empty if there is no object of this path.
async fn children(client: &mut Client, path: &str) -> Result<Vec<ObjectPropertyInfo>, Error> {
    match client.execute(&qom_list { path: path.into() }).await {
        Err(error) if error.refusal().is_some() => Ok(Vec::new()),
        result => result,
    }
}

/// The value of a property; `None` if there is no such object or property, or it cannot be read.
async fn get(client: &mut Client, path: &str, property: &str) -> Result<Option<qapi::Any>, Error> {
    let command = qom_get { path: path.into(), property: property.into() };
    match client.execute(&command).await {
        Err(error) if error.refusal().is_some() => Ok(None),
        result => result.map(Some),
    }
}

/// The type of a property that is an object itself.
fn child(entry: &ObjectPropertyInfo) -> Option<&str> {
    entry.type_.strip_prefix("child<")?.strip_suffix('>')
}

async fn backend(client: &mut Client, device: &Peripheral) -> Result<Option<Backend>, Error> {
    Ok(match kind(device.driver.as_str()) {
        Kind::Vsock(backend) => Some(backend),
        Kind::Generic => {
            let id =
                get(client, device.path.as_str(), "virtio-id").await?.and_then(|id| id.as_u64());
            (id == Some(VIRTIO_ID_VSOCK.into())).then_some(Backend::VhostUser)
        }
        Kind::Other => None,
    })
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Vsock(Backend),
    /// A generic vhost-user device, whose property `virtio-id` says what it is.
    Generic,
    Other,
}

fn kind(driver: &str) -> Kind {
    let models = [
        ("vhost-vsock", Kind::Vsock(Backend::Kernel)),
        ("vhost-user-vsock", Kind::Vsock(Backend::VhostUser)),
        ("vhost-user-device", Kind::Generic),
        // The name of vhost-user-device since QEMU 10.2.
        ("vhost-user-test-device", Kind::Generic),
    ];
    let ends = ["", "-pci", "-pci-transitional", "-pci-non-transitional", "-ccw", "-device"];
    for (model, kind) in models {
        if driver.strip_prefix(model).is_some_and(|end| ends.contains(&end)) {
            return kind;
        }
    }
    Kind::Other
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vsock_devices_are_recognized_by_the_name_of_their_model() {
        use Backend::{Kernel, VhostUser};
        for (driver, is) in [
            ("vhost-vsock-pci", Kind::Vsock(Kernel)),
            ("vhost-vsock-pci-transitional", Kind::Vsock(Kernel)),
            ("vhost-vsock-pci-non-transitional", Kind::Vsock(Kernel)),
            ("vhost-vsock-ccw", Kind::Vsock(Kernel)),
            ("vhost-vsock-device", Kind::Vsock(Kernel)),
            ("vhost-user-vsock-pci", Kind::Vsock(VhostUser)),
            ("vhost-user-vsock-pci-non-transitional", Kind::Vsock(VhostUser)),
            ("vhost-user-vsock-device", Kind::Vsock(VhostUser)),
            ("vhost-user-vsock-ccw", Kind::Vsock(VhostUser)),
            ("vhost-user-device-pci", Kind::Generic),
            ("vhost-user-device", Kind::Generic),
            ("vhost-user-test-device-pci", Kind::Generic),
            ("vhost-scsi-pci", Kind::Other),
            ("vhost-vsockets", Kind::Other),
            ("virtio-net-pci", Kind::Other),
        ] {
            assert_eq!(kind(driver), is, "{driver}");
        }
    }

    #[test]
    fn a_device_is_printed_with_its_cid_if_that_is_known() {
        let mut device = Device {
            id: Some("vsock0".into()),
            path: "/machine/peripheral/vsock0".into(),
            driver: "vhost-vsock-pci".into(),
            backend: Backend::Kernel,
            cid: GuestCid::of(7),
        };
        assert_eq!(device.to_string(), "vhost-vsock-pci 'vsock0' with CID 7");
        device = Device { id: None, cid: None, backend: Backend::VhostUser, ..device };
        assert!(device.to_string().contains("'/machine/peripheral/vsock0', whose CID"), "{device}");
    }
}
