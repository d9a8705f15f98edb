//! Requests on their way to a far server: each leaves whole, one after the other.

use std::{
    io::{self, IoSlice},
    os::fd::AsFd,
    sync::{Arc, Condvar, Mutex, PoisonError},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::uio::writev,
};

use super::{
    asker::{Asker, LOOK},
    reader::Shared,
    runtime::runtime,
};
use crate::sys::socket::MAX_RUNS;
use disk::joined;

/// Whether somebody sends.
#[derive(Debug, Default)]
pub(super) struct Turns {
    taken: Mutex<bool>,
    free: Condvar,
}

/// The right to send, until it is dropped.
pub(super) struct Turn(Arc<Shared>);

impl Turn {
    /// Waits until nobody else sends; `None`: the asker has given up.
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

    /// Sends as much as goes before the asker gives up; what is left stands in the runs that are returned.
    pub(super) fn send<'r, 'a>(
        &self,
        by: &Asker,
        mut runs: &'r mut [IoSlice<'a>],
    ) -> io::Result<&'r mut [IoSlice<'a>]> {
        while !runs.is_empty() {
            match writev(&self.0.socket, &runs[..runs.len().min(MAX_RUNS)]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => IoSlice::advance_slices(&mut runs, n),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) if by.is_over() => break,
                Err(Errno::EAGAIN) => self.wait_for_room()?,
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(runs)
    }

    fn wait_for_room(&self) -> io::Result<()> {
        let mut socket = [PollFd::new(self.0.socket.as_fd(), PollFlags::POLLOUT)];
        let look = PollTimeout::try_from(LOOK).unwrap_or(PollTimeout::MAX);
        match poll(&mut socket, look) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Has the rest of a request sent that nobody waits for: others come behind it on this link.
    pub(super) fn leave(self, rest: &[IoSlice<'_>]) -> io::Result<()> {
        let bytes = joined(rest.iter().map(|run| &**run))?;
        runtime()?.spawn(async move {
            if let Err(error) = self.0.socket.send_all(&bytes).await {
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
