//! What the next relay of a ublk device has to know if this one is killed. It is a file under
//! /run/guest-tools, which is in memory and ends with the kernel that has the device.
//!
//! Acknowledged changes that were not flushed are not in it. A file beside it, the mark, says whether there are
//! any. If so, a relay takes the device over only if the server has run all along and still has those changes.
//! The server has to identify its run for that. The relay stays with that run until a flush has succeeded.

use std::{
    fs::{self, File, Permissions},
    io::{self, Write},
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
};

use agent_contexts::FencingToken;
use nbd::wire::TransmissionFlags;
use serde_json::{Value, json};

use super::{
    export::Export,
    name::{Device, RUN},
    unfit::Unfit,
};

/// Added to the generation by a takeover. No relay reaches it by reconnecting.
const NEXT: u64 = 1 << 32;

/// The facts about a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Saved {
    /// The file that stores the facts.
    pub(super) path: PathBuf,
    pub(super) uri: String,
    pub(super) export: Export,
    pub(super) block: u32,
    /// The token that the last relay used at its start.
    pub(super) fencing: FencingToken,
    /// A flush of a relay's own has failed and the kernel has not been told.
    pub(super) untold: bool,
    /// The last relay may have acknowledged changes that were not flushed.
    pub(super) unflushed: bool,
}

impl Saved {
    /// The token for the next relay.
    pub(super) const fn next(&self) -> FencingToken {
        let FencingToken { token, generation } = self.fencing;
        FencingToken { token, generation: generation + NEXT }
    }

    /// Whether the kernel's device has the size that it was given.
    pub(super) fn is_of(&self, device: Device) -> bool {
        device.size() == Some(self.export.visible(self.block))
    }

    /// Whether an export is the one that the kernel was told of, with all of its properties.
    pub(super) fn is_still(&self, now: &Export) -> Result<(), Unfit> {
        self.export.is_still(now)?;
        if !self.unflushed {
            return Ok(());
        }
        match (&self.export.instance, &now.instance) {
            (Some(was), Some(is)) if was == is => Ok(()),
            (Some(_), Some(_)) => Err(Unfit::Anew),
            _ => Err(Unfit::Untold),
        }
    }

    /// Writes the file with access for its owner only, because the token is a secret.
    pub(super) fn write(&self) -> io::Result<()> {
        if let Some(directory) = self.path.parent() {
            fs::create_dir_all(directory)?;
        }
        let new = self.path.with_extension("new");
        let mut file = File::create(&new)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(self.to_json().to_string().as_bytes())?;
        drop(file);
        fs::rename(new, &self.path)
    }

    /// Reads the file. `None`: nothing is known of the device.
    pub(super) fn read(path: PathBuf) -> io::Result<Option<Self>> {
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let value = serde_json::from_str(&text).map_err(io::Error::other)?;
        let known = Self::from_json(path, &value);
        known.map(Some).ok_or_else(|| io::Error::other("its words are another version's"))
    }

    /// Removes the files, when the device is gone.
    pub(super) fn remove(path: &Path) {
        // A file that stays is ignored without its device.
        fs::remove_file(path).ok();
        fs::remove_file(mark_of(path)).ok();
    }

    fn to_json(&self) -> Value {
        json!({
            "uri": self.uri,
            "token": format!("{:032x}", self.fencing.token),
            "generation": self.fencing.generation,
            "block": self.block,
            "size": self.export.size,
            "flags": self.export.flags.bits(),
            "minimum": self.export.minimum,
            "maximum": self.export.maximum,
            "identity": self.export.identity,
            "instance": self.export.instance,
            "untold": self.untold,
        })
    }

    fn from_json(path: PathBuf, value: &Value) -> Option<Self> {
        let number = |key: &str| value.get(key)?.as_u64();
        let text = |key: &str| value.get(key)?.as_str().map(str::to_owned);
        let flags = u16::try_from(number("flags")?).ok()?;
        Some(Self {
            unflushed: Mark::read(&path),
            path,
            uri: text("uri")?,
            export: Export {
                size: number("size")?,
                flags: TransmissionFlags::from_bits_retain(flags),
                minimum: u32::try_from(number("minimum")?).ok()?,
                maximum: u32::try_from(number("maximum")?).ok()?,
                identity: text("identity"),
                instance: text("instance"),
            },
            block: u32::try_from(number("block")?).ok()?,
            fencing: FencingToken {
                token: u128::from_str_radix(&text("token")?, 16).ok()?,
                generation: number("generation")?,
            },
            // Older relays did not write it.
            untold: value.get("untold").and_then(Value::as_bool).unwrap_or(false),
        })
    }
}

