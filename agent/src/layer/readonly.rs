//! Refuses writes: nbdkit-readonly-filter(1).

use std::sync::Arc;

use super::{Entry, each};
use crate::disk::{Answer, Disk, DiskError, Facts, Kind, Op, Turn, Verb};

pub(super) const ENTRY: Entry = Entry {
    name: "readonly",
    about: "Refuse writes",
    keys: &[],
    build: |_, stack, _| Ok(each(stack, |below, _| Ok(Arc::new(Readonly { below })))),
};

#[derive(Debug)]
struct Readonly {
    below: Arc<dyn Disk>,
}

impl Readonly {
    fn check(op: &Op<'_>) -> Result<(), DiskError> {
        match op.verb() {
            verb @ (Verb::Write | Verb::Trim | Verb::Zero) => {
                Err(DiskError::new(Kind::Denied, verb, op.range()))
            }
            _ => Ok(()),
        }
    }
}

impl Disk for Readonly {
    fn facts(&self) -> Facts {
        Facts { read_only: true, ..self.below.facts() }
    }

    fn attempt(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Turn, DiskError> {
        Self::check(op)?;
        self.below.attempt(op, answer)
    }

    fn perform(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<(), DiskError> {
        Self::check(op)?;
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

    #[test]
    fn writes_trims_and_zeroes_are_denied() {
        let disk = Readonly { below: Arc::new(MemoryDisk::new(1 << 20)) };
        assert!(disk.facts().read_only);
        for mut op in [
            Op::Write { at: 0, data: Data::Bytes(b"x"), fua: false },
            Op::Trim { at: 0, len: 1, fua: false },
            Op::Zero { at: 0, len: 1, fua: false, may_trim: true, fast: false },
        ] {
            assert_eq!(run(&disk, &mut op).unwrap_err().kind, Kind::Denied);
        }
        run(&disk, &mut Op::Read { at: 0, len: 1 }).unwrap();
        run(&disk, &mut Op::Flush).unwrap();
    }
}
