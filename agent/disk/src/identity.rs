//! The identity of a disk, for a client that reconnects after its server was gone. The same bytes have the same number,
//! also in another run of the agent, and other bytes have another number. `DiskInfo` has it, and clients ask for it by
//! the context `x-agent:identity`.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
};

/// A number that identifies a disk. It is not a secret and proves nothing: a host that can serve another disk can also
/// serve it under this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity(u128);

/// The offset basis of FNV-1a with 128 bits.
const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
/// The prime of FNV-1a with 128 bits.
const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;

impl Identity {
    /// A random identity, for a disk in memory, which no later run of the agent can serve again.
    pub fn fresh() -> Self {
        let random = RandomState::new();
        Self(u128::from(random.hash_one(0)) << 64 | u128::from(random.hash_one(1)))
    }

    /// The identity of a disk that a kind and some numbers describe.
    pub fn of(what: &str, numbers: &[u64]) -> Self {
        Self(BASIS).and(what, numbers)
    }

    /// The identity of the disk that a layer makes of this one.
    pub fn and(self, what: &str, numbers: &[u64]) -> Self {
        let numbers = numbers.iter().flat_map(|number| number.to_le_bytes());
        // The length comes first, so that a number is not taken for a part of the text.
        let bytes =
            (what.len() as u64).to_le_bytes().into_iter().chain(what.bytes()).chain(numbers);
        Self(bytes.fold(self.0, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME)))
    }

    /// The identity of this disk followed by another.
    pub fn and_disk(self, other: Self) -> Self {
        self.and("", &other.halves())
    }

    fn halves(self) -> [u64; 2] {
        let half = |number: u128| u64::try_from(number & u128::from(u64::MAX)).unwrap_or_default();
        [half(self.0 >> 64), half(self.0)]
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_words_and_numbers_are_other_disks_and_the_same_are_the_same() {
        let all = [
            Identity::of("pattern", &[1]),
            Identity::of("pattern", &[2]),
            Identity::of("pattern", &[]),
            Identity::of("patter", &[1]),
            Identity::of("pattern", &[1]).and("offset", &[0, 1]),
            Identity::of("pattern", &[1]).and("offset", &[1, 0]),
            Identity::of("pattern", &[1]).and_disk(Identity::of("pattern", &[2])),
            Identity::of("pattern", &[2]).and_disk(Identity::of("pattern", &[1])),
            Identity::fresh(),
            Identity::fresh(),
        ];
        for (n, one) in all.iter().enumerate() {
            assert!(!all[n + 1..].contains(one), "{n}");
        }
        // It is kept by clients while an agent is replaced by a newer one.
        let pattern = Identity::of("pattern", &[1 << 20]);
        assert_eq!(pattern.to_string(), "343b4b354d8173f5ab803e76433eb488");
    }
}
