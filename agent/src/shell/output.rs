//! Reads the output of a command within bounds: all of it is read, so that the command does not block, and a part of it
//! is kept.

use std::{future, io, os::fd::OwnedFd};

use tokio::net::unix::pipe::Receiver;

/// The maximum of bytes that are kept. The longest description in NBD has 4096 bytes; one more shows that a text is
/// longer.
pub(super) const MOST: usize = 4096 + 1;
/// Bytes per read.
const CHUNK: usize = 8192;
/// The maximum of chunks that are read from the pipe after the command has ended. A pipe holds 64 KiB, or more if it
/// was made larger. The bound is needed because processes that the command has started may continue to print.
const LAST_CHUNKS: usize = 64;

/// The part of the output that is kept.
#[derive(Debug)]
pub(super) struct Kept {
    bytes: Vec<u8>,
    last: bool,
}

impl Kept {
    /// Keeps the first bytes.
    pub(super) const fn first() -> Self {
        Self { bytes: Vec::new(), last: false }
    }

    /// Keeps the last bytes.
    pub(super) const fn last() -> Self {
        Self { bytes: Vec::new(), last: true }
    }

    fn add(&mut self, bytes: &[u8]) {
        let (kept, more) = (self.bytes.len(), bytes.len());
        if self.last {
            self.bytes.drain(..kept.min((kept + more).saturating_sub(MOST)));
            self.bytes.extend_from_slice(&bytes[more.saturating_sub(MOST)..]);
        } else {
            self.bytes.extend_from_slice(&bytes[..more.min(MOST - kept)]);
        }
    }
}

/// The read end of a pipe that the command writes to.
#[derive(Debug)]
pub(super) struct Pipe {
    pipe: Option<Receiver>,
    kept: Kept,
}

impl Pipe {
    /// Must be called on a runtime. A pipe that cannot be read counts as empty.
    pub(super) fn new(pipe: Option<OwnedFd>, kept: Kept) -> Self {
        Self { pipe: pipe.and_then(|pipe| Receiver::from_owned_fd(pipe).ok()), kept }
    }

    /// Reads all output. Never returns.
    pub(super) async fn listen(&mut self) {
        let mut bytes = vec![0; CHUNK];
        while let Some(pipe) = &self.pipe {
            if pipe.readable().await.is_err() {
                break;
            }
            match pipe.try_read(&mut bytes) {
                Ok(0) => break,
                Ok(n) => self.kept.add(&bytes[..n]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
        future::pending::<()>().await;
    }

    /// The kept part, including data still in the pipe, which the runtime may not have seen yet.
    pub(super) fn rest(mut self) -> Vec<u8> {
        let mut bytes = vec![0; CHUNK];
        if let Some(pipe) = self.pipe.and_then(|pipe| pipe.into_nonblocking_fd().ok()) {
            for _ in 0..LAST_CHUNKS {
                match nix::unistd::read(&pipe, &mut bytes) {
                    Ok(n @ 1..) => self.kept.add(&bytes[..n]),
                    Ok(0) | Err(_) => break,
                }
            }
        }
        self.kept.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_or_the_last_bytes_are_kept() {
        let bytes: Vec<u8> = (0..20_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        for chunk in [1, 7, 4096, 8192, 20_000] {
            let (mut first, mut last) = (Kept::first(), Kept::last());
            for chunk in bytes.chunks(chunk) {
                first.add(chunk);
                last.add(chunk);
            }
            assert_eq!(first.bytes, bytes[..MOST], "{chunk}");
            assert_eq!(last.bytes, bytes[bytes.len() - MOST..], "{chunk}");
        }
        let mut short = Kept::last();
        short.add(b"short");
        assert_eq!(short.bytes, b"short");
    }
}