/// Whether a relay has acknowledged changes that were not flushed: one byte in a file of its own, because it changes
/// with the changes.
#[derive(Debug)]
pub(super) struct Mark {
    file: File,
    unflushed: bool,
}

impl Mark {
    /// Makes the mark beside the facts at `path`.
    pub(super) fn new(path: &Path, unflushed: bool) -> io::Result<Self> {
        let file = File::options().write(true).create(true).truncate(false).open(mark_of(path))?;
        // The next `set` is the first.
        let mut mark = Self { file, unflushed: !unflushed };
        mark.set(unflushed)?;
        Ok(mark)
    }

    /// Call it with `true` before the kernel is told of a change that is not durable.
    pub(super) fn set(&mut self, unflushed: bool) -> io::Result<()> {
        if self.unflushed != unflushed {
            self.file.write_all_at(if unflushed { UNFLUSHED } else { FLUSHED }, 0)?;
            self.unflushed = unflushed;
        }
        Ok(())
    }

    /// What the last relay has left. Older relays left nothing.
    fn read(path: &Path) -> bool {
        fs::read(mark_of(path)).ok().as_deref() != Some(FLUSHED)
    }
}

const UNFLUSHED: &[u8] = b"1";
const FLUSHED: &[u8] = b"0";

fn mark_of(path: &Path) -> PathBuf {
    path.with_extension("unflushed")
}

/// The path of a device's facts.
pub(super) fn facts_of(device: Device) -> PathBuf {
    PathBuf::from(format!("{RUN}/{}.json", device.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved() -> Saved {
        let flags = TransmissionFlags::HAS_FLAGS | TransmissionFlags::SEND_FLUSH;
        Saved {
            path: facts_of(Device::Ublk(3)),
            uri: "nbd+vsock://2/a".to_owned(),
            export: Export {
                size: 1 << 40,
                flags,
                minimum: 1,
                maximum: 32 << 20,
                identity: Some("12".to_owned()),
                instance: Some("run7".to_owned()),
            },
            block: 512,
            fencing: FencingToken { token: 0xabc, generation: 1 },
            untold: true,
            unflushed: true,
        }
    }

    #[test]
    fn facts_survive_writing_and_reading() {
        let mut saved = saved();
        for instance in [Some("run7".to_owned()), None] {
            saved.export.instance = instance;
            let value: Value = serde_json::from_str(&saved.to_json().to_string()).unwrap();
            assert_eq!(Saved::from_json(saved.path.clone(), &value), Some(saved.clone()));
        }
        assert_eq!(Saved::from_json(saved.path, &json!({ "uri": "x" })), None);
    }

    #[test]
    fn a_device_is_taken_over_only_with_a_server_that_has_not_ended() {
        let saved = saved();
        let mut now = saved.export.clone();
        assert_eq!(saved.is_still(&now), Ok(()));
        now.instance = Some("run8".to_owned());
        assert!(
            saved
                .is_still(&now)
                .unwrap_err()
                .to_string()
                .contains("started anew while no relay was")
        );
        now.instance = None;
        assert!(saved.is_still(&now).unwrap_err().to_string().contains("does not say"));
        now.instance = saved.export.instance.clone();
        now.size += 1;
        assert!(saved.is_still(&now).unwrap_err().to_string().contains("its size was"));
        now = Export { instance: Some("run8".to_owned()), ..saved.export.clone() };
        let flushed = Saved { unflushed: false, ..saved.clone() };
        assert_eq!(flushed.is_still(&now), Ok(()), "nothing can be lost");
        assert!(saved.next().generation > saved.fencing.generation + 1_000_000_000);
        assert_eq!(saved.next().token, 0xabc);
    }
}
