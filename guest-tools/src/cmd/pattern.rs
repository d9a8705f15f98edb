//! Bytes that tell where they are: every 8 bytes at an aligned offset are that offset, big-endian,
//! as in nbdkit's and the agent's pattern disks. `write --pattern` makes them and `read
//! --verify-pattern` looks for them, so that a guest without files can test a disk.

use std::io::{self, Read, Write};

/// The byte at `offset`.
fn byte(offset: u64) -> u8 {
    let [.., last] = ((offset & !7) >> (8 * (7 - offset % 8))).to_be_bytes();
    last
}

/// The pattern from an offset on, up to a length.
#[derive(Debug)]
pub(super) struct Source {
    at: u64,
    left: u64,
}

impl Source {
    pub(super) const fn new(at: u64, len: u64) -> Self {
        Self { at, left: len }
    }
}

impl Read for Source {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let len = usize::try_from(self.left).unwrap_or(usize::MAX).min(room.len());
        for (place, offset) in room.iter_mut().take(len).zip(self.at..) {
            *place = byte(offset);
        }
        self.at += len as u64;
        self.left -= len as u64;
        Ok(len)
    }
}

/// The first byte that is not the pattern's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) at: u64,
    pub(crate) found: u8,
    pub(crate) due: u8,
}

/// Holds what is written to it against the pattern. All of it: how much is wrong tells a lost
/// request from a shifted disk.
#[derive(Debug)]
pub(super) struct Verifier {
    at: u64,
    first: Option<Wrong>,
    wrong: u64,
}

impl Verifier {
    pub(super) const fn new(at: u64) -> Self {
        Self { at, first: None, wrong: 0 }
    }

    /// The first wrong byte, and how many there are; `None` if all are right.
    pub(super) fn verdict(&self) -> Option<(Wrong, u64)> {
        self.first.map(|first| (first, self.wrong))
    }
}

impl Write for Verifier {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for (&found, at) in bytes.iter().zip(self.at..) {
            let due = byte(at);
            if found != due {
                self.first.get_or_insert(Wrong { at, found, due });
                self.wrong += 1;
            }
        }
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(at: u64, len: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        Source::new(at, len).read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn aligned_words_are_their_offsets() {
        let at = 0x0123_4567_89ab_cde8;
        assert_eq!(pattern(at, 16), [at.to_be_bytes(), (at + 8).to_be_bytes()].concat());
        assert_eq!(pattern(at + 3, 9), pattern(at, 16)[3..12]);
    }

    #[test]
    fn a_wrong_byte_is_found_where_it_is() {
        let mut bytes = pattern(1001, 5000);
        let mut verifier = Verifier::new(1001);
        bytes.chunks(77).for_each(|piece| verifier.write_all(piece).unwrap());
        assert_eq!(verifier.verdict(), None);
        bytes[7] ^= 1;
        bytes[4999] ^= 1;
        let mut verifier = Verifier::new(1001);
        bytes.chunks(77).for_each(|piece| verifier.write_all(piece).unwrap());
        let first = Wrong { at: 1008, found: 1, due: 0 };
        assert_eq!(verifier.verdict(), Some((first, 2)));
    }
}
