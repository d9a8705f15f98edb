//! A pattern in which the data encodes its own offset: every 8 bytes at an aligned offset are that
//! offset, big-endian, as in the pattern disks of nbdkit and of the agent. `write --pattern` writes it
//! and `read --verify-pattern` checks it, so that a guest without files can test a disk.

use std::io::{self, Read, Write};

/// The byte at `offset`.
fn byte(offset: u64) -> u8 {
    let [.., last] = ((offset & !7) >> (8 * (7 - offset % 8))).to_be_bytes();
    last
}

/// How many of `len` bytes from `at` on precede the first whole word. Words are handled whole: byte by
/// byte, an emulated guest would be slower than its disk.
fn before_words(at: u64, len: usize) -> usize {
    usize::try_from(at.wrapping_neg() % 8).unwrap_or(len).min(len)
}

fn fill(at: u64, room: &mut [u8]) {
    let (head, rest) = room.split_at_mut(before_words(at, room.len()));
    let (words, tail) = rest.as_chunks_mut::<8>();
    head.iter_mut().zip(at..).for_each(|(place, offset)| *place = byte(offset));
    let mut offset = at + head.len() as u64;
    for word in words {
        *word = offset.to_be_bytes();
        offset += 8;
    }
    tail.iter_mut().zip(offset..).for_each(|(place, offset)| *place = byte(offset));
}

fn is_pattern(at: u64, bytes: &[u8]) -> bool {
    let (head, rest) = bytes.split_at(before_words(at, bytes.len()));
    let (words, tail) = rest.as_chunks::<8>();
    let mut offset = at + head.len() as u64;
    let mut different = 0;
    for word in words {
        different |= u64::from_be_bytes(*word) ^ offset;
        offset += 8;
    }
    different == 0
        && head.iter().zip(at..).all(|(found, offset)| *found == byte(offset))
        && tail.iter().zip(offset..).all(|(found, offset)| *found == byte(offset))
}

/// Produces the pattern from an offset on, up to a length.
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
        fill(self.at, room.get_mut(..len).unwrap_or_default());
        self.at += len as u64;
        self.left -= len as u64;
        Ok(len)
    }
}

/// The first byte that differs from the pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) at: u64,
    pub(crate) found: u8,
    pub(crate) due: u8,
}

/// Compares the bytes that are written to it with the pattern. It counts all wrong bytes, because
/// their number distinguishes a lost request from a shifted disk.
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

    /// The first wrong byte and the number of wrong bytes; `None` if all are right.
    pub(super) fn verdict(&self) -> Option<(Wrong, u64)> {
        self.first.map(|first| (first, self.wrong))
    }
}

impl Write for Verifier {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let wrong = if is_pattern(self.at, bytes) { &[][..] } else { bytes };
        for (&found, at) in wrong.iter().zip(self.at..) {
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
    fn a_piece_of_any_length_anywhere_is_byte_by_byte_the_pattern() {
        for at in (0..20).chain([u64::from(u32::MAX) - 5]) {
            for len in 0..40 {
                let bytes = pattern(at, len);
                let due: Vec<_> = (at..at + len).map(byte).collect();
                assert_eq!(bytes, due, "{len} bytes at {at}");
                assert!(is_pattern(at, &bytes));
                for n in 0..bytes.len() {
                    let mut bytes = bytes.clone();
                    bytes[n] ^= 0x10;
                    assert!(!is_pattern(at, &bytes), "byte {n} of {len} at {at}");
                }
            }
        }
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
