//! Advertises block sizes to clients, and can refuse requests of other sizes: nbdkit-blocksize-policy-filter(1).

use std::{io, sync::Arc};

use thiserror::Error;

use super::Entry;
use crate::{
    params::{Key, Params},
    stack::BuildError,
};
use disk::{Answer, Disk, DiskError, DiskInfo, Kind, Layer, Op, Progress, Turn, Verb};

pub(super) const ENTRY: Entry = Entry {
    name: "blocksize-policy",
    about: "Advertise block sizes to clients, and refuse other requests",
    keys: &[
        Key::once("blocksize-minimum", "SIZE", "Smallest unit, a power of two up to 64K"),
        Key::once("blocksize-preferred", "SIZE", "Best unit, a power of two from 512 to 32M"),
        Key::once("blocksize-maximum", "SIZE", "Longest read or write; at most 32M is advertised"),
        Key::once(
            "blocksize-error-policy",
            "allow|error|strict-error",
            "Refuse other requests (EINVAL); error: except a short last block [default: allow]",
        ),
        Key::once(
            "blocksize-write-disconnect",
            "SIZE",
            "Disconnect clients that send a longer write [default: 0, never]",
        ),
    ],
    build: |params, stack, _| {
        let policy = Policy::parse(params)?;
        Ok(stack.each(move |below, _| Ok(Arc::new(Policed::new(below, policy)))))
    },
};

/// The parameters. `None`: the value of the disk below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Policy {
    minimum: Option<u32>,
    preferred: Option<u32>,
    maximum: Option<u32>,
    refuse: Refuse,
    /// Longest write that does not end the connection, in bytes.
    endured: Option<u32>,
}

/// Which requests of other sizes are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refuse {
    None,
    /// All but those that end where the disk ends, because its last block may be short.
    ButTail,
    All,
}

impl Policy {
    fn parse(params: &Params<'_>) -> Result<Self, BuildError> {
        let size = |key, fits: fn(u32) -> bool, hint| {
            let Some(size) = params.size(key)? else { return Ok(None) };
            // A size beyond 32 bits is no limit.
            let size = u32::try_from(size).unwrap_or(u32::MAX);
            let text = params.value(key).unwrap_or_default();
            let wrong = || params.wrong(key, text, "a block size", hint);
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
        let wrong = |key, size: u32, hint| {
            Err(BuildError::from(params.wrong(key, &size.to_string(), "a block size", hint)))
        };
        let least = minimum.unwrap_or(1);
        if let Some(preferred) = preferred.filter(|preferred| *preferred < least) {
            return wrong("blocksize-preferred", preferred, "it is at least blocksize-minimum");
        }
        if let Some(maximum) = maximum
            && maximum != u32::MAX
            && (maximum % least != 0 || maximum < preferred.unwrap_or(least))
        {
            let hint = "it is a multiple of blocksize-minimum, and at least blocksize-preferred";
            return wrong("blocksize-maximum", maximum, hint);
        }
        let endured = size("blocksize-write-disconnect", |_| true, "")?.filter(|it| *it > 0);
        if let (Some(endured), Some(minimum)) = (endured, minimum)
            && endured <= minimum
        {
            let hint = "it is more than blocksize-minimum";
            return wrong("blocksize-write-disconnect", endured, hint);
        }
        let refuse = params.choice(
            "blocksize-error-policy",
            &["allow", "error", "strict-error"],
            &[Refuse::None, Refuse::ButTail, Refuse::All],
        )?;
        let refuse = refuse.unwrap_or(Refuse::None);
        Ok(Self { minimum, preferred, maximum, refuse, endured })
    }

    /// The minimum, preferred and maximum size that fit together and fit the disk below.
    fn over(&self, info: &DiskInfo) -> (u32, u32, u32) {
        let advertised = info.block_minimum.max(info.block_advertised);
        let minimum = self.minimum.unwrap_or(advertised).max(info.block_minimum);
        let preferred = self.preferred.unwrap_or(info.block_preferred).max(minimum);
        // A client that keeps to the sizes is never disconnected.
        let endured = self.endured.map_or(u32::MAX, |endured| endured / minimum * minimum);
        let maximum = self.maximum.unwrap_or_else(|| info.block_maximum.min(endured));
        let maximum = maximum.min(info.block_maximum);
        (minimum, preferred, maximum.max(minimum))
    }
}

/// Why a request does not keep to the sizes.
#[derive(Debug, Error)]
enum Misfit {
    #[error("longer than blocksize-maximum={0}")]
    Long(u32),
    #[error("not in units of blocksize-minimum={0}")]
    Unaligned(u32),
}

#[derive(Debug)]
struct Policed {
    below: Arc<dyn Disk>,
    /// Minimum, preferred and maximum.
    sizes: (u32, u32, u32),
    refuse: Refuse,
    endured: u32,
    /// Size of the disk, in bytes.
    size: u64,
}

impl Policed {
    fn new(below: Arc<dyn Disk>, policy: Policy) -> Self {
        let info = below.info();
        let endured = policy.endured.unwrap_or(u32::MAX).min(info.write_cutoff);
        Self { below, sizes: policy.over(&info), refuse: policy.refuse, endured, size: info.size }
    }

