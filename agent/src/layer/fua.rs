//! Changes how writes are made durable: nbdkit-fua-filter(1).

use std::sync::Arc;

use super::Entry;
use crate::params::Key;
use disk::{Answer, Disk, DiskError, DiskInfo, Layer, Op, Progress, Turn, Verb};

const MODES: &[&str] = &["none", "emulate", "native", "force", "pass", "discard"];

pub(super) const ENTRY: Entry = Entry {
    name: "fua",
    about: "Change how writes are made durable",
    keys: &[Key::once(
        "fuamode",
        "none|emulate|native|force|pass|discard",
        "How FUA and flush are done; discard loses data in a crash [default: none]",
    )],
    build: |params, stack, _| {
        let modes =
            &[Mode::None, Mode::Emulate, Mode::Pass, Mode::Force, Mode::Pass, Mode::Discard];
        let mode = params.choice("fuamode", MODES, modes)?.unwrap_or(Mode::None);
        Ok(stack.each(move |below, _| Ok(Arc::new(Fua { below, mode }))))
    },
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// FUA is not advertised.
    None,
    /// FUA is done by a flush after the write.
    Emulate,
    /// FUA passes to the disk below. nbdkit's `native` is the same here, because every disk has FUA.
    Pass,
    /// Every write has FUA. A flush still passes, because it covers other connections and reports losses.
    Force,
    /// FUA and flush do nothing.
    Discard,
}

#[derive(Debug)]
struct Fua {
    below: Arc<dyn Disk>,
    mode: Mode,
}

/// The FUA flag of a request that can have one.
fn flag<'a>(op: &'a mut Op<'_>) -> Option<&'a mut bool> {
    match op {
        Op::Write { fua, .. } | Op::Trim { fua, .. } | Op::Zero { fua, .. } => Some(fua),
        _ => None,
    }
}

impl Fua {
    /// Does `act` with the flag that the disk below gets, and restores the flag.
    fn with_flag<T>(&self, op: &mut Op<'_>, act: impl FnOnce(&mut Op<'_>) -> T) -> T {
        let Some(fua) = flag(op) else { return act(op) };
        let before = *fua;
        *fua = match self.mode {
            Mode::None | Mode::Pass => before,
            Mode::Force => true,
            Mode::Emulate | Mode::Discard => false,
        };
        let done = act(op);
        if let Some(fua) = flag(op) {
            *fua = before;
        }
        done
    }
}

impl Layer for Fua {
    fn below(&self) -> &dyn Disk {
        &*self.below
    }

    fn info(&self) -> DiskInfo {
        let below = self.below.info();
        let can_fua = match self.mode {
            Mode::None => false,
            Mode::Pass => below.can_fua,
            Mode::Emulate | Mode::Force | Mode::Discard => true,
        };
        DiskInfo { can_fua, ..below }
    }

    fn try_execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Turn, DiskError> {
        match self.mode {
            Mode::Discard if op.verb() == Verb::Flush => Ok(Turn::Done),
            // These are two requests below. If the second one would block, the first would be done already.
            Mode::Emulate if flag(op).is_some_and(|fua| *fua) => Ok(Turn::WouldBlock),
            _ => self.with_flag(op, |op| self.below.try_execute(op, answer)),
        }
    }

    fn execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Progress, DiskError> {
        match self.mode {
            Mode::Discard if op.verb() == Verb::Flush => Ok(Progress::Done),
            Mode::Emulate if flag(op).is_some_and(|fua| *fua) => {
                let progress = self.with_flag(op, |op| self.below.execute(op, answer))?;
                match progress {
                    Progress::Done => self.below.execute(&mut Op::Settle, answer),
                    Progress::Until(_) => Ok(progress),
                }
            }
            _ => self.with_flag(op, |op| self.below.execute(op, answer)),
        }
    }

    fn passes(&self, op: &Op<'_>) -> bool {
        matches!(op, Op::Read { .. })
    }
}

#[cfg(test)]
mod tests {
    use disk::testing::{
        Medium, Recorder,
        model::{Around, check},
        run, try_write,
    };
    use proptest::prelude::*;

    use super::*;

    /// The requests of the disk below when a client writes with and without FUA, and flushes.
    fn asked(mode: Mode) -> Vec<String> {
        let below = Arc::new(Recorder::default());
        let disk = Fua { below: Arc::<Recorder>::clone(&below), mode };
        try_write(&disk, 0, b"x", true).unwrap();
        try_write(&disk, 0, b"x", false).unwrap();
        run(&disk, &mut Op::Flush).unwrap();
        below.take()
    }

    #[test]
    fn each_mode_sends_the_disk_its_requests() {
        assert_eq!(asked(Mode::Pass), ["write 0+1 fua", "write 0+1", "flush"]);
        assert_eq!(asked(Mode::Emulate), ["write 0+1", "flush", "write 0+1", "flush"]);
        assert_eq!(asked(Mode::Force), ["write 0+1 fua", "write 0+1 fua", "flush"]);
        assert_eq!(asked(Mode::Discard), ["write 0+1", "write 0+1"]);
    }

    #[test]
    fn every_mode_but_none_advertises_fua() {
        for (mode, offered) in [(Mode::None, false), (Mode::Pass, true), (Mode::Discard, true)] {
            let disk = Fua { below: Arc::new(Recorder::default()), mode };
            assert_eq!(Disk::info(&disk).can_fua, offered);
        }
    }

    proptest! {
        #[test]
        fn no_flush_succeeds_after_a_loss_that_was_not_reported(
            steps in prop::collection::vec(any::<[u8; 4]>(), 1..60),
        ) {
            for mode in [Mode::None, Mode::Emulate, Mode::Pass, Mode::Force] {
                let around = |disk: Box<dyn Disk>| -> Box<dyn Disk> {
                    Box::new(Fua { below: Arc::from(disk), mode })
                };
                check(&Around(Medium::new(), around), &steps);
            }
        }
    }
}
