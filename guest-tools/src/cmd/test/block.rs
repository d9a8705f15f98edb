//! Blocks whose content encodes their offset and when they were written. A wrong block then shows
//! what happened: it belongs to another offset, to an older generation, is torn, zeroes, or noise.

/// The length of a line in bytes. A block is a whole number of lines.
pub(super) const LINE: usize = 64;
const MAGIC: u64 = u64::from_be_bytes(*b"gt-test1");

/// What a line encodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) run: u64,
    /// Its own offset, in bytes.
    pub(super) at: u64,
    pub(super) generation: u64,
}

impl Line {
    /// Encodes: magic, run, offset, generation, three words of noise, and a checksum of all.
    fn words(self) -> [u64; LINE / 8] {
        let mut words = [MAGIC, self.run, self.at, self.generation, 0, 0, 0, 0];
        let mut state = mix(self.run ^ mix(self.at ^ mix(self.generation)));
        for word in &mut words[4..7] {
            state = mix(state);
            *word = state;
        }
        words[7] = words[..7].iter().fold(0, |sum, word| mix(sum ^ word));
        words
    }

    fn put(self, line: &mut [u8]) {
        for (place, word) in line.chunks_exact_mut(8).zip(self.words()) {
            place.copy_from_slice(&word.to_be_bytes());
        }
    }

    /// `None` if it is not an intact line of any run.
    fn parse(line: &[u8]) -> Option<Self> {
        let word = |n: usize| {
            let bytes = line.get(n * 8..n * 8 + 8)?;
            Some(u64::from_be_bytes(bytes.try_into().ok()?))
        };
        let said = Self { run: word(1)?, at: word(2)?, generation: word(3)? };
        let mut whole = [0; LINE];
        said.put(&mut whole);
        (whole == line).then_some(said)
    }
}

/// One round of a 64-bit finalizer (`splitmix64`).
pub(super) const fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Fills `bytes`, whose offset is `at`.
pub(super) fn fill(bytes: &mut [u8], run: u64, at: u64, generation: u64) {
    for (line, at) in bytes.chunks_exact_mut(LINE).zip((at..).step_by(LINE)) {
        Line { run, at, generation }.put(line);
    }
}

/// The first byte of `bytes` that differs from what is expected. `generation` 0: zeroes.
pub(super) fn first_wrong(bytes: &[u8], run: u64, at: u64, generation: u64) -> Option<usize> {
    let mut due = [0; LINE];
    for (line, start) in bytes.chunks_exact(LINE).zip((0..).step_by(LINE)) {
        if generation > 0 {
            Line { run, at: at + start as u64, generation }.put(&mut due);
        }
        if line != due {
            return line.iter().zip(&due).position(|(one, other)| one != other).map(|n| start + n);
        }
    }
    None
}

/// Describes a block in words, for the error message.
pub(super) fn told(block: &[u8], run: u64, at: u64) -> String {
    let lines: Vec<_> = block.chunks_exact(LINE).collect();
    if lines.iter().all(|line| line.iter().all(|byte| *byte == 0)) {
        return "zeroes".to_owned();
    }
    let said: Vec<_> = lines.iter().map(|line| Line::parse(line)).collect();
    let Some(Some(first)) = said.first().copied() else {
        let whole = said.iter().flatten().count();
        return match whole {
            0 => "nothing that this program has written".to_owned(),
            n => format!("torn: {n} of its {} lines are whole, the first is not", lines.len()),
        };
    };
    let along = |(n, line): (usize, &Option<Line>)| {
        *line == Some(Line { at: first.at + (n * LINE) as u64, ..first })
    };
    if !said.iter().enumerate().all(along) {
        return format!(
            "torn: it begins as generation {} of offset {}, and the rest is other data",
            first.generation, first.at
        );
    }
    let whose = if first.at == at { String::new() } else { format!(" of offset {}", first.at) };
    let when = if first.run == run { "" } else { " of another run" };
    format!("generation {}{whose}{when}", first.generation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_block_says_what_happened() {
        let (run, at) = (7, 8192);
        let block = |run, at, generation| {
            let mut bytes = vec![0; 512];
            fill(&mut bytes, run, at, generation);
            bytes
        };
        let right = block(run, at, 5);
        assert_eq!(first_wrong(&right, run, at, 5), None);
        assert_eq!(first_wrong(&vec![0; 512], run, at, 0), None);
        let mut flipped = right.clone();
        flipped[200] ^= 1;
        assert_eq!(first_wrong(&flipped, run, at, 5), Some(200));
        let torn = [&right[..256], &block(run, at, 4)[256..]].concat();
        for (bytes, says) in [
            (vec![0; 512], "zeroes"),
            (vec![9; 512], "nothing that this"),
            (block(run, at, 4), "generation 4"),
            (block(run, 512, 5), "generation 5 of offset 512"),
            (block(8, at, 5), "of another run"),
            (torn, "torn: it begins as generation 5"),
        ] {
            assert!(first_wrong(&bytes, run, at, 5).is_some(), "{says}");
            assert!(
                told(&bytes, run, at).starts_with(says) || told(&bytes, run, at).ends_with(says)
            );
        }
    }
}
