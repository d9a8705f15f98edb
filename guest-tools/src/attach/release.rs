//! Detaches a device. What the kernel still holds is written and flushed first, and a disk that is in use
//! is not taken away. The command `detach` calls it, and so does a relay that is asked to end.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
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
    let has_relay = matches!(device, Device::Nbd(_)) || ask(device).is_some();
    let held = match force {
        true => None,
        false if has_relay => Some(locked(flushed(device)?)),
        false => Some(locked(clean(device)?)),
    };
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

/// Opens a device exclusively that has no relay, if nothing of it can be unflushed. A device that is not open has
/// nothing left to write in the kernel, and the mark says whether the server has.
fn clean(device: Device) -> Result<File, AttachError> {
    let saved = Saved::read(facts_of(device)).ok().flatten();
    let inflight = fs::read_to_string(format!("/sys/block/{}/inflight", device.name()));
    let idle = inflight.is_ok_and(|counts| counts.split_whitespace().all(|count| count == "0"));
    if saved.is_none_or(|saved| saved.unflushed || saved.untold) || !idle || is_open(device) {
        return Err(AttachError::Unattended(device));
    }
    exclusive(device)
}

/// Whether a process has the device open, as far as this one may see. Only root may detach, and sees all.
fn is_open(device: Device) -> bool {
    let Ok(number) = fs::metadata(device.to_string()).map(|found| found.rdev()) else {
        return false;
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut files = processes
        .filter_map(|process| fs::read_dir(process.path().join("fd")).ok())
        .flatten()
        .flatten();
    files.any(|file| {
        fs::metadata(file.path())
            .is_ok_and(|found| found.file_type().is_block_device() && found.rdev() == number)
    })
}

/// Opens the device. With O_EXCL a block device opens only if nothing is mounted from it and no other process has
/// opened it with O_EXCL.
fn exclusive(device: Device) -> Result<File, AttachError> {
    let opened = File::options().read(true).custom_flags(O_EXCL).open(device.to_string());
    opened.map_err(|source| match source.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EBUSY) => AttachError::InUse(device),
        _ => AttachError::Open { device, source },
    })
}

/// Opens the device exclusively, with nothing left to write.
fn flushed(device: Device) -> Result<File, AttachError> {
    let file = exclusive(device)?;
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
