//! A queue of bytes to be sent: headers are copied into one arena, payloads stay where they are.
//!
//! The owner takes the runs, sends them by one vectored call, and reports how much was sent.

use std::{collections::VecDeque, io::IoSlice, ops::Range};

/// The zeroes that are sent for a hole, where the framing cannot express one.
static ZEROES: [u8; 64 * 1024] = [0; 64 * 1024];

/// The arena is compacted after so many bytes at its front have been sent.
const COMPACT: usize = 32 * 1024;

/// Bytes that are sent from where they are, without a copy.
pub trait Payload: AsRef<[u8]> {
    /// The memory that it keeps allocated, in bytes. It is more than its length if it is a part of a larger
    /// allocation.
    fn held(&self) -> u64 {
        self.as_ref().len() as u64
    }

    /// Replaces itself by a copy of its own bytes if it keeps much more memory than these.
    fn compact(&mut self) {}
}

impl Payload for Vec<u8> {}

#[derive(Debug)]
enum Part<P> {
    /// Bytes of the arena, counted from its logical start.
    Arena(Range<usize>),
    /// A payload, and the memory that it was counted as.
    Payload(P, u64),
    Zeroes(u64),
}

/// A queue of bytes to be sent. `P` is the type that owns or lends a payload.
#[derive(Debug)]
pub struct Gather<P> {
    arena: Vec<u8>,
    /// The logical offset of `arena[0]`.
    base: usize,
    parts: VecDeque<Part<P>>,
    /// Bytes of the first part that have been sent.
    sent: u64,
    len: u64,
    /// The memory that the payloads and the parts keep, in bytes.
    held: u64,
}

impl<P> Default for Gather<P> {
    fn default() -> Self {
        Self { arena: Vec::new(), base: 0, parts: VecDeque::new(), sent: 0, len: 0, held: 0 }
    }
}

impl<P: Payload> Gather<P> {
    const PART: u64 = size_of::<Part<P>>() as u64;

    /// The length of the queue, in bytes.
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether the queue is empty.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends the bytes that `put` adds to the arena. For headers and short texts.
    pub fn small(&mut self, put: impl FnOnce(&mut Vec<u8>)) {
        let before = self.arena.len();
        put(&mut self.arena);
        let (from, to) = (self.base + before, self.base + self.arena.len());
        self.len += (to - from) as u64;
        if let Some(Part::Arena(last)) = self.parts.back_mut() {
            last.end = to;
        } else if to > from {
            self.push(Part::Arena(from..to), 0);
        }
    }

    /// Appends a payload, which is sent from where it is.
    pub fn payload(&mut self, payload: P) {
        let len = payload.as_ref().len() as u64;
        if len > 0 {
            self.len += len;
            let held = payload.held();
            self.push(Part::Payload(payload, held), held);
        }
    }

    /// Appends `len` zeroes.
    pub fn zeroes(&mut self, len: u64) {
        if len > 0 {
            self.len += len;
            self.push(Part::Zeroes(len), 0);
        }
    }

    fn push(&mut self, part: Part<P>, held: u64) {
        self.held += held + Self::PART;
        self.parts.push_back(part);
    }

    /// The memory that the queue keeps, in bytes.
    pub const fn held(&self) -> u64 {
        self.held + self.arena.len() as u64
    }

    /// Calls [`Payload::compact`] for every payload, before the queue may have to wait for a long time.
    pub fn compact(&mut self) {
        for part in &mut self.parts {
            if let Part::Payload(payload, held) = part {
                payload.compact();
                let now = payload.held();
                self.held = self.held - *held + now;
                *held = now;
            }
        }
    }

