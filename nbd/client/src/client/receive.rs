//! Receives replies, in place where they are large, and completes their requests.

use std::io::{self, IoSliceMut, Read};

use nbd::transmit::client::{Client as Machine, Event};

use super::{Client, Extent, Turned, is_large};
use crate::error::ClientError;

/// The bytes received after a large read that is received in place: the headers that follow.
const BEHIND: usize = 4 << 10;

impl Client {
    pub(super) fn receive(&mut self, most: usize) -> Result<Turned, ClientError> {
        for _ in 0..most {
            self.consume()?;
            // One answered request is enough to continue; the rest waits in the socket. But bytes that TLS has
            // already taken from the socket would wake nobody.
            if !self.done.is_empty() && !self.stream.holds_input() {
                return Ok(Turned::Busy);
            }
            match self.fill() {
                Ok(0) => {
                    let awaited = format!("the replies to {} requests", self.flying.len());
                    return Err(ClientError::Closed { name: self.name.clone(), awaited });
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Turned::Idle),
                Err(error) => {
                    return Err(ClientError::lost(&self.name, "waiting for a reply", error));
                }
            }
        }
        self.consume()?;
        Ok(Turned::Busy)
    }

    /// Handles all bytes that have arrived.
    pub(super) fn consume(&mut self) -> Result<(), ClientError> {
        loop {
            let (eaten, event) = self
                .machine
                .step(self.input.bytes())
                .map_err(|source| ClientError::Violation { name: self.name.clone(), source })?;
            let Some(event) = event else {
                self.input.consume(eaten);
                return Ok(());
            };
            let (Event::Data { cookie, .. }
            | Event::Hole { cookie, .. }
            | Event::Extent { cookie, .. }
            | Event::Done { cookie, .. }) = event;
            if let Event::Done { result, .. } = event {
                self.input.consume(eaten);
                if let Some(done) = self.flying.get_mut(&cookie) {
                    done.result = result;
                }
                if self.outgoing.has_unsent(cookie) {
                    self.early.push(cookie);
                } else {
                    self.finish(cookie);
                }
                continue;
            }
            if let Some(done) = self.flying.get_mut(&cookie) {
                match event {
                    Event::Data { at, bytes, .. } => done.put(at, bytes),
                    Event::Hole { at, len, .. } => done.put_hole(at, len),
                    Event::Extent { at, len, flags, .. } => {
                        done.put_extent(Extent { at, len, flags });
                    }
                    Event::Done { .. } => {}
                }
            }
            self.input.consume(eaten);
        }
    }

    pub(super) fn finish(&mut self, cookie: u64) {
        self.pulse.beat();
        if let Some(done) = self.flying.remove(&cookie) {
            self.large -= usize::from(is_large(&done.order));
            self.done.push_back(done);
        }
        self.passed_over.answered(cookie, |cookie| self.flying.contains_key(cookie));
    }

    /// Receives more bytes, and appends them to those that are left.
    fn fill(&mut self) -> io::Result<usize> {
        let most = if self.large > 0 { BEHIND.max(Machine::INPUT) } else { usize::MAX };
        let is_first = self.input.is_empty();
        let room = self.input.room(most);
        // The expected payload follows the consumed bytes, and all bytes have been consumed.
        let place = match self.machine.expects() {
            Some((cookie, at, len)) if is_first => {
                self.flying.get_mut(&cookie).and_then(|done| done.place(at, len))
            }
            _ => None,
        };
        let place = place.unwrap_or_default();
        let placed = place.len();
        let n = loop {
            let mut both = [IoSliceMut::new(place), IoSliceMut::new(room)];
            match self.stream.read_vectored(&mut both) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        // Inside TLS, bytes may have arrived although none is for the caller yet.
        self.pulse.moved(self.stream.take_moved());
        let n = n?;
        if n > 0 && placed > 0 {
            self.machine.placed(n.min(placed) as u64);
        }
        self.input.received(n.saturating_sub(placed));
        Ok(n)
    }
}
