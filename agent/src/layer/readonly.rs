//! Refuses writes, always or while a file exists: nbdkit-readonly-filter(1).

use std::{path::PathBuf, sync::Arc};

use super::{Entry, absolute};
use crate::params::Key;
use disk::{Answer, Disk, DiskError, DiskInfo, Kind, Layer, Op, Progress, Turn, Verb};

pub(super) const ENTRY: Entry = Entry {
    name: "readonly",
    about: "Refuse writes",
    keys: &[Key::once("readonly-file", "PATH", "Only while this file exists")],
    build: |params, stack, _| {
        let file: Option<Arc<PathBuf>> = params.value("readonly-file").map(absolute).map(Arc::new);
        Ok(stack.each(move |below, _| Ok(Arc::new(Readonly { below, file: file.clone() }))))
    },
};

#[derive(Debug)]
struct Readonly {
    below: Arc<dyn Disk>,
    /// Writes are refused while this file exists; `None`: always.
    file: Option<Arc<PathBuf>>,
}

fn writes(op: &Op<'_>) -> bool {
    matches!(op.verb(), Verb::Write | Verb::Trim | Verb::Zero)
}

fn denied(op: &Op<'_>) -> DiskError {
    DiskError::new(Kind::Denied, op.verb(), op.range())
}

impl Layer for Readonly {
    fn below(&self) -> &dyn Disk {
        &*self.below
    }

    fn info(&self) -> DiskInfo {
        let info = self.below.info();
        // A client is told once whether the disk is read-only, but the file comes and goes.
        DiskInfo { read_only: info.read_only || self.file.is_none(), ..info }
    }

    fn try_execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Turn, DiskError> {
        match &self.file {
            _ if !writes(op) => self.below.try_execute(op, answer),
            None => Err(denied(op)),
            // Looking for the file may block.
            Some(_) => Ok(Turn::WouldBlock),
        }
    }

    fn execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Progress, DiskError> {
        if writes(op) && self.file.as_ref().is_none_or(|file| file.exists()) {
            return Err(denied(op));
        }
        self.below.execute(op, answer)
    }

    fn passes(&self, op: &Op<'_>) -> bool {
        !writes(op)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use disk::{Data, MemoryDisk, testing::run};

    #[test]
    fn writes_trims_and_zeroes_are_denied() {
        let disk = Readonly { below: Arc::new(MemoryDisk::new(1 << 20)), file: None };
        assert!(Disk::info(&disk).read_only);
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

    #[test]
    fn with_a_file_writes_are_denied_while_it_exists() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ro");
        let file = Some(Arc::new(path.clone()));
        let disk = Readonly { below: Arc::new(MemoryDisk::new(1 << 20)), file };
        assert!(!Disk::info(&disk).read_only);
        let write = || run(&disk, &mut Op::Write { at: 0, data: Data::Bytes(b"x"), fua: false });
        write().unwrap();
        std::fs::write(&path, "").unwrap();
        assert_eq!(write().unwrap_err().kind, Kind::Denied);
        run(&disk, &mut Op::Read { at: 0, len: 1 }).unwrap();
        std::fs::remove_file(&path).unwrap();
        write().unwrap();
    }
}
