//! Waiting with poll(2), for callers that wait only for one or several connections.

use std::{
    os::fd::AsFd,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, poll},
};

use super::{Client, Done, Order, Verb};
use crate::{
    error::ClientError,
    timeout::{Timeout, poll_timeout},
};

/// How long to wait for the remaining answers when a session ends because of an error.
const SETTLE: Duration = Duration::from_secs(2);

impl Client {
    /// How long the server may owe an answer.
    pub const fn timeout(&self) -> Timeout {
        self.pulse.timeout()
    }

    /// How long the server may still be silent. `None` if it owes nothing, or if there is no timeout.
    pub fn left(&self) -> Option<Duration> {
        if self.flying.is_empty() { None } else { self.pulse.left() }
    }

    /// The error for a server that was silent for longer than `left`.
    pub fn silent(&self) -> ClientError {
        ClientError::lost(&self.name, "waiting for a reply", self.timeout().expired())
    }

    /// For a connection on which only a flush is in flight. A flush may take longer than a server may be silent.
    /// After half of that time this also sends a read of the first block, whose answer is a sign of life. Returns
    /// when to call it again; `None` if nothing limits the wait.
    pub fn inquire(&mut self) -> Option<Duration> {
        let (left, half) = (self.left()?, self.timeout().limit()? / 2);
        if left > half {
            return Some(left.saturating_sub(half));
        }
        if self.under_way() == 1 && self.flying.values().all(|done| done.order.verb == Verb::Flush)
        {
            let block = u64::from(self.terms().blocks.minimum.max(1));
            // An export of size 0 has no block to read. Then there is no sign of life.
            self.submit(Order::read(0, block, Vec::new())).ok();
        }
        Some(left)
    }

    /// Waits until any request is answered. Call it only while requests are in flight.
    ///
    /// # Errors
    /// As `turn`; `ClientError::Lost` if the server is silent for longer than the timeout. A request that the server
    /// failed is no error here: its error is in `Done::result`.
    pub fn next_done(&mut self) -> Result<Done, ClientError> {
        loop {
            if let Some(done) = self.pop() {
                return Ok(done);
            }
            self.turn()?;
            if self.done.is_empty() {
                wait(&[self])?;
            }
        }
    }

    /// Like `next_done`.
    ///
    /// # Errors
    /// As `next_done`; `ClientError::Failed` if the server failed the request.
    pub fn next_good(&mut self) -> Result<Done, ClientError> {
        let done = self.next_done()?;
        self.good(done)
    }

    /// Sends a flush and waits for it, as long as the server shows signs of life. Call it only when no other request
    /// is in flight.
    ///
    /// # Errors
    /// As `next_good`.
    pub fn flush(&mut self) -> Result<(), ClientError> {
        self.submit(Order::bare(Verb::Flush, 0, 0))?;
        let mut flushed = Ok(());
        while self.under_way() > 0 {
            let again = self.inquire();
            self.turn()?;
            match self.pop() {
                Some(done) if done.order.verb == Verb::Flush => {
                    flushed = self.good(done).map(drop);
                }
                // The answer to `inquire` has served its purpose, whatever it is.
                Some(_) => {}
                None => wait_for(&[self], again)?,
            }
        }
        flushed
    }

    /// Waits a moment for all answers. Some servers fail when a client leaves before that; nbdkit 1.32 fails an
    /// assertion.
    pub fn settle(&mut self) {
        let begun = Instant::now();
        while self.under_way() > 0 && self.turn().is_ok() {
            while self.pop().is_some() {}
            let left = SETTLE.saturating_sub(begun.elapsed());
            if self.under_way() == 0 || left.is_zero() || wait_for(&[self], Some(left)).is_err() {
                return;
            }
        }
    }
}

/// Waits until one of the clients is ready.
///
/// # Errors
/// `ClientError::Lost` if a server that owes an answer is silent for longer than its timeout.
pub fn wait(links: &[&Client]) -> Result<(), ClientError> {
    wait_for(links, None)
}

/// Like `wait`, for at most `most`.
fn wait_for(links: &[&Client], most: Option<Duration>) -> Result<(), ClientError> {
    let mut fds: Vec<_> =
        links.iter().map(|link| PollFd::new(link.as_fd(), link.interest())).collect();
    let limit = links.iter().filter_map(|link| link.left()).chain(most).min();
    match poll(&mut fds, poll_timeout(limit)) {
        Ok(0) => match least(links.iter().copied()) {
            Some(link) if link.left().is_some_and(|left| left.is_zero()) => Err(link.silent()),
            _ => Ok(()),
        },
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => {
            let name = links.first().map_or("", |link| &link.name);
            Err(ClientError::lost(name, "waiting for a reply", errno.into()))
        }
    }
}

/// The client whose server has to show a sign of life first; `None` if no server owes an answer.
pub fn least<'a>(links: impl Iterator<Item = &'a Client>) -> Option<&'a Client> {
    let owing = links.filter_map(|link| link.left().map(|left| (left, link)));
    owing.min_by_key(|(left, _)| *left).map(|(_, link)| link)
}
