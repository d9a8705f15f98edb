//! The value of an expression: bytes with holes between them.
//!
//! Repetitions and slices are not expanded, so a short text can be a large disk without taking its size in memory.

use std::{convert::Infallible, sync::Arc};

/// The longest disk, in bytes.
pub(super) const LONGEST: u64 = i64::MAX as u64;

/// Bytes from offset 0 to a length. Bytes without a value are zero. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Content {
    len: u64,
    /// All bytes are zero. Otherwise `write` writes at least one byte, so that a loop over the content ends.
    empty: bool,
    /// Most bytes that `write` writes.
    weight: u64,
    /// Depth of nested forms.
    depth: u16,
    form: Form,
}

#[derive(Debug, Clone)]
enum Form {
    Bytes(Arc<[u8]>),
    /// Each part at its offset. Parts may overlap.
    Parts(Arc<[(u64, Content)]>),
    /// The content, repeated up to the length.
    Repeated(Arc<Content>),
    /// The content from this offset on.
    Slice(Arc<Content>, u64),
}

/// Deepest nesting of forms, because recursion over them takes stack.
const DEEPEST: u16 = 500;

/// Parts of up to this many bytes are expanded.
const SMALL: u64 = 4096;
/// Bytes per write where a few bytes are repeated.
const CHUNK: usize = 64 * 1024;

/// Why a content cannot be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrong {
    /// Longer than a disk can be.
    Long,
    /// Nested too deeply.
    Deep,
    /// The slice is not within the content.
    Outside,
}

impl Content {
    pub(super) fn bytes(bytes: impl Into<Arc<[u8]>>) -> Self {
        let bytes = bytes.into();
        let empty = bytes.iter().all(|byte| *byte == 0);
        let len = bytes.len() as u64;
        Self { len, empty, weight: weight(empty, len), depth: 0, form: Form::Bytes(bytes) }
    }

    /// `len` bytes, where later parts cover earlier parts.
    pub(super) fn parts(parts: Vec<(u64, Self)>, len: u64) -> Result<Self, Wrong> {
        let depth = parts.iter().map(|(_, part)| part.depth).max().unwrap_or(0);
        let empty = parts.iter().all(|(_, part)| part.empty);
        let weight = parts.iter().fold(0, |sum: u64, (_, part)| sum.saturating_add(part.weight));
        let whole = Self { len, empty, weight, depth, form: Form::Parts(parts.into()) }.deeper()?;
        Ok(if !empty && len <= SMALL { whole.flat() } else { whole })
    }

    /// The same content, expanded.
    fn flat(&self) -> Self {
        let mut bytes = vec![0; usize::try_from(self.len).unwrap_or(0)];
        let all = (0, self.len);
        self.write(all, 0, false, &mut |at, stretch| {
            let at = usize::try_from(at).unwrap_or(bytes.len());
            match stretch {
                Stretch::Bytes(some) => bytes[at..at + some.len()].copy_from_slice(some),
                Stretch::Zeroes(len) => {
                    bytes[at..at + usize::try_from(len).unwrap_or(0)].fill(0);
                }
            }
            Ok::<_, Infallible>(())
        })
        .unwrap_or_else(|never| match never {});
        Self::bytes(bytes)
    }

