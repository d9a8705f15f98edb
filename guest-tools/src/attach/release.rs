//! Lets a device go: what the kernel still holds is written and flushed first, and a disk that is in use
//! is not taken away. The command `detach` and a relay that is asked to end do it.

use std::{
    fs::File,
    os::unix::fs::OpenOptionsExt,
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    libc::O_EXCL,
};

use super::{AttachError, device_name, netlink::Driver};

/// How long whoever looks at the disk's content may hold it locked.
const LOOKED_AT: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(20);

/// Flushes and disconnects; `force` does without the flush and whoever uses it.
pub(crate) fn release(index: u32, force: bool) -> Result<(), AttachError> {
    let device = device_name(index);
    let held = if force { None } else { Some(locked(flushed(&device)?)) };
    let disconnected = Driver::open().and_then(|mut driver| driver.disconnect(index));
    // Held until here: nobody mounts it in between.
    drop(held);
    disconnected.map_err(|source| match source.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT | Errno::EINVAL) => AttachError::NotAttached(device),
        _ => AttachError::Disconnect { device, source },
    })
}

/// The device, for nobody else, with nothing left to write.
fn flushed(device: &str) -> Result<File, AttachError> {
    // With O_EXCL a block device opens only if nothing is mounted from it, and nobody else has it so.
    let opened = File::options().read(true).custom_flags(O_EXCL).open(device);
    let file = opened.map_err(|source| match source.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EBUSY) => AttachError::InUse(device.to_owned()),
        _ => AttachError::Open { device: device.to_owned(), source },
    })?;
    let flushed = file.sync_all();
    flushed.map_err(|source| AttachError::Flush { device: device.to_owned(), source })?;
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
