//! The options about the process and about what clients may negotiate.

use std::{ffi::OsStr, path::Path};

use nbd::negotiate::Offers;

use super::{Said, Stop};
use crate::{process::Process, units::parse_number};

/// If called by this name, the program goes into the background by itself, as nbdkit does.
const NBDKIT: &str = "nbdkit";

/// Whether the program was called by the name `nbdkit`.
pub(super) fn is_nbdkit(name: &OsStr) -> bool {
    Path::new(name).file_name() == Some(OsStr::new(NBDKIT))
}

impl Said {
    /// `name` is the name that the program was called by. `activated` says that it inherited
    /// sockets from systemd.
    pub(super) fn process(&self, name: &OsStr, activated: bool) -> Result<Process, Stop> {
        let hint = "leave --background out";
        for (both, one, hint) in [
            (self.foreground, "-f/--foreground", "leave one of them out"),
            (self.run.is_some(), "--run", hint),
            (self.exit_with_parent, "--exit-with-parent", hint),
            (self.single, "-s/--single", hint),
            (activated, "socket activation (LISTEN_FDS)", hint),
        ] {
            if self.background && both {
                return Err(Stop::Together { one, other: "--background", hint });
            }
        }
        let stays = self.foreground
            || self.run.is_some()
            || self.exit_with_parent
            || self.single
            || activated;
        Ok(Process {
            background: self.background || (is_nbdkit(name) && !stays),
            with_parent: self.exit_with_parent,
            user: self.user.clone(),
            group: self.group.clone(),
            swap: self.swap,
            selinux_label: self.selinux_label.clone(),
            command: self.run.clone(),
        })
    }

    /// What the server may negotiate.
    pub(super) fn offers(&self) -> Result<Offers, Stop> {
        let mask = match &self.mask_handshake {
            None => u32::MAX,
            Some(text) => parse_number(text).map_err(|_| Stop::Mask(text.clone()))?,
        };
        Ok(Offers {
            fixed: mask & 1 != 0,
            no_zeroes: mask & 2 != 0,
            structured: !self.no_sr,
            // Extended headers imply structured replies.
            extended: !self.no_sr,
            contexts: !self.no_mc,
            // TLS depends on the certificates, which the session knows.
            ..Offers::default()
        })
    }
}
