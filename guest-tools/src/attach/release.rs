//! Detaches a device. What the kernel still holds is written and flushed first, and a disk that is in use
//! is not taken away. The command `detach` calls it, and so does a relay that is asked to end.

use std::{
    fs::File,
    io,
    os::unix::fs::OpenOptionsExt,
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    libc::O_EXCL,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use serde_json::Value;

use super::{
    AttachError,
    control::ask,
    name::Device,
    netlink::Driver,
    saved::{Saved, facts_of},
    ublk,
};

/// How long another program that examines the disk's content may hold its lock.
const LOOKED_AT: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(20);

/// Flushes and disconnects. With `force` there is no flush, and the disk may be in use.
pub(crate) fn release(device: Device, force: bool) -> Result<(), AttachError> {
    if matches!(device, Device::Ublk(_)) && !force && ask(device).is_none() {
        return Err(AttachError::Unattended(device));
    }
    let held = if force { None } else { Some(locked(flushed(device)?)) };
    let disconnected = match device {
        Device::Nbd(number) => Driver::open().and_then(|mut driver| driver.disconnect(number)),
        Device::Ublk(number) => stop(number, force),
    };
    // Held until here, so that nobody mounts the disk in between.
    drop(held);
    disconnected.map_err(|source| match source.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT | Errno::EINVAL | Errno::ENODEV) => AttachError::NotAttached(device),
        _ => AttachError::Disconnect { device, source },
    })
}

/// Makes the ublk driver remove a device. The driver waits for requests in flight, so with `force` the
/// relay has to go first. A relay that stays deletes the device itself.
fn stop(number: u32, force: bool) -> io::Result<()> {
    let device = Device::Ublk(number);
    let mut driver = ublk::Driver::open()?;
    let relay = ask(device).and_then(|state| state.get("pid").and_then(Value::as_i64));
    let relay = relay.and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 0);
    if let Some(pid) = relay.filter(|_| force) {
        kill(Pid::from_raw(pid), Signal::SIGQUIT)?;
        driver.is_left(number)?;
    }
    driver.stop(number)?;
    if relay.is_none() || force {
        driver.delete(number)?;
        Saved::remove(&facts_of(device));
    }
    Ok(())
}

/// Opens the device exclusively, with nothing left to write.
fn flushed(device: Device) -> Result<File, AttachError> {
    // With O_EXCL a block device opens only if nothing is mounted from it and no other process has opened
    // it with O_EXCL.
    let opened = File::options().read(true).custom_flags(O_EXCL).open(device.to_string());
    let file = opened.map_err(|source| match source.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EBUSY) => AttachError::InUse(device),
        _ => AttachError::Open { device, source },
    })?;
    let flushed = file.sync_all();
    flushed.map_err(|source| AttachError::Flush { device, source })?;
    Ok(file)
}

/// Takes the lock that systemd's "Locking Block Device Access" describes. udev examines a disk whenever a
/// writer has closed it. If the disk went away meanwhile, its reads would fail with lines in the kernel's
/// log. A process that holds the lock too long does not keep the disk.
fn locked(file: File) -> Result<Flock<File>, File> {
    let until = Instant::now() + LOOKED_AT;
    let mut file = file;
    while Instant::now() < until {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => return Ok(locked),
            Err((unlocked, _)) => file = unlocked,
        }
        thread::park_timeout(LOOK);
    }
    Err(file)
}
