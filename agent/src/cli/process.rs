//! The words about the process and about what clients may negotiate.

use std::{ffi::OsStr, path::Path};

use nbd::negotiate::Offers;

use super::{Said, Stop};
use crate::process::Process;

/// By this name the agent goes into the background by itself, as its namesake does.
const NBDKIT: &str = "nbdkit";

impl Said {
    /// `name` is what the program was called by; `activated`: the sockets are systemd's.
    pub(super) fn process(&self, name: &OsStr, activated: bool) -> Result<Process, Stop> {
        let mend = "leave --background out";
        for (both, one, mend) in [
            (self.foreground, "-f/--foreground", "leave one of them out"),
            (self.run.is_some(), "--run", mend),
            (self.exit_with_parent, "--exit-with-parent", mend),
            (self.single, "-s/--single", mend),
            (activated, "socket activation (LISTEN_FDS)", mend),
        ] {
            if self.background && both {
                return Err(Stop::Together { one, other: "--background", mend });
            }
        }
        let stays = self.foreground
            || self.run.is_some()
            || self.exit_with_parent
            || self.single
            || activated;
        let is_nbdkit = Path::new(name).file_name() == Some(OsStr::new(NBDKIT));
        Ok(Process {
            background: self.background || (is_nbdkit && !stays),
            with_parent: self.exit_with_parent,
            user: self.user.clone(),
            group: self.group.clone(),
            swap: self.swap,
            selinux_label: self.selinux_label.clone(),
            command: self.run.clone(),
        })
    }

    /// What the negotiation may use.
    pub(super) fn offers(&self) -> Result<Offers, Stop> {
        let mask = match &self.mask_handshake {
            None => u32::MAX,
            Some(text) => unsigned(text).ok_or_else(|| Stop::Mask(text.clone()))?,
        };
        Ok(Offers {
            fixed: mask & 1 != 0,
            no_zeroes: mask & 2 != 0,
            structured: !self.no_sr,
            // Extended headers imply structured replies.
            extended: !self.no_sr,
            contexts: !self.no_mc,
            // As certificates allow: the session knows.
            ..Offers::default()
        })
    }
}

/// As nbdkit reads numbers: decimal, or hexadecimal with `0x`, or octal with `0`.
fn unsigned(text: &str) -> Option<u32> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hexadecimal) => (hexadecimal, 16),
        None if text.len() > 1 && text.starts_with('0') => (&text[1..], 8),
        None => (text, 10),
    };
    // `from_str_radix` takes a sign.
    let plain = digits.bytes().all(|byte| byte.is_ascii_alphanumeric());
    plain.then(|| u32::from_str_radix(digits, radix).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_strtoul() {
        for (text, number) in [
            ("0", Some(0)),
            ("3", Some(3)),
            ("0x1", Some(1)),
            ("0XfFfFfFfF", Some(u32::MAX)),
            ("012", Some(10)),
            ("4294967296", None),
            ("09", None),
            ("", None),
            ("0x", None),
            ("-1", None),
            ("+1", None),
            ("1 ", None),
        ] {
            assert_eq!(unsigned(text), number, "{text}");
        }
    }
}
