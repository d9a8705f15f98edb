//! A part of a disk as a disk of its own, and reading from the disk below. Several layers use both.

use std::sync::Arc;

use disk::{
    Answer, Asked, Disk, DiskError, DiskInfo, Layer, Op, Piece, Progress, Turn, Verb, Waiter,
    execute_all, room,
};

/// `len` bytes of `below` from `start` on.
#[derive(Debug)]
pub(super) struct Window {
    below: Arc<dyn Disk>,
    start: u64,
    len: u64,
}

impl Window {
    /// `None` if the part reaches over the end of the disk.
    pub(super) fn new(below: Arc<dyn Disk>, start: u64, len: u64) -> Option<Self> {
        let end = start.checked_add(len)?;
        (end <= below.info().size).then_some(Self { below, start, len })
    }

    /// Does `act` with the request at its offset in the disk below, and restores the request.
    fn shifted<T>(&self, op: &mut Op<'_>, act: impl FnOnce(&dyn Disk, &mut Op<'_>) -> T) -> T {
        if let Some(at) = offset(op) {
            *at += self.start;
        }
        let done = act(&*self.below, op);
        if let Some(at) = offset(op) {
            *at -= self.start;
        }
        done
    }

    /// The error, with the client's offset.
    fn translated(&self, error: DiskError) -> DiskError {
        DiskError { at: error.at.saturating_sub(self.start), ..error }
    }
}

fn offset<'a>(op: &'a mut Op<'_>) -> Option<&'a mut u64> {
    match op {
        Op::Read { at, .. }
        | Op::Write { at, .. }
        | Op::Trim { at, .. }
        | Op::Zero { at, .. }
        | Op::Cache { at, .. }
        | Op::Extents { at, .. } => Some(at),
        Op::Flush | Op::Settle => None,
    }
}

impl Layer for Window {
    fn below(&self) -> &dyn Disk {
        &*self.below
    }

    fn info(&self) -> DiskInfo {
        let below = self.below.info();
        // Block sizes stay as they are: the disk below rounds at its own offsets.
        let identity = below.identity.map(|all| all.and("part", &[self.start, self.len]));
        DiskInfo { size: self.len, identity, ..below }
    }

    fn try_execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Turn, DiskError> {
        self.shifted(op, |below, op| below.try_execute(op, answer))
            .map_err(|error| self.translated(error))
    }

    fn execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Progress, DiskError> {
        self.shifted(op, |below, op| below.execute(op, answer))
            .map_err(|error| self.translated(error))
    }

    fn begin(&self, op: &mut Op<'_>, waiter: Box<dyn Waiter>) {
        self.shifted(op, |below, op| below.begin(op, waiter));
    }

    fn is_brief(&self, asked: Asked) -> bool {
        let (at, len) = asked.range;
        self.below.is_brief(Asked { range: (at + self.start, len), ..asked })
    }
}

