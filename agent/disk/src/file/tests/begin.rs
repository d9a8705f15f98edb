//! Requests that complete without a thread, compared with the same requests executed by a thread.

use std::{
    os::unix::fs::FileExt,
    sync::atomic::AtomicUsize,
    time::{Duration, Instant},
};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use super::*;
use crate::{
    ring,
    testing::{Begun, begun},
};

/// Bytes that differ from offset to offset.
fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from(i * 31 % 251).unwrap()).collect()
}

/// A file of such bytes that ends with a part of a block. The page cache has none of it, since a write past the page
/// cache would have to wait for cached pages.
fn filled() -> (TempDir, PathBuf, Vec<u8>) {
    let (directory, path) = sparse(0);
    let bytes = bytes((2 << 20) + 100);
    fs::write(&path, &bytes).unwrap();
    let file = File::open(&path).unwrap();
    file.sync_all().unwrap();
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
    (directory, path, bytes)
}

/// `None` without io_uring, or on a filesystem that needs a thread. The test says so and tries nothing.
fn ringed(path: &Path, options: Options) -> Option<FileDisk> {
    let disk = FileDisk::open(path, options).unwrap();
    if !disk.begins() {
        println!("SKIPPED: no io_uring, or a filesystem that does not go on by itself");
    }
    disk.begins().then_some(disk)
}

fn done(begun: Begun) -> Option<Vec<u8>> {
    match begun {
        Begun::Done(answer) => Some(bytes_of(&answer.pieces)),
        Begun::Blocks(_) => None,
    }
}

/// Repeats a request, since the kernel may say for a while that it would block.
fn sometime<T>(begin: impl Fn() -> Option<T>) -> Option<T> {
    (0..1000).find_map(|_| {
        begin().or_else(|| {
            std::thread::yield_now();
            None
        })
    })
}

fn read_begun(disk: &FileDisk, at: u64, len: u32) -> Option<Vec<u8>> {
    done(begun(disk, &mut Op::Read { at, len }))
}

fn write_begun(disk: &FileDisk, at: u64, data: &[u8], fua: bool) -> Option<Vec<u8>> {
    let mut pages = Pages::copied(at, data).unwrap();
    match begun(disk, &mut Op::Write { at, data: Data::Pages(&mut pages), fua }) {
        Begun::Blocks(back) => {
            assert_eq!(back.slices().collect::<Vec<_>>().concat(), data, "the payload comes back");
            None
        }
        begun @ Begun::Done(_) => done(begun),
    }
}

#[test]
fn any_range_is_read_and_a_range_that_is_too_long_is_left_to_a_thread() {
    let (_directory, path, bytes) = filled();
    for options in [Options::default(), DIRECT] {
        let Some(disk) = ringed(&path, options) else { return };
        for (at, len) in [(0, 4096), (1, 1), (4095, 2), (70_000, 100_000), (1 << 20, 1 << 20)] {
            let expected = &bytes[at..at + len];
            let got = sometime(|| read_begun(&disk, at as u64, u32::try_from(len).unwrap()));
            assert!(got.as_deref() == Some(expected), "{len} at {at}, {options:?}");
        }
        let too_long = read_begun(&disk, 0, (1 << 20) + 1);
        assert!(too_long.is_none(), "longer than a window");
        let last = read_begun(&disk, bytes.len() as u64 - 50, 50);
        let expected = (options != DIRECT).then(|| bytes[bytes.len() - 50..].to_vec());
        assert_eq!(last, expected, "the last part of a block is in the page cache alone");
    }
}

#[test]
fn whole_blocks_are_written_past_the_cache_and_other_writes_by_a_thread() {
    let (_directory, path, mut model) = filled();
    let Some(disk) = ringed(&path, DIRECT) else { return };
    for (at, len, fua) in [(0, 4096, false), (32_768, 65_536, true), (1 << 20, 1 << 20, false)] {
        let data = vec![u8::try_from(len % 250).unwrap() + 1; len];
        assert!(sometime(|| write_begun(&disk, at as u64, &data, fua)).is_some(), "{len} at {at}");
        model[at..at + len].copy_from_slice(&data);
    }
    let end = model.len() as u64;
    for (at, len) in [(1, 4096), (4096, 100), (0, 8191), (end - 100, 100), (end / 4096 * 4096, 100)]
    {
        assert!(write_begun(&disk, at, &vec![9; len], false).is_none(), "{len} at {at}");
    }
    assert!(fs::read(&path).unwrap() == model);
    let buffered = open(&path);
    assert!(
        write_begun(&buffered, 0, &[1; 4096], false).is_none(),
        "the kernel would block a thread"
    );
    let read_only = FileDisk::open(&path, Options { read_only: true, ..DIRECT }).unwrap();
    assert!(write_begun(&read_only, 0, &[1; 4096], false).is_none());
}