    pub(super) fn weight(&self) -> u64 {
        self.weight
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn repeated(self, times: u64) -> Result<Self, Wrong> {
        let len = self.len.checked_mul(times).filter(|len| *len <= LONGEST).ok_or(Wrong::Long)?;
        let (empty, depth) = (self.empty || len == 0, self.depth);
        let weight = self.weight.saturating_mul(times);
        Self { len, empty, weight, depth, form: Form::Repeated(Arc::new(self)) }.deeper()
    }

    /// The bytes from `from` to before `to`.
    pub(super) fn slice(self, from: u64, to: u64) -> Result<Self, Wrong> {
        let len = to.checked_sub(from).filter(|_| to <= self.len).ok_or(Wrong::Outside)?;
        let (empty, depth) = (self.is_empty(from, to), self.depth);
        let weight = weight(empty, self.weight.min(len));
        Self { len, empty, weight, depth, form: Form::Slice(Arc::new(self), from) }.deeper()
    }

    fn deeper(self) -> Result<Self, Wrong> {
        let depth = self.depth + 1;
        if depth > DEEPEST { Err(Wrong::Deep) } else { Ok(Self { depth, ..self }) }
    }

    /// Whether all bytes of this part are zero.
    fn is_empty(&self, from: u64, to: u64) -> bool {
        if self.empty || from >= to {
            return true;
        }
        match &self.form {
            Form::Bytes(bytes) => {
                let within = |offset: u64| usize::try_from(offset).unwrap_or(bytes.len());
                bytes[within(from)..within(to)].iter().all(|byte| *byte == 0)
            }
            Form::Parts(parts) => parts.iter().all(|(place, part)| {
                let (begin, end) = (from.max(*place), to.min(*place + part.len));
                begin >= end || part.is_empty(begin - place, end - place)
            }),
            Form::Repeated(one) => {
                let (begin, len) = (from % one.len, to - from);
                let first = one.len.min(begin + len);
                // A range with a whole repetition is not empty.
                len < 2 * one.len
                    && one.is_empty(begin, first)
                    && one.is_empty(0, (begin + len - first).min(one.len))
            }
            Form::Slice(whole, start) => whole.is_empty(start + from, start + to),
        }
    }

    /// Passes the bytes between `from` and `to` to `put`, with their offsets, where `from` is at `at`. Later calls cover
    /// earlier ones. Zeroes are passed only where they may cover other bytes (`covers`).
    pub(super) fn write<E>(
        &self,
        (from, to): (u64, u64),
        at: u64,
        covers: bool,
        put: &mut impl FnMut(u64, Stretch<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let to = to.min(self.len);
        if from >= to {
            return Ok(());
        }
        if self.empty {
            return if covers { put(at, Stretch::Zeroes(to - from)) } else { Ok(()) };
        }
        match &self.form {
            Form::Bytes(bytes) => {
                let within = |offset: u64| usize::try_from(offset).unwrap_or(bytes.len());
                put(at, Stretch::Bytes(&bytes[within(from)..within(to)]))
            }
            Form::Parts(parts) => {
                if covers {
                    // The gaps between the parts cover other bytes too.
                    put(at, Stretch::Zeroes(to - from))?;
                }
                for (i, (place, part)) in parts.iter().enumerate() {
                    let (begin, end) = (from.max(*place), to.min(*place + part.len));
                    if begin < end {
                        let range = (begin - place, end - place);
                        part.write(range, at + (begin - from), i > 0, put)?;
                    }
                }
                Ok(())
            }
            Form::Repeated(one) => {
                let mut from = from;
                let mut at = at;
                // Repeat a few bytes in memory, so that fewer writes are needed.
                let many = match &one.form {
                    Form::Bytes(bytes) if bytes.len() < CHUNK && self.len > 2 * one.len => {
                        Some(Self::bytes(bytes.repeat(CHUNK / bytes.len())))
                    }
                    _ => None,
                };
                let one = many.as_ref().unwrap_or(one);
                while from < to {
                    let begin = from % one.len;
                    let end = one.len.min(begin + (to - from));
                    one.write((begin, end), at, covers, put)?;
                    from += end - begin;
                    at += end - begin;
                }
                Ok(())
            }
            Form::Slice(whole, start) => whole.write((start + from, start + to), at, covers, put),
        }
    }
}

fn weight(empty: bool, len: u64) -> u64 {
    if empty { 0 } else { len }
}

/// A run of bytes to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stretch<'a> {
    Bytes(&'a [u8]),
    Zeroes(u64),
}
