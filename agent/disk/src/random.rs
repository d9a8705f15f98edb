//! A disk of pseudorandom bytes that follow from a seed. A write succeeds if it has the same bytes, so a copy onto the
//! disk is a comparison.
//!
//! The plugin `random` makes it. It takes processor time but never blocks.

use std::io;

use super::{
    Answer, Disk, DiskError, DiskInfo, Extent, Identity, Kind, Op, Piece, Progress, Turn, Verb,
    in_pieces, room,
};

/// Most bytes that are made on the connection's task. More would hold it for too long.
const AT_ONCE: u64 = 64 << 10;

static ZEROES: [u8; 512] = [0; 512];

/// nbdkit-random-plugin(1): the same bytes as nbdkit's for the same seed.
#[derive(Debug)]
pub struct RandomDisk {
    size: u64,
    seed: u32,
}

impl RandomDisk {
    /// A disk of `size` bytes, at most 2^63 - 1.
    pub fn new(size: u64, seed: u32) -> Self {
        Self { size, seed }
    }

    /// The bytes from `at` on. The iterator does not end.
    fn bytes(&self, at: u64) -> impl Iterator<Item = u8> {
        let first = u64::from(self.seed).wrapping_add(at);
        (0..).map(move |i| byte(first.wrapping_add(i)))
    }

    /// Fails unless the bytes written are those of the disk.
    fn compare(&self, at: u64, data: &[&[u8]]) -> Result<(), DiskError> {
        let mut from = at;
        for run in data {
            let wrong = self.bytes(from).zip(*run).position(|(there, new)| there != *new);
            if let Some(wrong) = wrong {
                let at = from + wrong as u64;
                let source = io::Error::other("it differs from what this disk reads as");
                return Err(DiskError { source: Some(source), ..denied(at, 1) });
            }
            from += run.len() as u64;
        }
        Ok(())
    }
}

fn denied(at: u64, len: u64) -> DiskError {
    DiskError::new(Kind::Io, Verb::Write, (at, len))
}

/// The third number of xoshiro256** from a state that splitmix64 makes of `seed`, cut to a byte.
fn byte(seed: u64) -> u8 {
    let mut mix = seed;
    let mut state = [0; 4].map(|_: u64| {
        mix = mix.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (mix ^ (mix >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    });
    let mut number = 0;
    for _ in 0..3 {
        number = state[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = state[1] << 17;
        state[2] ^= state[0];
        state[3] ^= state[1];
        state[1] ^= state[2];
        state[0] ^= state[3];
        state[2] ^= shifted;
        state[3] = state[3].rotate_left(45);
    }
    number.to_le_bytes()[0]
}

impl Disk for RandomDisk {
    fn info(&self) -> DiskInfo {
        let identity = Identity::of("random", &[self.size, self.seed.into()]);
        DiskInfo {
            can_fast_zero: false,
            can_extents: false,
            ..DiskInfo::plain(self.size, identity)
        }
    }

    fn try_execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Turn, DiskError> {
        if matches!(op.verb(), Verb::Read | Verb::Write | Verb::Zero) && op.range().1 > AT_ONCE {
            return Ok(Turn::WouldBlock);
        }
        self.execute(op, answer).map(|_| Turn::Done)
    }

    fn execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Progress, DiskError> {
        match op {
            Op::Read { at, len } => {
                let bytes = room(*len as usize);
                let mut bytes = bytes.map_err(|lack| lack.of(Verb::Read, (*at, (*len).into())))?;
                bytes.extend(self.bytes(*at).take(*len as usize));
                answer.pieces.push(Piece::Bytes(bytes.into()));
            }
            Op::Write { at, data, .. } => self.compare(*at, &data.slices())?,
            Op::Extents { len, .. } => {
                answer.extents.push(Extent { len: *len, hole: false, zero: false });
            }
            // Zeroes are compared like other writes.
            Op::Zero { at, len, .. } => {
                return in_pieces(*at..*at + *len, ZEROES.len() as u64, |piece| {
                    let len = usize::try_from(piece.end - piece.start).unwrap_or(ZEROES.len());
                    self.compare(piece.start, &[&ZEROES[..len]])
                });
            }
            // A trim changes nothing.
            Op::Trim { .. } | Op::Flush | Op::Settle | Op::Cache { .. } => {}
        }
        Ok(Progress::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{bytes_of, read, try_write};

    #[test]
    fn the_bytes_are_the_same_as_nbdkits() {
        // nbdkit 1.32: `random 16 seed=1`.
        let first = [0x14, 0x05, 0x51, 0x7e, 0xae, 0x48, 0x96, 0x06];
        let disk = RandomDisk::new(1 << 20, 1);
        assert_eq!(bytes_of(&read(&disk, 0, 8)), first);
        assert_eq!(bytes_of(&read(&disk, 3, 5)), first[3..]);
        assert_eq!(bytes_of(&read(&disk, 0, 200_000))[..8], first);
    }

    #[test]
    fn a_write_of_other_bytes_fails() {
        let disk = RandomDisk::new(1 << 20, 7);
        let bytes = bytes_of(&read(&disk, 1000, 5000));
        try_write(&disk, 1000, &bytes, true).unwrap();
        let error = try_write(&disk, 1001, &bytes, false).unwrap_err();
        assert_eq!((error.kind, error.at, error.len), (Kind::Io, 1001, 1));
    }
}
