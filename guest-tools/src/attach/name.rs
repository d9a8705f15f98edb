//! The names of block devices. The name of a device says which driver makes it.

use std::{fmt, fs};

/// The directory of the relays' sockets and of the files that `saved` writes.
pub(super) const RUN: &str = "/run/guest-tools";

/// A device of one of the two drivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Device {
    /// /dev/nbdN
    Nbd(u32),
    /// /dev/ublkbN
    Ublk(u32),
}

impl Device {
    /// The name in /dev and /sys/block.
    pub(super) fn name(self) -> String {
        match self {
            Self::Nbd(number) => format!("nbd{number}"),
            Self::Ublk(number) => format!("ublkb{number}"),
        }
    }

    /// The size in bytes that the kernel reports; `None` if there is no such device.
    pub(super) fn size(self) -> Option<u64> {
        let sectors = fs::read_to_string(format!("/sys/block/{}/size", self.name())).ok()?;
        sectors.trim().parse::<u64>().ok()?.checked_mul(512)
    }

    pub(super) fn of_name(name: &str) -> Option<Self> {
        let number = |digits: &str| {
            let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            // The numbers are the kernel's minors, of which there are 2^20.
            digits.parse().ok().filter(|number| plain && *number < 1 << 20)
        };
        match name.strip_prefix("ublkb") {
            Some(digits) => number(digits).map(Self::Ublk),
            None => number(name.strip_prefix("nbd")?).map(Self::Nbd),
        }
    }

    /// Parses /dev/NAME or NAME from a command line.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        Self::of_name(text.strip_prefix("/dev/").unwrap_or(text))
            .ok_or_else(|| "a device is /dev/nbdN or /dev/ublkbN, such as /dev/nbd0".to_owned())
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/dev/{}", self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_drivers_and_numbers() {
        for (text, device) in [
            ("/dev/nbd0", Some(Device::Nbd(0))),
            ("nbd15", Some(Device::Nbd(15))),
            ("/dev/ublkb3", Some(Device::Ublk(3))),
            ("ublkb1048575", Some(Device::Ublk((1 << 20) - 1))),
            ("7", None),
            ("/dev/nbd", None),
            ("/dev/nbd1p1", None),
            ("/dev/ublkc1", None),
            ("/dev/ublkb", None),
            ("/dev/sda", None),
            ("nbd-1", None),
            ("nbd+1", None),
            ("nbd1048576", None),
            ("", None),
        ] {
            assert_eq!(Device::parse(text).ok(), device, "{text}");
        }
        assert_eq!(Device::Ublk(3).to_string(), "/dev/ublkb3");
    }
}
