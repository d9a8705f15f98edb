//! Sends requests to a remote server, one whole request after the other.

use std::{
    io::{self, IoSlice},
    os::fd::AsFd,
    sync::{Arc, Condvar, Mutex, PoisonError},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::{
    asker::{Asker, LOOK},
    reader::Shared,
    runtime::runtime,
};
use disk::joined;

/// Whether a request is being sent.
#[derive(Debug, Default)]
pub(super) struct Turns {
    taken: Mutex<bool>,
    free: Condvar,
}

/// The right to send, until it is dropped.
pub(super) struct Turn(Arc<Shared>);

impl Turn {
    /// Waits until no other thread sends. `None` if the asker has given up.
    pub(super) fn wait(link: &Arc<Shared>, by: &Asker) -> Option<Self> {
        let turns = &link.turns;
        let mut taken = turns.taken.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if by.is_over() {
                return None;
            }
            if !*taken {
                *taken = true;
                return Some(Self(Arc::clone(link)));
            }
            let waited = turns.free.wait_timeout(taken, LOOK);
            taken = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Sends as much as possible before the asker gives up. Returns `None` if all was sent, otherwise the runs that are
    /// left. They are empty if the rest is encrypted and has not been sent.
    pub(super) fn send<'r, 'a>(
        &self,
        by: &Asker,
        mut runs: &'r mut [IoSlice<'a>],
    ) -> io::Result<Option<&'r mut [IoSlice<'a>]>> {
        loop {
            let done = if runs.is_empty() {
                self.0.transport.try_flush().map(|()| 0)
            } else {
                self.0.transport.try_send(runs)
            };
            match done {
                Ok(_) if runs.is_empty() => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => IoSlice::advance_slices(&mut runs, n),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                Err(_) if by.is_over() => return Ok(Some(runs)),
                Err(_) => self.wait_for_room()?,
            }
        }
    }

    fn wait_for_room(&self) -> io::Result<()> {
        let mut socket = [PollFd::new(self.0.transport.as_fd(), PollFlags::POLLOUT)];
        let look = PollTimeout::try_from(LOOK).unwrap_or(PollTimeout::MAX);
        match poll(&mut socket, look) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Sends the rest of an abandoned request in the background, because other requests follow on this link.
    pub(super) fn leave(self, rest: &[IoSlice<'_>]) -> io::Result<()> {
        let bytes = joined(rest.iter().map(|run| &**run))?;
        runtime()?.spawn(async move {
            if let Err(error) = self.0.transport.send_all(&bytes).await {
                self.0.fail(&format!("the connection failed: {error}"));
            }
        });
        Ok(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let turns = &self.0.turns;
        *turns.taken.lock().unwrap_or_else(PoisonError::into_inner) = false;
        turns.free.notify_one();
    }
}
