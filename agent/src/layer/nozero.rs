//! Refuses, emulates or changes zero requests: nbdkit-nozero-filter(1).

use std::sync::Arc;

use thiserror::Error;

use super::{Entry, refuse};
use crate::{
    params::{Key, Params},
    stack::BuildError,
};
use disk::{
    Answer, Data, Disk, DiskError, DiskInfo, Kind, Layer, Op, Progress, Turn, Verb, execute_all,
    in_pieces,
};

/// The payload of one write where zeroes are emulated.
static ZEROES: [u8; 256 * 1024] = [0; 256 * 1024];

pub(super) const ENTRY: Entry = Entry {
    name: "nozero",
    about: "Do not advertise zero requests, or write zeroes as data",
    keys: &[
        Key::once(
            "zeromode",
            "none|emulate|notrim|plugin",
            "Not advertised; written as data; without holes; unchanged [default: none]",
        ),
        Key::once(
            "fastzeromode",
            "none|slow|ignore|default",
            "Not advertised; always refused; done even if slow (unsafe); unchanged",
        ),
    ],
    build: |params, stack, _| {
        let modes = Modes::parse(params)?;
        Ok(stack.each(move |below, _| {
            if matches!(modes.zero, Zero::NoTrim | Zero::Pass) && !below.info().can_zero {
                return Err(refuse(NoZeroesBelow));
            }
            Ok(Arc::new(NoZero { below, modes }))
        }))
    },
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Zero {
    None,
    Emulate,
    NoTrim,
    Pass,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fast {
    None,
    /// Advertised and always refused.
    Slow,
    /// Advertised, and done at any speed.
    Ignore,
    Default,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Modes {
    zero: Zero,
    fast: Fast,
}

#[derive(Debug, Error)]
#[error("filter nozero: this zeromode needs a disk that takes zeroes")]
struct NoZeroesBelow;

#[derive(Debug, Error)]
#[error(
    "filter nozero: fastzeromode={0} needs zeroes to be advertised; give zeromode=emulate, notrim or plugin"
)]
struct NothingToBeFast(String);

impl Modes {
    fn parse(params: &Params<'_>) -> Result<Self, BuildError> {
        let zeroes = &[Zero::None, Zero::Emulate, Zero::NoTrim, Zero::Pass];
        let zero = params.choice("zeromode", &["none", "emulate", "notrim", "plugin"], zeroes)?;
        let fasts = &[Fast::None, Fast::Slow, Fast::Ignore, Fast::Default];
        let fast = params.choice("fastzeromode", &["none", "slow", "ignore", "default"], fasts)?;
        let zero = zero.unwrap_or(Zero::None);
        let fast = fast.unwrap_or(Fast::Default);
        if zero == Zero::None && matches!(fast, Fast::Slow | Fast::Ignore) {
            let word = params.value("fastzeromode").unwrap_or_default().to_owned();
            return Err(BuildError::Own(Box::new(NothingToBeFast(word))));
        }
        Ok(Self { zero, fast })
    }
}

#[derive(Debug)]
struct NoZero {
    below: Arc<dyn Disk>,
    modes: Modes,
}

impl NoZero {
    /// The zero request that the disk below gets; `None` for any other request.
    ///
    /// # Errors
    /// If the request is refused.
    fn judge<'a>(&self, op: &Op<'a>) -> Result<Option<Op<'a>>, DiskError> {
        let &Op::Zero { at, len, fua, may_trim, fast } = op else { return Ok(None) };
        let refuse = |kind| Err(DiskError::new(kind, Verb::Zero, (at, len)));
        let fast = match self.modes {
            Modes { zero: Zero::None, .. } => return refuse(Kind::Invalid),
            Modes { fast: Fast::None, .. } if fast => return refuse(Kind::Invalid),
            Modes { fast: Fast::Slow, .. } if fast => return refuse(Kind::Unsupported),
            Modes { fast: Fast::Default, zero: Zero::Emulate } if fast => {
                return refuse(Kind::Unsupported);
            }
            Modes { fast: Fast::Ignore, .. } => false,
            _ => fast,
        };
        let may_trim = may_trim && self.modes.zero == Zero::Pass;
        Ok(Some(Op::Zero { at, len, fua, may_trim, fast }))
    }

    /// Writes the zeroes.
    fn emulate(&self, op: &Op<'_>, answer: &mut Answer) -> Result<Progress, DiskError> {
        let &Op::Zero { at, len, fua, .. } = op else { return Ok(Progress::Done) };
        in_pieces(at..at + len, ZEROES.len() as u64, |piece| {
            let len = usize::try_from(piece.end - piece.start).unwrap_or(ZEROES.len());
            let data = Data::Bytes(&ZEROES[..len]);
            execute_all(&*self.below, &mut Op::Write { at: piece.start, data, fua }, answer)
        })
    }
}