    /// Appends the first runs of the queue to `out`, until `out` has `max` of them.
    pub fn slices<'a>(&'a self, max: usize, out: &mut Vec<IoSlice<'a>>) {
        let mut skip = self.sent;
        for part in &self.parts {
            if out.len() >= max {
                return;
            }
            match part {
                Part::Arena(range) => {
                    let run = self.arena.get(range.start - self.base..range.end - self.base);
                    push(out, run.unwrap_or_default(), skip);
                }
                Part::Payload(payload, _) => push(out, payload.as_ref(), skip),
                Part::Zeroes(len) => {
                    let mut left = len - skip;
                    while left > 0 && out.len() < max {
                        let n = left.min(ZEROES.len() as u64);
                        push(out, &ZEROES, ZEROES.len() as u64 - n);
                        left -= n;
                    }
                }
            }
            skip = 0;
        }
    }

    /// Removes the first `n` bytes, which have been sent.
    pub fn advance(&mut self, n: u64) {
        debug_assert!(n <= self.len, "more sent than there was");
        self.len -= n;
        self.sent += n;
        while let Some(front) = self.parts.front() {
            let (len, held) = match front {
                Part::Arena(range) => (range.len() as u64, 0),
                Part::Payload(payload, held) => (payload.as_ref().len() as u64, *held),
                Part::Zeroes(len) => (*len, 0),
            };
            if self.sent < len {
                break;
            }
            self.sent -= len;
            self.held -= held + Self::PART;
            self.parts.pop_front();
        }
        if self.parts.is_empty() {
            self.base = 0;
            self.arena.clear();
        } else if let Some(Part::Arena(range)) = self.parts.front()
            && range.start - self.base >= COMPACT
        {
            // Otherwise the arena of a queue that is never empty would grow without bound.
            self.arena.drain(..range.start - self.base);
            self.base = range.start;
        }
    }

    /// Frees the memory of an empty queue. For idle connections.
    pub fn shrink(&mut self) {
        if self.is_empty() {
            *self = Self::default();
        }
    }
}

fn push<'a>(out: &mut Vec<IoSlice<'a>>, run: &'a [u8], skip: u64) {
    let skip = usize::try_from(skip).unwrap_or(usize::MAX);
    if let Some(rest) = run.get(skip..)
        && !rest.is_empty()
    {
        out.push(IoSlice::new(rest));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Small(Vec<u8>),
        Payload(Vec<u8>),
        Zeroes(u64),
        Send(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..40).prop_map(Step::Small),
            prop::collection::vec(any::<u8>(), 0..400).prop_map(Step::Payload),
            (0..100_000u64).prop_map(Step::Zeroes),
            (0..100_000u64).prop_map(Step::Send),
        ]
    }

    proptest! {
        #[test]
        fn bytes_are_sent_once_and_in_order(
            steps in prop::collection::vec(step(), 0..60), max in 1usize..20,
        ) {
            let mut gather = Gather::default();
            let (mut expected, mut got) = (Vec::new(), Vec::new());
            for step in steps {
                match step {
                    Step::Small(bytes) => {
                        gather.small(|out| out.extend_from_slice(&bytes));
                        expected.extend(bytes);
                    }
                    Step::Payload(bytes) => {
                        expected.extend(&bytes);
                        gather.payload(bytes);
                    }
                    Step::Zeroes(n) => {
                        gather.zeroes(n);
                        expected.resize(expected.len() + usize::try_from(n).unwrap(), 0);
                    }
                    Step::Send(limit) => {
                        let mut slices = Vec::new();
                        gather.slices(max, &mut slices);
                        prop_assert!(slices.len() <= max);
                        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
                        let n = bytes.len().min(usize::try_from(limit).unwrap());
                        got.extend(&bytes[..n]);
                        gather.advance(n as u64);
                    }
                }
                prop_assert_eq!(gather.len(), (expected.len() - got.len()) as u64);
            }
            while !gather.is_empty() {
                let mut slices = Vec::new();
                gather.slices(1024, &mut slices);
                let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
                gather.advance(bytes.len() as u64);
                got.extend(bytes);
            }
            prop_assert_eq!(got, expected);
        }
    }

    /// One byte of a large allocation.
    #[derive(Debug)]
    struct Small(Vec<u8>);

    impl AsRef<[u8]> for Small {
        fn as_ref(&self) -> &[u8] {
            &self.0[..1]
        }
    }

    impl Payload for Small {
        fn held(&self) -> u64 {
            self.0.len() as u64
        }

        fn compact(&mut self) {
            self.0.truncate(1);
        }
    }

    #[test]
    fn the_memory_of_payloads_is_counted_until_they_are_sent_or_compacted() {
        let mut gather = Gather::default();
        for _ in 0..10 {
            gather.payload(Small(vec![1; 1000]));
        }
        assert!((10_000..12_000).contains(&gather.held()), "{}", gather.held());
        gather.advance(1);
        assert!((9000..10_800).contains(&gather.held()), "{}", gather.held());
        gather.compact();
        assert!((9..1000).contains(&gather.held()), "{}", gather.held());
        gather.advance(9);
        assert_eq!(gather.held(), 0);
    }

    #[test]
    fn a_queue_that_is_never_empty_keeps_its_arena_small() {
        let mut gather = Gather::<Vec<u8>>::default();
        gather.small(|out| out.extend_from_slice(&[1; 16]));
        for _ in 0..100_000 {
            gather.payload(vec![2; 1]);
            gather.small(|out| out.extend_from_slice(&[1; 16]));
            gather.advance(17);
        }
        assert!(gather.arena.capacity() < 4 * COMPACT);
    }
}
