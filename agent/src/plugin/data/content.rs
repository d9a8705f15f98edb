//! What an expression comes to: bytes with holes between them, repeated and cut without being spelled
//! out, so that a little text can be a large disk and cannot eat the machine.

use std::{convert::Infallible, sync::Arc};

/// The most bytes of a disk.
pub(super) const LONGEST: u64 = i64::MAX as u64;

/// Bytes from 0 to a length; what nothing stands at is zero. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Content {
    len: u64,
    /// It is zeroes all over. If not, to write it puts down a byte or more: who goes through it makes
    /// headway.
    empty: bool,
    /// Bytes that are put down when it is written, at most.
    weight: u64,
    /// Forms in one another.
    depth: u16,
    form: Form,
}

#[derive(Debug, Clone)]
enum Form {
    Bytes(Arc<[u8]>),
    /// One behind the other, or over one another, each at its place.
    Parts(Arc<[(u64, Content)]>),
    /// As often as fits into the length.
    Repeated(Arc<Content>),
    /// From this offset on.
    Slice(Arc<Content>, u64),
}

/// Forms in one another, at most: whoever goes through them needs a stack.
const DEEPEST: u16 = 500;

/// Bytes up to which parts are spelled out.
const SMALL: u64 = 4096;
/// Bytes that are put down at once where a few are repeated.
const CHUNK: usize = 64 * 1024;

/// What cannot be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrong {
    /// Longer than a disk can be.
    Long,
    /// Too much in one another.
    Deep,
    /// Not a part of what there is.
    Outside,
}

impl Content {
    pub(super) fn bytes(bytes: impl Into<Arc<[u8]>>) -> Self {
        let bytes = bytes.into();
        let empty = bytes.iter().all(|byte| *byte == 0);
        let len = bytes.len() as u64;
        Self { len, empty, weight: weight(empty, len), depth: 0, form: Form::Bytes(bytes) }
    }

    /// `len` bytes in all, of which the later ones lie over the earlier ones.
    pub(super) fn parts(parts: Vec<(u64, Self)>, len: u64) -> Result<Self, Wrong> {
        let depth = parts.iter().map(|(_, part)| part.depth).max().unwrap_or(0);
        let empty = parts.iter().all(|(_, part)| part.empty);
        let weight = parts.iter().fold(0, |sum: u64, (_, part)| sum.saturating_add(part.weight));
        let whole = Self { len, empty, weight, depth, form: Form::Parts(parts.into()) }.deeper()?;
        Ok(if !empty && len <= SMALL { whole.flat() } else { whole })
    }

    /// The same, spelled out.
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

    /// From `from` up to before `to`.
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

    /// Nothing but zeroes is put down for this part.
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
                // Whole ones are not empty: this is not.
                len < 2 * one.len
                    && one.is_empty(begin, first)
                    && one.is_empty(0, (begin + len - first).min(one.len))
            }
            Form::Slice(whole, start) => whole.is_empty(start + from, start + to),
        }
    }

    /// Hands what stands between `from` and `to` to `put`, in the order in which it lies over one
    /// another, with its place if `from` is at `at`; zeroes only where they may cover something.
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
                    // The gaps between the parts cover as well.
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
                // A few bytes very often are more bytes less often.
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

/// Some of it, to be put down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stretch<'a> {
    Bytes(&'a [u8]),
    Zeroes(u64),
}
