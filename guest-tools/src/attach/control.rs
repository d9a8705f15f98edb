//! One Unix socket per attached disk, under /run/guest-tools. Every connection receives the relay's
//! state in JSON. A socket that answers shows that the relay is alive. `device` serves the socket;
//! `status` and `detach` read it.

use std::{
    fs,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::{
            fs::PermissionsExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::PathBuf,
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    name::{Device, RUN},
    netlink::{Driver, is_connected},
    saved::{Saved, facts_of},
    state::Shared,
};

/// How long to wait for a relay's state.
const PATIENCE: Duration = Duration::from_secs(2);

/// The socket of one disk. Dropping the value removes the socket.
#[derive(Debug)]
pub(super) struct Control {
    listener: UnixListener,
    path: PathBuf,
}

impl Control {
    pub(super) fn open(device: Device) -> io::Result<Self> {
        fs::create_dir_all(RUN)?;
        let path = path(device);
        // The kernel has given us the device, so the relay that made this socket is gone.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, path })
    }

    /// Sends the state to every client that waits.
    pub(super) fn answer(&self, state: &Shared) {
        while let Ok((mut stream, _)) = self.listener.accept() {
            let text = state.lock().to_json().to_string();
            // The text fits into the socket's buffer. A client that does not read receives no more.
            drop(stream.set_nonblocking(true).and_then(|()| stream.write_all(text.as_bytes())));
        }
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // A name that is left behind answers nobody, and the next relay of this device removes it.
        fs::remove_file(&self.path).ok();
    }
}

fn path(device: Device) -> PathBuf {
    PathBuf::from(format!("{RUN}/{}.sock", device.name()))
}

/// A device that is connected, or has a relay.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) device: Device,
    /// In the format of `State::to_json`.
    pub(crate) state: Value,
}

/// All attached devices: those of the nbd driver that any program made, and those of the ublk driver
/// that this program made.
pub(crate) fn attached() -> Vec<Attached> {
    let connected = Driver::open().and_then(|mut driver| driver.connected()).unwrap_or_default();
    let mut all: Vec<_> = connected.into_iter().map(Device::Nbd).collect();
    let files = fs::read_dir(RUN).into_iter().flatten().flatten();
    all.extend(files.filter_map(|entry| {
        let name = entry.file_name();
        let (name, kind) = name.to_str()?.rsplit_once('.')?;
        Device::of_name(name).filter(|_| matches!(kind, "sock" | "json"))
    }));
    all.sort_unstable();
    all.dedup();
    let said =
        |device| Some(Attached { device, state: ask(device).or_else(|| unattended(device))? });
    all.into_iter().filter_map(said).collect()
}

/// The state that the relay of a device reports; `None` without a relay.
pub(super) fn ask(device: Device) -> Option<Value> {
    let mut stream = UnixStream::connect(path(device)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

/// The state of a device that another program made, or whose relay was killed.
fn unattended(device: Device) -> Option<Value> {
    let uri = match device {
        Device::Nbd(number) if !is_connected(number) => return None,
        Device::Nbd(_) => fs::read_to_string(format!("/sys/block/{}/backend", device.name())).ok(),
        // There is a file of facts about it, so this program made the device.
        Device::Ublk(_) => Saved::read(facts_of(device)).ok().flatten().map(|saved| saved.uri),
    };
    let size = device.size()?;
    Some(json!({
        "device": device.to_string(),
        "uri": uri.map(|text| text.trim().to_owned()),
        "state": "unattended",
        "size": size,
    }))
}
