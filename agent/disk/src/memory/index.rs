//! Which chunks of a memory disk exist, in order: the next one of a range is found without a look at all others.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    ops::Range,
    sync::{PoisonError, RwLock},
};

/// Chunks of one word.
const WORD: u64 = u64::BITS as u64;

/// The numbers of the chunks that exist: a bit for each, in words without the empty ones. It is changed under
/// the lock of the chunk's shard, and only when a chunk comes or goes: once per 4 MiB that are written.
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

    /// The first chunk of `range` that exists.
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
        fn it_finds_what_an_ordered_set_finds(
            steps in proptest::collection::vec((any::<bool>(), 0..300u64, 0..300u64), 1..200),
        ) {
            let (index, mut model) = (Index::default(), BTreeSet::new());
            for (insert, chunk, len) in steps {
                // Now and then far apart, as on a large disk.
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