    /// The length of a request, rounded up to whole blocks where a short last block is allowed.
    fn whole(&self, at: u64, len: u64) -> u64 {
        if self.refuse == Refuse::ButTail && at + len == self.size {
            return len.next_multiple_of(self.sizes.0.into());
        }
        len
    }

    fn check(&self, op: &Op<'_>) -> Result<(), DiskError> {
        let verb = op.verb();
        if self.refuse == Refuse::None || verb == Verb::Flush {
            return Ok(());
        }
        let (minimum, _, maximum) = self.sizes;
        let (at, len) = op.range();
        let carries_data = matches!(verb, Verb::Read | Verb::Write);
        let why = if carries_data && len > maximum.into() {
            Misfit::Long(maximum)
        } else if !(at | self.whole(at, len)).is_multiple_of(minimum.into()) {
            Misfit::Unaligned(minimum)
        } else {
            return Ok(());
        };
        let source = Some(io::Error::other(why));
        Err(DiskError { source, ..DiskError::new(Kind::Invalid, verb, (at, len)) })
    }
}

impl Layer for Policed {
    fn below(&self) -> &dyn Disk {
        &*self.below
    }

    fn info(&self) -> DiskInfo {
        let (block_advertised, block_preferred, block_maximum) = self.sizes;
        let write_cutoff = self.endured;
        DiskInfo {
            block_advertised,
            block_maximum,
            write_cutoff,
            block_preferred,
            ..self.below.info()
        }
    }

    fn try_execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Turn, DiskError> {
        self.check(op)?;
        self.below.try_execute(op, answer)
    }

    fn execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Progress, DiskError> {
        self.check(op)?;
        self.below.execute(op, answer)
    }

    fn passes(&self, op: &Op<'_>) -> bool {
        self.check(op).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use disk::{Data, MemoryDisk, testing::run};

    const NONE: Policy = Policy {
        minimum: None,
        preferred: None,
        maximum: None,
        refuse: Refuse::None,
        endured: None,
    };

    fn policed(minimum: u32, maximum: u32, refuse: Refuse) -> Policed {
        let policy = Policy { minimum: Some(minimum), maximum: Some(maximum), refuse, ..NONE };
        Policed::new(Arc::new(MemoryDisk::new(1 << 20)), policy)
    }

    #[test]
    fn the_last_block_may_be_short_unless_the_policy_is_strict() {
        for (refuse, fits) in [(Refuse::ButTail, true), (Refuse::All, false)] {
            let policy = Policy { minimum: Some(512), refuse, ..NONE };
            let disk = Policed::new(Arc::new(MemoryDisk::new(1000)), policy);
            for (at, len) in [(512, 488), (0, 1000)] {
                assert_eq!(run(&disk, &mut Op::Read { at, len }).is_ok(), fits, "{at} {len}");
            }
            assert!(run(&disk, &mut Op::Read { at: 512, len: 487 }).is_err());
            assert!(run(&disk, &mut Op::Read { at: 999, len: 1 }).is_err());
        }
    }

    #[test]
    fn a_write_that_ends_the_connection_is_longer_than_the_advertised_maximum() {
        let policy = Policy { minimum: Some(512), endured: Some(10_000), ..NONE };
        let info = Disk::info(&Policed::new(Arc::new(MemoryDisk::new(1 << 20)), policy));
        assert_eq!((info.block_maximum, info.write_cutoff), (9728, 10_000));
    }

    #[test]
    fn advertised_sizes_fit_together() {
        let info = Disk::info(&policed(65536, u32::MAX, Refuse::None));
        let told = (info.block_minimum, info.block_advertised, info.block_preferred);
        assert_eq!(told, (1, 65536, 65536));
        assert_eq!(info.block_maximum, 32 << 20);
    }

    #[test]
    fn other_sizes_pass_or_are_refused_as_the_policy_says() {
        let (lax, strict) = (policed(512, 4096, Refuse::None), policed(512, 4096, Refuse::All));
        for (at, len, fits) in
            [(0, 512, true), (512, 4096, true), (1, 512, false), (0, 511, false), (0, 4608, false)]
        {
            let mut read = Op::Read { at, len };
            assert!(run(&lax, &mut read).is_ok());
            let mut read = Op::Read { at, len };
            assert_eq!(run(&strict, &mut read).is_ok(), fits, "{at} {len}");
            let mut zero =
                Op::Zero { at, len: len.into(), fua: false, may_trim: true, fast: false };
            // A request without data may have any length.
            assert_eq!(run(&strict, &mut zero).is_ok(), fits || len == 4608, "{at} {len}");
        }
        let mut write = Op::Write { at: 3, data: Data::Bytes(b"x"), fua: false };
        assert_eq!(run(&strict, &mut write).unwrap_err().kind, Kind::Invalid);
        run(&strict, &mut Op::Flush).unwrap();
    }
}
