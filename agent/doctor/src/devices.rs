//! Devices on a bus, as /sys/bus lists them.

use crate::machine::Machine;

/// The PCI vendor of virtio devices.
pub(crate) const VIRTIO_VENDOR: u32 = 0x1af4;

/// A device on a bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Device {
    /// The name in /sys/bus, such as `virtio0` or `0000:00:03.0`.
    pub(crate) name: String,
    pub(crate) vendor: Option<u32>,
    /// The file `device`: the type of a virtio device, or on PCI a number that the vendor has assigned.
    pub(crate) kind: Option<u32>,
    /// The driver that uses it.
    pub(crate) driver: Option<String>,
}

/// The devices on `bus`, such as `pci` or `virtio`, sorted by name.
pub(crate) fn devices(machine: &Machine, bus: &str) -> Vec<Device> {
    let directory = format!("/sys/bus/{bus}/devices");
    let device = |name: String| {
        let number = |file| {
            let value = machine.value(&format!("{directory}/{name}/{file}"))?;
            u32::from_str_radix(value.strip_prefix("0x")?, 16).ok()
        };
        let driver = machine.link(&format!("{directory}/{name}/driver"));
        let driver = driver.and_then(|path| path.rsplit('/').next().map(str::to_owned));
        Device { vendor: number("vendor"), kind: number("device"), driver, name }
    };
    machine.list(&directory).into_iter().map(device).collect()
}
