//! One socket a disk under /run/guest-tools: whoever connects is told the state in JSON. That it is
//! there and answers says that the relay lives. `device` serves it; `status` and `detach` ask.

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
    device_name,
    netlink::{Driver, is_connected},
    state::Shared,
};

const RUN: &str = "/run/guest-tools";
/// A relay that does not tell its state in this time does not tell it.
const PATIENCE: Duration = Duration::from_secs(2);

/// The socket of one disk. It goes with its value.
#[derive(Debug)]
pub(super) struct Control {
    listener: UnixListener,
    path: PathBuf,
}

impl Control {
    pub(super) fn open(index: u32) -> io::Result<Self> {
        fs::create_dir_all(RUN)?;
        let path = path(index);
        // The kernel gave us the device: whoever had it is gone.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, path })
    }

    /// Tells everybody who waits.
    pub(super) fn answer(&self, state: &Shared) {
        while let Ok((mut stream, _)) = self.listener.accept() {
            let text = state.lock().to_json().to_string();
            // It fits into the socket; one who does not listen gets no more.
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
        // A name that stays answers nobody, and the next relay of this device takes it away.
        fs::remove_file(&self.path).ok();
    }
}

fn path(index: u32) -> PathBuf {
    PathBuf::from(format!("{RUN}/nbd{index}.sock"))
}

/// A device that is connected, or has a relay.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) index: u32,
    /// As `State` says it.
    pub(crate) state: Value,
}

/// All of them, by number.
pub(crate) fn attached() -> Vec<Attached> {
    let mut all: Vec<u32> = Driver::open().and_then(|mut d| d.connected()).unwrap_or_default();
    let sockets = fs::read_dir(RUN).into_iter().flatten().flatten();
    all.extend(sockets.filter_map(|entry| {
        let name = entry.file_name();
        name.to_str()?.strip_prefix("nbd")?.strip_suffix(".sock")?.parse::<u32>().ok()
    }));
    all.sort_unstable();
    all.dedup();
    let said = |index| {
        Some(Attached {
            index,
            state: ask(index).or_else(|| is_connected(index).then(|| unattended(index)))?,
        })
    };
    all.into_iter().filter_map(said).collect()
}

/// What the relay of a device says, if it has one.
fn ask(index: u32) -> Option<Value> {
    let mut stream = UnixStream::connect(path(index)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

/// A device of another program's, or of a relay that was killed.
fn unattended(index: u32) -> Value {
    let backend = fs::read_to_string(format!("/sys/block/nbd{index}/backend")).ok();
    let sectors = fs::read_to_string(format!("/sys/block/nbd{index}/size")).ok();
    let size = sectors.and_then(|text| text.trim().parse::<u64>().ok()).map(|n| n << 9);
    json!({
        "device": device_name(index),
        "uri": backend.map(|text| text.trim().to_owned()),
        "state": "unattended",
        "size": size,
    })
}
