//! Who may connect to a socket that a VMM finds by its path: mode, owner and group of the file.
//!
//! `address` parses them. `unix` sets them before it listens, so that nobody can connect under
//! other rights.

use std::{fmt, io, os::unix::fs::lchown, path::Path};

use nix::{
    fcntl::AT_FDCWD,
    sys::stat::{FchmodatFlags, Mode, fchmodat},
};

use super::{AddressError, Cause};
use crate::sys;

/// What is left out stays as the system makes it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Rights {
    /// As in chmod(1); only the lowest nine bits.
    pub mode: Option<u32>,
    /// A name or a number, looked up when the socket is made. The same holds for `group`.
    pub owner: Option<Box<str>>,
    pub group: Option<Box<str>>,
}

impl Rights {
    /// Takes the setting if its key is `mode`, `owner` or `group`. Returns whether it is.
    pub(super) fn take(&mut self, key: &str, value: &str) -> Result<bool, AddressError> {
        match key {
            "mode" => {
                let mode = u32::from_str_radix(value, 8).ok().filter(|mode| *mode <= 0o777);
                let digits = value.bytes().all(|byte| byte.is_ascii_digit());
                let mode = mode.filter(|_| digits);
                self.mode = Some(mode.ok_or_else(|| AddressError::Mode(value.to_owned()))?);
            }
            "owner" | "group" if value.is_empty() => {
                return Err(AddressError::NoName(if key == "owner" { "owner" } else { "group" }));
            }
            "owner" => self.owner = Some(value.into()),
            "group" => self.group = Some(value.into()),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Sets mode, owner and group of a socket that was just made at `path`.
    pub(super) fn apply(&self, path: &Path) -> Result<(), Cause> {
        let uid = match &self.owner {
            Some(name) => known(sys::user::uid(name), || Cause::NoUser(name.to_string()))?,
            None => None,
        };
        let gid = match &self.group {
            Some(name) => known(sys::user::gid(name), || Cause::NoGroup(name.to_string()))?,
            None => None,
        };
        if uid.is_some() || gid.is_some() {
            lchown(path, uid, gid).map_err(Cause::Owner)?;
        }
        let Some(bits) = self.mode else { return Ok(()) };
        // Another user may own the directory and replace the socket with a link.
        let follow = FchmodatFlags::NoFollowSymlink;
        fchmodat(AT_FDCWD, path, Mode::from_bits_truncate(bits), follow)
            .map_err(|errno| Cause::Mode { mode: bits, source: errno.into() })
    }
}

fn known(
    found: io::Result<Option<u32>>,
    nobody: impl FnOnce() -> Cause,
) -> Result<Option<u32>, Cause> {
    found.map_err(Cause::System)?.ok_or_else(nobody).map(Some)
}

/// As written after a path.
impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.mode.iter().try_for_each(|mode| write!(f, ",mode={mode:04o}"))?;
        self.owner.iter().try_for_each(|owner| write!(f, ",owner={owner}"))?;
        self.group.iter().try_for_each(|group| write!(f, ",group={group}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_and_printed() {
        let mut rights = Rights::default();
        assert_eq!(rights.to_string(), "");
        for (key, value) in [("mode", "660"), ("owner", "qemu"), ("group", "107")] {
            assert_eq!(rights.take(key, value), Ok(true));
        }
        assert_eq!(rights.to_string(), ",mode=0660,owner=qemu,group=107");
        assert_eq!(rights.take("port", "1"), Ok(false));
        for mode in ["", "8", "1777", "+7", "rw", "0o7"] {
            assert_eq!(rights.take("mode", mode), Err(AddressError::Mode(mode.into())));
        }
        assert_eq!(rights.take("owner", ""), Err(AddressError::NoName("owner")));
    }

    #[test]
    fn unknown_users_and_missing_files_are_reported() {
        let apply = |rights: Rights| rights.apply(Path::new("/nonexistent/socket"));
        let rights = Rights { owner: Some("no-such-user".into()), ..Rights::default() };
        assert!(matches!(apply(rights), Err(Cause::NoUser(_))));
        let rights = Rights { group: Some("no-such-group".into()), ..Rights::default() };
        assert!(matches!(apply(rights), Err(Cause::NoGroup(_))));
        let rights = Rights { group: Some("0".into()), ..Rights::default() };
        assert!(matches!(apply(rights), Err(Cause::Owner(_))));
        let rights = Rights { mode: Some(0o600), ..Rights::default() };
        assert!(matches!(apply(rights), Err(Cause::Mode { .. })));
        assert!(apply(Rights::default()).is_ok());
    }
}
