//! Tells clients which sizes of requests to keep to, and may refuse all others:
//! nbdkit-blocksize-policy-filter(1).

use std::{io, sync::Arc};

use super::{Entry, each};
use crate::{
    disk::{Answer, Disk, DiskError, Facts, Kind, Op, Turn, Verb},
    recipe::{BuildError, Key, Params},
};

pub(super) const ENTRY: Entry = Entry {
    name: "blocksize-policy",
    about: "Tell clients which sizes of requests to keep to",
    keys: &[
        Key::once("blocksize-minimum", "SIZE", "Smallest unit, a power of two up to 64K"),
        Key::once("blocksize-preferred", "SIZE", "Best unit, a power of two from 512 to 32M"),
        Key::once("blocksize-maximum", "SIZE", "Longest read or write; more than 32M is as 32M"),
        Key::once(
            "blocksize-error-policy",
            "allow|error",
            "Refuse others (EINVAL) [default: allow]",
        ),
    ],
    build: |params, stack, _| {
        let policy = Policy::parse(params)?;
        Ok(each(stack, move |below, _| Ok(Arc::new(Policed::new(below, policy)))))
    },
};

/// What the words say; what they do not say is as below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Policy {
    minimum: Option<u32>,
    preferred: Option<u32>,
    maximum: Option<u32>,
    /// Refuse what does not keep to it.
    strict: bool,
}

impl Policy {
    fn parse(params: &Params<'_>) -> Result<Self, BuildError> {
        let size = |key, fits: fn(u32) -> bool, mend| {
            let Some(size) = params.size(key)? else { return Ok(None) };
            // A longest request beyond 32 bits is one that has no limit.
            let size = u32::try_from(size).unwrap_or(u32::MAX);
            let text = params.value(key).unwrap_or_default();
            let wrong = || params.wrong(key, text, "a block size", mend);
            fits(size).then_some(Some(size)).ok_or_else(wrong)
        };
        let minimum = size(
            "blocksize-minimum",
            |it| it.is_power_of_two() && it <= 65536,
            "write a power of two up to 64K",
        )?;
        let preferred = size(
            "blocksize-preferred",
            |it| it.is_power_of_two() && (512..=32 << 20).contains(&it),
            "write a power of two from 512 to 32M",
        )?;
        let maximum = size("blocksize-maximum", |it| it > 0, "write one byte or more")?;
        let wrong = |key, size: u32, mend| {
            Err(BuildError::from(params.wrong(key, &size.to_string(), "a block size", mend)))
        };
        let least = minimum.unwrap_or(1);
        if let Some(preferred) = preferred.filter(|preferred| *preferred < least) {
            return wrong("blocksize-preferred", preferred, "it is at least blocksize-minimum");
        }
        if let Some(maximum) = maximum
            && maximum != u32::MAX
            && (maximum % least != 0 || maximum < preferred.unwrap_or(least))
        {
            let mend = "it is a multiple of blocksize-minimum, and at least blocksize-preferred";
            return wrong("blocksize-maximum", maximum, mend);
        }
        let strict =
            params.choice("blocksize-error-policy", &["allow", "error"], &[false, true])?;
        Ok(Self { minimum, preferred, maximum, strict: strict.unwrap_or(false) })
    }

    /// The sizes over a disk that has its own: minimum, preferred, maximum, which fit together.
    fn over(&self, facts: &Facts) -> (u32, u32, u32) {
        let told = facts.block_minimum.max(facts.block_told);
        let minimum = self.minimum.unwrap_or(told).max(facts.block_minimum);
        let preferred = self.preferred.unwrap_or(facts.block_preferred).max(minimum);
        let maximum = self.maximum.unwrap_or(facts.block_maximum).min(facts.block_maximum);
        (minimum, preferred, maximum.max(minimum))
    }
}

#[derive(Debug)]
struct Policed {
    below: Arc<dyn Disk>,
    /// Minimum, preferred and maximum.
    sizes: (u32, u32, u32),
    strict: bool,
}

impl Policed {
    fn new(below: Arc<dyn Disk>, policy: Policy) -> Self {
        let sizes = policy.over(&below.facts());
        Self { below, sizes, strict: policy.strict }
    }

    fn check(&self, op: &Op<'_>) -> Result<(), DiskError> {
        let verb = op.verb();
        if !self.strict || verb == Verb::Flush {
            return Ok(());
        }
        let (minimum, _, maximum) = self.sizes;
        let (at, len) = op.range();
        let carries_data = matches!(verb, Verb::Read | Verb::Write);
        let why = if carries_data && len > maximum.into() {
            format!("longer than blocksize-maximum={maximum}")
        } else if (at | len) % u64::from(minimum) != 0 {
            format!("not in units of blocksize-minimum={minimum}")
        } else {
            return Ok(());
        };
        let source = Some(io::Error::other(why));
        Err(DiskError { source, ..DiskError::new(Kind::Invalid, verb, (at, len)) })
    }
}

impl Disk for Policed {
    fn facts(&self) -> Facts {
        let (block_told, block_preferred, block_maximum) = self.sizes;
        Facts { block_told, block_maximum, block_preferred, ..self.below.facts() }
    }

    fn attempt(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Turn, DiskError> {
        self.check(op)?;
        self.below.attempt(op, answer)
    }

    fn perform(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<(), DiskError> {
        self.check(op)?;
        self.below.perform(op, answer)
    }

    fn below(&self) -> Option<&dyn Disk> {
        Some(&*self.below)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Data, MemoryDisk, testing::run};

    fn policed(minimum: u32, maximum: u32, strict: bool) -> Policed {
        let policy =
            Policy { minimum: Some(minimum), preferred: None, maximum: Some(maximum), strict };
        Policed::new(Arc::new(MemoryDisk::new(1 << 20)), policy)
    }

    #[test]
    fn clients_are_told_sizes_that_fit_together() {
        let facts = policed(65536, u32::MAX, false).facts();
        let told = (facts.block_minimum, facts.block_told, facts.block_preferred);
        assert_eq!(told, (1, 65536, 65536));
        assert_eq!(facts.block_maximum, 32 << 20);
    }

    #[test]
    fn others_pass_or_are_refused_as_the_policy_says() {
        let (lax, strict) = (policed(512, 4096, false), policed(512, 4096, true));
        for (at, len, fits) in
            [(0, 512, true), (512, 4096, true), (1, 512, false), (0, 511, false), (0, 4608, false)]
        {
            let mut read = Op::Read { at, len };
            assert!(run(&lax, &mut read).is_ok());
            let mut read = Op::Read { at, len };
            assert_eq!(run(&strict, &mut read).is_ok(), fits, "{at} {len}");
            let mut zero =
                Op::Zero { at, len: len.into(), fua: false, may_trim: true, fast: false };
            // No data is carried: it may be as long as it likes.
            assert_eq!(run(&strict, &mut zero).is_ok(), fits || len == 4608, "{at} {len}");
        }
        let mut write = Op::Write { at: 3, data: Data::Bytes(b"x"), fua: false };
        assert_eq!(run(&strict, &mut write).unwrap_err().kind, Kind::Invalid);
        run(&strict, &mut Op::Flush).unwrap();
    }
}
