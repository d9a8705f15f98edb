//! Limits the work of a connection before other connections of its thread get their turn.

use std::time::Instant;

use super::super::turns::SLICE;

/// The maximum of bytes answered or moved per turn.
const BYTES: u64 = 1 << 20;
/// The maximum of requests per turn.
const REQUESTS: u32 = 256;
/// Requests between two reads of the clock. Reading it costs a few percent of the cheapest request.
const LOOK: u32 = 16;
/// Bytes after which the clock is read in any case.
const LOOK_BYTES: u64 = 64 << 10;

/// The work that a connection has done in its turn.
#[derive(Debug)]
pub(super) struct Turn {
    started: Instant,
    bytes: u64,
    requests: u32,
    /// Bytes and requests at which the next check is due.
    look: (u64, u32),
    over: bool,
}

impl Turn {
    pub(super) fn new() -> Self {
        let look = (LOOK_BYTES, LOOK);
        Self { started: Instant::now(), bytes: 0, requests: 0, look, over: false }
    }

    /// Counts one request, which moved `bytes` bytes.
    pub(super) fn count(&mut self, bytes: u64) {
        self.requests += 1;
        self.bytes += bytes;
        if self.bytes >= self.look.0 || self.requests >= self.look.1 {
            self.look =
                ((self.bytes + LOOK_BYTES).min(BYTES), (self.requests + LOOK).min(REQUESTS));
            self.over =
                self.bytes >= BYTES || self.requests >= REQUESTS || self.started.elapsed() >= SLICE;
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.over
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_turn_ends_with_its_bytes_its_requests_or_its_time() {
        let mut bytes = Turn::new();
        bytes.count(BYTES - 1);
        assert!(!bytes.is_over());
        bytes.count(1);
        assert!(bytes.is_over());
        let mut requests = Turn::new();
        (0..REQUESTS).for_each(|_| requests.count(0));
        assert!(requests.is_over());
        let mut time = Turn::new();
        thread::sleep(SLICE);
        (0..LOOK).for_each(|_| time.count(0));
        assert!(time.is_over());
    }
}
