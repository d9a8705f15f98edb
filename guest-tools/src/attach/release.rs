//! Lets a device go: what the kernel still holds is written and flushed first, and a disk that is in use
//! is not taken away. The command `detach` and a relay that is asked to end do it.

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

/// How long whoever looks at the disk's content may hold it locked.
const LOOKED_AT: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(20);

/// Flushes and disconnects; `force` does without the flush and whoever uses it.
pub(crate) fn release(device: Device, force: bool) -> Result<(), AttachError> {
    if matches!(device, Device::Ublk(_)) && !force && ask(device).is_none() {
        return Err(AttachError::Unattended(device));
    }
    let held = if force { None } else { Some(locked(flushed(device)?)) };
    let disconnected = match device {
        Device::Nbd(number) => Driver::open().and_then(|mut driver| driver.disconnect(number)),
        Device::Ublk(number) => stop(number, force),
    };
    // Held until here: nobody mounts it in between.
    drop(held);
    disconnected.map_err(|source| match source.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT | Errno::EINVAL | Errno::ENODEV) => AttachError::NotAttached(device),
        _ => AttachError::Disconnect { device, source },
    })
}

/// Has the ublk driver take a device away. The driver waits for what was asked for, so by force the relay
/// has to go first. A relay that stays forgets the device itself.
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

/// The device, for nobody else, with nothing left to write.
fn flushed(device: Device) -> Result<File, AttachError> {
    // With O_EXCL a block device opens only if nothing is mounted from it, and nobody else has it so.
    let opened = File::options().read(true).custom_flags(O_EXCL).open(device.to_string());
    let file = opened.map_err(|source| match source.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EBUSY) => AttachError::InUse(device),
        _ => AttachError::Open { device, source },
    })?;
    let flushed = file.sync_all();
    flushed.map_err(|source| AttachError::Flush { device, source })?;
    Ok(file)
}

/// Locked, as systemd's "Locking Block Device Access" has it: udev looks at a disk whenever a writer has
/// closed it, and its reads would fail, with lines in the kernel's log, if the disk went meanwhile. Who
/// holds the lock too long does not keep the disk.
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
