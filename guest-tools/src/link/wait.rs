//! Where those wait who have one link or several and nothing else; `copy` has more to look at.

use std::{os::fd::AsFd, time::Duration};

use nix::{
    errno::Errno,
    poll::{PollFd, poll},
};

use super::Link;
use crate::{
    error::SessionError,
    patience::{self, poll_timeout},
};

impl Link {
    /// How long the server may still keep silent; `None`: for ever, or it owes nothing.
    pub(crate) fn left(&self) -> Option<Duration> {
        if self.flying.is_empty() { None } else { self.pulse.left() }
    }

    /// It kept silent for longer.
    pub(crate) fn silent(&self) -> SessionError {
        SessionError::lost(&self.uri, "waiting for a reply", patience::exhausted())
    }
}

/// Waits until one of them can go on. Silence is an error when `patience` is exhausted.
pub(crate) fn wait(links: &[&Link]) -> Result<(), SessionError> {
    let mut fds: Vec<_> =
        links.iter().map(|link| PollFd::new(link.as_fd(), link.interest())).collect();
    let limit = links.iter().filter_map(|link| link.left()).min();
    match poll(&mut fds, poll_timeout(limit)) {
        Ok(0) => least(links.iter().copied()).map_or(Ok(()), |link| Err(link.silent())),
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => {
            let uri = links.first().map_or("", |link| &link.uri);
            Err(SessionError::lost(uri, "waiting for a reply", errno.into()))
        }
    }
}

/// The one whose time is up first.
pub(crate) fn least<'a>(links: impl Iterator<Item = &'a Link>) -> Option<&'a Link> {
    let owing = links.filter_map(|link| link.left().map(|left| (left, link)));
    owing.min_by_key(|(left, _)| *left).map(|(_, link)| link)
}
