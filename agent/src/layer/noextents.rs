//! Hides the holes of a disk: nbdkit-noextents-filter(1).

use std::sync::Arc;

use super::Entry;
use disk::{Answer, Disk, DiskError, DiskInfo, Extent, Layer, Op, Progress, Turn};

pub(super) const ENTRY: Entry = Entry {
    name: "noextents",
    about: "Hide holes: report the whole disk as data",
    keys: &[],
    build: |_, stack, _| Ok(stack.each(|below, _| Ok(Arc::new(NoExtents { below })))),
};

#[derive(Debug)]
struct NoExtents {
    below: Arc<dyn Disk>,
}

impl Layer for NoExtents {
    fn below(&self) -> &dyn Disk {
        &*self.below
    }

    fn info(&self) -> DiskInfo {
        DiskInfo { can_extents: false, ..self.below.info() }
    }

    fn try_execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Turn, DiskError> {
        if let Op::Extents { len, .. } = *op {
            answer.extents.push(Extent { len, hole: false, zero: false });
            return Ok(Turn::Done);
        }
        self.below.try_execute(op, answer)
    }

    fn execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Progress, DiskError> {
        if let Op::Extents { .. } = op {
            return Layer::try_execute(self, op, answer).map(|_| Progress::Done);
        }
        self.below.execute(op, answer)
    }

    fn passes(&self, op: &Op<'_>) -> bool {
        !matches!(op, Op::Extents { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use disk::{MemoryDisk, testing::extents};

    #[test]
    fn the_whole_disk_is_data() {
        let disk = NoExtents { below: Arc::new(MemoryDisk::new(1 << 30)) };
        assert!(!Disk::info(&disk).can_extents);
        let data = Extent { len: 1 << 20, hole: false, zero: false };
        assert_eq!(extents(&disk, 4096, 1 << 20, false), [data]);
    }
}