/// Reads `len` bytes of `disk` from `at` on. Blocks until they are read.
pub(super) fn read(disk: &dyn Disk, at: u64, len: u32) -> Result<Vec<u8>, DiskError> {
    let mut answer = Answer::default();
    execute_all(disk, &mut Op::Read { at, len }, &mut answer)?;
    let bytes = room(len as usize);
    let mut bytes = bytes.map_err(|lack| lack.of(Verb::Read, (at, len.into())))?;
    for piece in answer.pieces {
        match piece {
            Piece::Bytes(slice) => bytes.extend_from_slice(slice.as_ref()),
            Piece::Hole(len) => {
                // The hole is part of a length of 32 bits.
                bytes.resize(bytes.len() + usize::try_from(len).unwrap_or(0), 0);
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use disk::{
        Data, Extent, FileDisk, MemoryDisk, Pages, file,
        testing::{bytes_of, extents, read, run, trim, write, zero},
    };

    #[test]
    fn requests_are_shifted_by_the_start_of_the_window() {
        let below: Arc<dyn Disk> = Arc::new(MemoryDisk::new(1 << 20));
        let window = Window::new(Arc::clone(&below), 1001, 500_000).unwrap();
        assert_eq!(Disk::info(&window).size, 500_000);
        write(&window, 0, b"first");
        write(&window, 499_996, b"last");
        assert_eq!(bytes_of(&read(&*below, 1001, 5)), b"first");
        assert_eq!(bytes_of(&read(&*below, 500_997, 4)), b"last");
        assert_eq!(bytes_of(&read(&window, 499_996, 4)), b"last");
        zero(&window, 0, 2, false);
        trim(&window, 2, 2);
        assert_eq!(bytes_of(&read(&window, 0, 5)), b"\0\0\0\0t");
        run(&window, &mut Op::Flush).unwrap();
    }

    #[test]
    fn requests_that_the_disk_below_begins_are_shifted_too() {
        // Beside the test's binary, because the filesystem of /tmp may have no O_DIRECT.
        let beside = std::env::current_exe().unwrap();
        let file = tempfile::NamedTempFile::new_in(beside.parent().unwrap()).unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let options = file::Options { cache: file::Cache::None, ..file::Options::default() };
        let below: Arc<dyn Disk> = Arc::new(FileDisk::open(file.path(), options).unwrap());
        let window = Window::new(Arc::clone(&below), 8192, 500_000).unwrap();
        assert_eq!(Disk::begins(&window), below.begins());
        for fill in [1, 2] {
            write(&window, 4096, &[fill; 4096]);
            assert_eq!(bytes_of(&read(&window, 4096, 4096)), [fill; 4096]);
            assert_eq!(bytes_of(&read(&*below, 12_288, 4096)), [fill; 4096]);
        }
        let cached = Asked { verb: Verb::Write, range: (1, 4096), fast: false, durable: false };
        let below = Arc::new(FileDisk::open(file.path(), file::Options::default()).unwrap());
        let window = Window::new(below, 4095, 500_000).unwrap();
        assert!(Disk::is_brief(&window, cached), "below it is a whole page");
    }

    #[test]
    fn large_writes_in_pages_land_byte_for_byte_whatever_the_offset() {
        for start in [0, 1, 511, 4096, 32768, 40_000] {
            let below: Arc<dyn Disk> = Arc::new(MemoryDisk::new(1 << 20));
            let window = Window::new(Arc::clone(&below), start, 500_000).unwrap();
            for at in [0, 5, 32768] {
                let bytes: Vec<u8> = (0..200_000_u32).map(|i| (i % 251) as u8).collect();
                let mut pages = Pages::copied(at, &bytes).unwrap();
                let data = Data::Pages(&mut pages);
                run(&window, &mut Op::Write { at, data, fua: false }).unwrap();
                let len = u32::try_from(bytes.len()).unwrap();
                assert_eq!(bytes_of(&read(&*below, start + at, len)), bytes, "{start} {at}");
            }
        }
    }

    #[test]
    fn extents_are_those_of_the_window() {
        let below: Arc<dyn Disk> = Arc::new(MemoryDisk::new(1 << 20));
        write(&*below, 65536, &[1; 32768]);
        let window = Window::new(below, 32768, 1 << 19).unwrap();
        let [hole, data] = [true, false].map(|hole| Extent { len: 32768, hole, zero: hole });
        assert_eq!(extents(&window, 0, 65536, false), [hole, data]);
    }

    #[test]
    fn a_window_does_not_reach_over_the_end() {
        let below: Arc<dyn Disk> = Arc::new(MemoryDisk::new(1000));
        assert!(Window::new(Arc::clone(&below), 0, 1000).is_some());
        assert!(Window::new(Arc::clone(&below), 1, 1000).is_none());
        assert!(Window::new(Arc::clone(&below), 1001, 0).is_none());
        assert!(Window::new(below, u64::MAX, 2).is_none());
    }
}