#[test]
fn a_write_that_was_begun_counts_as_not_durable_until_a_flush() {
    let (_directory, path, _) = filled();
    let Some(disk) = ringed(&path, DIRECT) else { return };
    run(&disk, &mut Op::Flush).unwrap();
    let owes = || disk.0.held().member.owes();
    let write = |fua| sometime(|| write_begun(&disk, 0, &[1; 4096], fua)).is_some();
    assert!(write(false) && owes());
    run(&disk, &mut Op::Flush).unwrap();
    assert!(!owes());
}

#[test]
fn a_write_that_is_begun_does_not_wait_for_a_change_of_part_of_a_block() {
    let (_directory, path, _) = filled();
    let Some(disk) = ringed(&path, DIRECT) else { return };
    let alone = disk.opened().edges.alone();
    assert!(write_begun(&disk, 0, &[1; 4096], false).is_none());
    drop(alone);
    assert!(sometime(|| write_begun(&disk, 0, &[1; 4096], false)).is_some());
}

#[test]
fn a_request_that_moves_too_few_bytes_is_left_to_a_thread_which_reports_the_error() {
    let (_directory, path, _) = filled();
    for options in [Options::default(), DIRECT] {
        let Some(disk) = ringed(&path, options) else { return };
        OpenOptions::new().write(true).open(&path).unwrap().set_len(8192).unwrap();
        assert!(read_begun(&disk, 4096, 8192).is_none(), "a truncated file");
        assert_eq!(try_read(&disk, 4096, 8192).unwrap_err().kind, Kind::Io);
        OpenOptions::new().write(true).open(&path).unwrap().set_len((2 << 20) + 100).unwrap();
    }
}

/// More requests than the ring has room for, without a turn between them. At the end nothing waits for them.
#[test]
fn more_than_the_ring_holds_and_a_disk_that_is_closed_meanwhile() {
    #[derive(Debug)]
    struct Counts(Arc<AtomicUsize>);
    impl Waiter for Counts {
        fn done(self: Box<Self>, answer: Answer) {
            assert_eq!(bytes_of(&answer.pieces), [7; 4096]);
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        fn blocks(self: Box<Self>, _: Pages) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    const REQUESTS: u64 = 5000;
    let (_directory, path) = sparse(0);
    fs::write(&path, vec![7; 4 << 20]).unwrap();
    let Some(disk) = ringed(&path, DIRECT) else { return };
    let turns = ring::attach();
    let told = Arc::new(AtomicUsize::new(0));
    for i in 0..REQUESTS {
        let op = &mut Op::Read { at: i % 1024 * 4096, len: 4096 };
        disk.begin(op, Box::new(Counts(Arc::clone(&told))));
    }
    let opened = Arc::downgrade(&disk.0.held().opened);
    drop(disk);
    assert!(opened.upgrade().is_some() || told.load(Ordering::Relaxed) > 0);
    let end = Instant::now() + Duration::from_mins(1);
    while told.load(Ordering::Relaxed) < usize::try_from(REQUESTS).unwrap() {
        assert!(Instant::now() < end, "{told:?} of {REQUESTS} were told");
        turns.turn();
    }
    assert!(opened.upgrade().is_none(), "with the last of them the file is closed");
}

#[test]
fn a_read_returns_the_bytes_before_or_after_a_concurrent_write() {
    let (_directory, path, _) = filled();
    let Some(disk) = ringed(&path, DIRECT) else { return };
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[5; 8192], 0).unwrap();
    file.sync_all().unwrap();
    assert_eq!(sometime(|| read_begun(&disk, 0, 8192)), Some(vec![5; 8192]));
}
