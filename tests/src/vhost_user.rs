//! Guests whose vsock device ends in an agent's `--listen vhost-user:`, with one level of
//! virtualization and no kernel module.

use std::path::Path;

use qemu::{
    args::{Sharing, VhostUser},
    vsock::Bus,
};

use crate::{
    Failure, Outcome,
    guest::Guest,
    lab::Lab,
    nest::words_after_the_dashes,
    qemu::{Accel, Machine, Running},
};

/// The memory of the tiny guest, in MiB.
const TINY: u32 = 512;
/// The memory of the Debian guest, in MiB. Two of them fit into a small machine.
const DEBIAN: u32 = 1536;

/// The agent's listener for a socket.
pub fn listen(socket: &Path) -> String {
    format!("--listen=vhost-user:{}", socket.display())
}

/// Starts the tiny guest, which runs these command lines of guest-tools.
pub fn tiny(lab: &Lab, name: &str, socket: &Path, commands: &[&str]) -> Outcome<Running> {
    small(lab, Machine::new(name, lab.images().tiny()?), socket, commands)
}

/// Like [`tiny`], with an older kernel.
pub fn old_tiny(lab: &Lab, name: &str, socket: &Path, commands: &[&str]) -> Outcome<Running> {
    small(lab, Machine::new(name, lab.images().old_tiny()?), socket, commands)
}

fn small(lab: &Lab, machine: Machine, socket: &Path, commands: &[&str]) -> Outcome<Running> {
    let machine = machine.append(&words_after_the_dashes(commands));
    with_device(machine, socket, TINY)?.start(Accel::of_this_machine(lab.images())?)
}

/// Starts the Debian guest, with libnbd and Python. It can restart.
pub fn debian(name: &str, socket: &Path) -> Outcome<Guest> {
    let mut guest =
        Guest::boot_as(name, &[], |machine| Ok(with_device(machine, socket, DEBIAN)?.restarts()))?;
    // udev may still be loading the driver. Until then connect(2) fails with ENODEV.
    guest.sh(
        "until ls /sys/bus/virtio/drivers/vmw_vsock_virtio_transport | grep -q ^virtio; do sleep 0.1; done",
    )?;
    Ok(guest)
}

fn with_device(machine: Machine, socket: &Path, mib: u32) -> Outcome<Machine> {
    let memory = format!("{mib}M").parse().map_err(|e| Failure::of("memory", &e))?;
    let (id, socket) = ("vsock0".into(), socket.into());
    let device = VhostUser { bus: Bus::Pci, id, socket, memory, sharing: Sharing::Machine };
    Ok(machine.memory(mib).arguments(device.arguments()))
}
