//! A block device that survives its server. A driver of the kernel is at one end, the server at the other,
//! and a relay between them.
//!
//! ```text
//!  kernel's ublk driver <-- io_uring ----> frontend \
//!                                                    inflight -- relay -- client <-- vsock --> agent
//!  kernel's nbd driver <-- socket pairs -> frontend /    |           \
//!                                                    unflushed     redial
//! ```
//!
//! `device` sets it all up and stays until the kernel disconnects. The commands `attach`, `detach` and
//! `status` call it. There is a relay, although the kernel can speak to a server itself, because the
//! kernel's own socket dies with its server, and since October 2025 the kernel accepts no vsock sockets.
//!
//! What the relay promises, and how it keeps the promise:
//! - A server that dies causes a pause, not an error: requests without an answer are sent again.
//! - No acknowledged change is lost. A change that was answered and not flushed is kept here, and done again
//!   before anything else, because a server may die with its cache. The relay's own flushes bound what is kept.
//! - No change is undone. No two changes in flight overlap, and only the last change of each byte is kept, so
//!   doing it again ends with the content that the last answer promised.
//! - Another disk is not mistaken for this one: size, flags, block sizes and identity have to be as the kernel
//!   was told.
//!
//! What the relay cannot know is whether a live server still works on requests from a broken connection.
//! A server that died does not. The agent readmits a client that reconnects only after that work has
//! ended (`agent_contexts::FencingToken`). Other servers are trusted to end a connection's work together
//! with the connection.

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
mod unfit;
mod unflushed;
mod wish;

use std::io;

use nbd_client::ClientError;
use nix::errno::Errno;
use thiserror::Error;

use self::{frontend::FrontendError, unfit::Unfit};

pub(crate) use self::{
    control::attached,
    device::serve,
    direct::hand_over,
    name::Device,
    release::release,
    wish::{Ready, Wish},
};

/// Why a disk could not be attached or detached.
#[derive(Debug, Error)]
pub(crate) enum AttachError {
    #[error("cannot attach {uri}: {why}")]
    Unfit { uri: String, why: Unfit },
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
    #[error("{0} is in use: unmount it first; --force detaches it and loses unwritten data")]
    InUse(Device),
    #[error(
        "{0} has no relay, and may have unflushed data: 'guest-tools attach --device {0}' continues it; \
         --force detaches it and loses unwritten data"
    )]
    Unattended(Device),
    #[error("cannot open {device}")]
    Open { device: Device, source: io::Error },
    #[error(
        "cannot flush {device}, so it stays attached; --force detaches it and loses unwritten data"
    )]
    Flush { device: Device, source: io::Error },
    #[error("cannot disconnect {device}")]
    Disconnect { device: Device, source: io::Error },
    #[error("{0} is not attached; 'guest-tools status' lists the attached devices")]
    NotAttached(Device),
    #[error("{device} is disconnected, but its relay has not ended in {seconds} s")]
    Stays { device: Device, seconds: u64 },
}

impl AttachError {
    /// Whether the driver refuses sockets of this kind.
    pub(crate) fn is_refused_socket(&self) -> bool {
        let Self::Connect { source, .. } = self else { return false };
        source.raw_os_error() == Some(Errno::EINVAL as i32)
    }

    pub(crate) const fn system(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::System { what, source }
    }
}