impl Layer for NoZero {
    fn below(&self) -> &dyn Disk {
        &*self.below
    }

    fn info(&self) -> DiskInfo {
        let below = self.below.info();
        let can_zero = self.modes.zero != Zero::None;
        let can_fast_zero = match self.modes {
            Modes { fast: Fast::None, .. } | Modes { zero: Zero::None, .. } => false,
            Modes { fast: Fast::Slow | Fast::Ignore, .. } | Modes { zero: Zero::Emulate, .. } => {
                true
            }
            _ => below.can_fast_zero,
        };
        DiskInfo { can_zero, can_fast_zero, ..below }
    }

    fn try_execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Turn, DiskError> {
        match self.judge(op)? {
            None => self.below.try_execute(op, answer),
            Some(_) if self.modes.zero == Zero::Emulate => Ok(Turn::WouldBlock),
            Some(mut zero) => self.below.try_execute(&mut zero, answer),
        }
    }

    fn execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Progress, DiskError> {
        match self.judge(op)? {
            None => self.below.execute(op, answer),
            Some(zero) if self.modes.zero == Zero::Emulate => self.emulate(&zero, answer),
            Some(mut zero) => self.below.execute(&mut zero, answer),
        }
    }

    fn passes(&self, op: &Op<'_>) -> bool {
        !matches!(op, Op::Zero { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use disk::testing::{Recorder, run};

    /// The requests of the disk below for a zero request of 300 KiB that may trim.
    fn asked(zero: Zero, fast_mode: Fast, fast: bool) -> Result<Vec<String>, Kind> {
        let below = Arc::new(Recorder::default());
        let modes = Modes { zero, fast: fast_mode };
        let disk = NoZero { below: Arc::<Recorder>::clone(&below), modes };
        let mut op = Op::Zero { at: 5, len: 300 << 10, fua: true, may_trim: true, fast };
        run(&disk, &mut op).map_err(|error| error.kind)?;
        Ok(below.take())
    }

    #[test]
    fn each_mode_sends_the_disk_its_requests() {
        use Fast::{Default, Ignore, Slow};
        use Zero::{Emulate, NoTrim, Pass};
        let ok = |asked: &[&str]| Ok(asked.iter().map(ToString::to_string).collect());
        assert_eq!(asked(Zero::None, Default, false), Err(Kind::Invalid));
        let written = ["write 5+262139 fua", "write 262144+45061 fua"];
        assert_eq!(asked(Emulate, Default, false), ok(&written));
        assert_eq!(asked(Emulate, Default, true), Err(Kind::Unsupported));
        assert_eq!(asked(Emulate, Ignore, true), ok(&written));
        assert_eq!(asked(NoTrim, Default, false), ok(&["zero 5+307200 fua"]));
        assert_eq!(asked(Pass, Default, true), ok(&["zero 5+307200 fua trim fast"]));
        assert_eq!(asked(Pass, Slow, true), Err(Kind::Unsupported));
        assert_eq!(asked(Pass, Ignore, true), ok(&["zero 5+307200 fua trim"]));
        assert_eq!(asked(Pass, Fast::None, true), Err(Kind::Invalid));
    }
}
