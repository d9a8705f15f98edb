//! Refuses, ignores or emulates cache requests: nbdkit-nocache-filter(1).

use std::sync::Arc;

use super::Entry;
use crate::params::Key;
use disk::{
    Answer, Disk, DiskError, DiskInfo, Kind, Layer, Op, Progress, Turn, Verb, execute_all,
    in_pieces,
};

/// Bytes per read where caching is emulated.
const CHUNK: u32 = 1 << 20;

pub(super) const ENTRY: Entry = Entry {
    name: "nocache",
    about: "Refuse cache requests, ignore them, or read instead",
    keys: &[Key::once(
        "cachemode",
        "none|emulate|nop",
        "Refuse them, read instead, or ignore them [default: none]",
    )],
    build: |params, stack, _| {
        let modes = &[Mode::None, Mode::Emulate, Mode::Nop];
        let mode = params.choice("cachemode", &["none", "emulate", "nop"], modes)?;
        let mode = mode.unwrap_or(Mode::None);
        Ok(stack.each(move |below, _| Ok(Arc::new(NoCache { below, mode }))))
    },
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Not advertised; requests are refused.
    None,
    /// Done by reading.
    Emulate,
    /// Advertised; requests do nothing.
    Nop,
}

#[derive(Debug)]
struct NoCache {
    below: Arc<dyn Disk>,
    mode: Mode,
}

impl Layer for NoCache {
    fn below(&self) -> &dyn Disk {
        &*self.below
    }

    fn info(&self) -> DiskInfo {
        DiskInfo { can_cache: self.mode != Mode::None, ..self.below.info() }
    }

    fn try_execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Turn, DiskError> {
        match (&*op, self.mode) {
            (Op::Cache { .. }, Mode::None) => {
                Err(DiskError::new(Kind::Invalid, Verb::Cache, op.range()))
            }
            (Op::Cache { .. }, Mode::Emulate) => Ok(Turn::WouldBlock),
            (Op::Cache { .. }, Mode::Nop) => Ok(Turn::Done),
            _ => self.below.try_execute(op, answer),
        }
    }

    fn execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Progress, DiskError> {
        match (&*op, self.mode) {
            (Op::Cache { at, len }, Mode::Emulate) => {
                let done = in_pieces(*at..at + len, CHUNK.into(), |piece| {
                    let len = u32::try_from(piece.end - piece.start).unwrap_or(CHUNK);
                    answer.clear();
                    execute_all(&*self.below, &mut Op::Read { at: piece.start, len }, answer)
                });
                answer.clear();
                done
            }
            (Op::Cache { .. }, _) => Layer::try_execute(self, op, answer).map(|_| Progress::Done),
            _ => self.below.execute(op, answer),
        }
    }

    fn passes(&self, op: &Op<'_>) -> bool {
        op.verb() != Verb::Cache
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use disk::{MemoryDisk, testing::run};

    #[test]
    fn cache_requests_are_refused_ignored_or_emulated() {
        let disk = |mode| NoCache { below: Arc::new(MemoryDisk::new(5 << 20)), mode };
        let cache = |mode| {
            let answer = run(&disk(mode), &mut Op::Cache { at: 1, len: (5 << 20) - 1 });
            answer.map(|answer| answer.pieces.len())
        };
        assert_eq!(cache(Mode::None).unwrap_err().kind, Kind::Invalid);
        assert_eq!(cache(Mode::Emulate).unwrap(), 0);
        assert_eq!(cache(Mode::Nop).unwrap(), 0);
        assert!(!Disk::info(&disk(Mode::None)).can_cache);
        assert!(
            Disk::info(&disk(Mode::Emulate)).can_cache && Disk::info(&disk(Mode::Nop)).can_cache
        );
    }
}
