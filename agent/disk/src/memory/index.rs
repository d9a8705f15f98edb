//! An ordered index of the chunks of a memory disk: it finds the next chunk of a range without a walk over all.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    ops::Range,
    sync::{PoisonError, RwLock},
};

/// The number of chunks in a word.
const WORD: u64 = u64::BITS as u64;

/// The numbers of the chunks that exist, as one bit each, in words that are not 0. The index changes only when a chunk
/// is made or removed, once per 4 MiB that are written, under the lock of the chunk's shard.
#[derive(Debug, Default)]
pub(super) struct Index(RwLock<BTreeMap<u64, u64>>);

impl Index {
    pub(super) fn insert(&self, chunk: u64) {
        let mut words = self.0.write().unwrap_or_else(PoisonError::into_inner);
        *words.entry(chunk / WORD).or_default() |= 1 << (chunk % WORD);
    }

    pub(super) fn remove(&self, chunk: u64) {
        let mut words = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut word) = words.entry(chunk / WORD) {
            *word.get_mut() &= !(1 << (chunk % WORD));
            if *word.get() == 0 {
                word.remove();
            }
        }
    }

    /// The first existing chunk of `range`.
    pub(super) fn first(&self, range: Range<u64>) -> Option<u64> {
        if range.is_empty() {
            return None;
        }
        let words = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let first = range.start / WORD;
        let found = words.range(first..=(range.end - 1) / WORD).find_map(|(&number, &word)| {
            let before = if number == first { range.start % WORD } else { 0 };
            let rest = word & (u64::MAX << before);
            (rest != 0).then(|| number * WORD + u64::from(rest.trailing_zeros()))
        });
        found.filter(|chunk| range.contains(chunk))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_index_finds_the_same_as_an_ordered_set(
            steps in proptest::collection::vec((any::<bool>(), 0..300u64, 0..300u64), 1..200),
        ) {
            let (index, mut model) = (Index::default(), BTreeSet::new());
            for (insert, chunk, len) in steps {
                // Some numbers are far apart, as on a large disk.
                let chunk = if chunk % 7 == 0 { chunk << 30 } else { chunk };
                if insert {
                    index.insert(chunk);
                    model.insert(chunk);
                } else {
                    index.remove(chunk);
                    model.remove(&chunk);
                }
                for start in [0, chunk.saturating_sub(len), chunk, chunk + 1] {
                    let range = start..start + len;
                    prop_assert_eq!(index.first(range.clone()), model.range(range).next().copied());
                }
                prop_assert_eq!(index.first(0..u64::MAX), model.first().copied());
            }
            prop_assert!(index.0.read().unwrap().values().all(|word| *word != 0));
        }
    }
}
