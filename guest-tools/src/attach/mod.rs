//! A block device that survives its server: the kernel's nbd driver at one end of socket pairs, the
//! server at the other, and a relay between them.
//!
//! ```text
//!  kernel's nbd driver <-- socket pair --> lane \
//!                                                tasks -- relay -- link <-- vsock --> agent
//!  kernel's nbd driver <-- socket pair --> lane /    |         \
//!                                             unflushed       redial
//! ```
//!
//! `device` sets it all up and stays until the kernel disconnects; the commands `attach`, `detach` and
//! `status` call it. Why a relay, when the kernel can speak to a server itself: a kernel's own socket
//! dies with its server, and since October 2025 it takes no vsock sockets.
//!
//! What the relay promises, and by what:
//! - a server that dies is a pause, not an error: requests without an answer are sent again;
//! - no acknowledged change vanishes: what was answered and not flushed is kept here (a flush of our own
//!   bounds it) and done again before anything else, because a server may die with its cache;
//! - no change is undone: of changes under way no two overlap, and of what is kept only the last change
//!   of each byte is, so that doing it again ends in what the last answer promised;
//! - another disk is not taken for this one: size, flags, block sizes and identity have to be as the
//!   kernel was told.
//!
//! What it cannot know: whether a server that is alive still works on what a broken connection had
//! asked for. A server that died does not, and the agent lets a client that comes back in when that is
//! over (`nbd::negotiate::Instead`). Other servers are trusted to end a connection's work with it.

mod control;
mod device;
mod direct;
mod export;
mod harden;
mod lane;
mod netlink;
mod notify;
mod redial;
mod relay;
mod release;
mod state;
mod tasks;
mod unflushed;

use std::io;

use nix::errno::Errno;
use thiserror::Error;

use self::lane::LaneError;
use crate::error::SessionError;

pub(crate) use self::{
    control::attached,
    device::{Ready, Wish, serve},
    direct::hand_over,
    release::release,
};

/// Why a disk is not attached, or not let go.
#[derive(Debug, Error)]
pub(crate) enum AttachError {
    #[error("cannot attach {uri}: {why}")]
    Unfit { uri: String, why: String },
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("cannot attach: the kernel has no nbd driver here ({mend})")]
    NoDriver { mend: &'static str, source: io::Error },
    #[error("cannot make {device} of {uri} ({mend})")]
    Connect { device: String, uri: String, mend: &'static str, source: io::Error },
    #[error("cannot {what}")]
    System { what: &'static str, source: io::Error },
    #[error("{device} ends early")]
    Lane { device: String, source: LaneError },
    #[error(
        "{0} is in use: unmount it first; --force takes it away, and loses what is not written"
    )]
    InUse(String),
    #[error("cannot open {device}")]
    Open { device: String, source: io::Error },
    #[error(
        "cannot flush {device}, so it stays; --force takes it away, and loses what is not written"
    )]
    Flush { device: String, source: io::Error },
    #[error("cannot disconnect {device}")]
    Disconnect { device: String, source: io::Error },
    #[error("{0} is not attached; 'guest-tools status' lists what is")]
    NotAttached(String),
    #[error("{device} is disconnected, but its relay has not ended in {seconds} s")]
    Stays { device: String, seconds: u64 },
}

impl AttachError {
    /// The driver takes no sockets of this kind.
    pub(crate) fn is_refused_socket(&self) -> bool {
        let Self::Connect { source, .. } = self else { return false };
        source.raw_os_error() == Some(Errno::EINVAL as i32)
    }

    pub(crate) const fn system(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::System { what, source }
    }
}

/// The name of a device.
pub(crate) fn device_name(index: u32) -> String {
    format!("/dev/nbd{index}")
}

/// The number of a device: /dev/nbdN, nbdN or N.
pub(crate) fn parse_device(text: &str) -> Result<u32, String> {
    let name = text.strip_prefix("/dev/").unwrap_or(text);
    let digits = name.strip_prefix("nbd").unwrap_or(name);
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    // The driver's numbers are the kernel's minors, of which there are 2^20.
    let number = digits.parse().ok().filter(|number| plain && *number < 1 << 20);
    number.ok_or_else(|| "a device is /dev/nbdN, such as /dev/nbd0".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_numbers() {
        for (text, number) in [
            ("/dev/nbd0", Some(0)),
            ("nbd15", Some(15)),
            ("7", Some(7)),
            ("/dev/nbd", None),
            ("/dev/nbd1p1", None),
            ("/dev/sda", None),
            ("-1", None),
            ("+1", None),
            ("1048576", None),
            ("", None),
        ] {
            assert_eq!(parse_device(text).ok(), number, "{text}");
        }
    }
}
