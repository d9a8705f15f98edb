//! A block device that survives its server: a driver of the kernel's at one end, the server at the other,
//! and a relay between them.
//!
//! ```text
//!  kernel's ublk driver <-- io_uring ----> frontend \
//!                                                    inflight -- relay -- link <-- vsock --> agent
//!  kernel's nbd driver <-- socket pairs -> frontend /    |           \
//!                                                    unflushed     redial
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
//! over (`agent_contexts::FencingToken`). Other servers are trusted to end a connection's work with it.

mod control;
mod device;
mod direct;
mod driver;
mod export;
mod fenced;
mod frontend;
mod harden;
mod inflight;
mod name;
mod netlink;
mod notify;
mod redial;
mod relay;
mod release;
mod saved;
mod state;
mod ublk;
mod unflushed;

use std::io;

use nbd_client::ClientError;
use nix::errno::Errno;
use thiserror::Error;

use self::frontend::FrontendError;

pub(crate) use self::{
    control::attached,
    device::{Ready, Wish, serve},
    direct::hand_over,
    name::Device,
    release::release,
};

/// Why a disk is not attached, or not let go.
#[derive(Debug, Error)]
pub(crate) enum AttachError {
    #[error("cannot attach {uri}: {why}")]
    Unfit { uri: String, why: String },
    #[error(transparent)]
    Session(#[from] ClientError),
    #[error("cannot attach: the kernel has no {driver} driver here ({hint})")]
    NoDriver { driver: &'static str, hint: &'static str, source: io::Error },
    #[error("cannot make {device} of {uri} ({hint})")]
    Connect { device: String, uri: String, hint: &'static str, source: io::Error },
    #[error("cannot {what}")]
    System { what: &'static str, source: io::Error },
    #[error("{device} ends early")]
    Frontend { device: String, source: FrontendError },
    #[error(
        "{0} is in use: unmount it first; --force takes it away, and loses what is not written"
    )]
    InUse(Device),
    #[error(
        "{0} has no relay, so it cannot be flushed: 'guest-tools attach --device {0}' goes on with it; \
         --force takes it away, and loses what is not written"
    )]
    Unattended(Device),
    #[error("cannot open {device}")]
    Open { device: Device, source: io::Error },
    #[error(
        "cannot flush {device}, so it stays; --force takes it away, and loses what is not written"
    )]
    Flush { device: Device, source: io::Error },
    #[error("cannot disconnect {device}")]
    Disconnect { device: Device, source: io::Error },
    #[error("{0} is not attached; 'guest-tools status' lists what is")]
    NotAttached(Device),
    #[error("{device} is disconnected, but its relay has not ended in {seconds} s")]
    Stays { device: Device, seconds: u64 },
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
