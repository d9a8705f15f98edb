mod array;
mod begin;

use std::{
    fs::{self, OpenOptions},
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use super::{shared::Shared, *};
use crate::{
    Data, Extent, Identity, Pages, Piece,
    registry::Registry,
    testing::{bytes_of, extents, read, run, trim, try_read, try_write, write, zero},
};

const MIB: u64 = 1 << 20;
/// The distance in bytes of two places that are not read together.
const STEP: usize = 64 << 10;
const DIRECT: Options = Options { read_only: false, cache: Cache::None, advice: Advice::Normal };

/// A folder next to the test's binary, on a filesystem with holes and O_DIRECT; /tmp may have neither.
fn directory() -> TempDir {
    tempfile::tempdir_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap()
}

/// A file of `size` bytes that is one hole.
fn sparse(size: u64) -> (TempDir, PathBuf) {
    let directory = directory();
    let path = directory.path().join("disk");
    File::create(&path).unwrap().set_len(size).unwrap();
    (directory, path)
}

fn open(path: &Path) -> FileDisk {
    FileDisk::open(path, Options::default()).unwrap()
}

impl FileDisk {
    fn opened(&self) -> &Opened {
        &self.0.held().opened
    }

    /// Serves an open file that no other connection has.
    fn from_file(file: File, read_only: bool) -> Self {
        let [witness, auditor] = [(); 2].map(|()| file.try_clone().unwrap());
        let shared = Shared::new(witness, auditor);
        let inode = crate::inode::Inode { device: 0, inode: None };
        let member =
            Registry::new().join_with(inode, Identity::fresh(), "a test".to_owned(), shared);
        let edges = member.witness().edges.clone();
        let opened = Opened::new(file, Options::default(), read_only, edges).unwrap();
        let opened = member.witness().share(opened);
        Self(Arc::new(Inner::new(Held { opened, member }, Payer::default())))
    }
}

fn allocated(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

fn refusal(path: &Path) -> String {
    FileDisk::open(path, Options::default()).unwrap_err().to_string()
}

#[test]
fn a_write_reaches_the_file() {
    let (_directory, path) = sparse(3 * MIB);
    let disk = open(&path);
    assert_eq!(disk.info().size, 3 * MIB);
    write(&disk, 5, b"hello");
    try_write(&disk, MIB, b"durable", true).unwrap();
    let mut pages = Pages::room(70_000, 100_000);
    pages.copy_in(&[7; 100_000]).unwrap();
    let data = Data::Pages(&mut pages);
    run(&disk, &mut Op::Write { at: 70_000, data, fua: true }).unwrap();
    run(&disk, &mut Op::Flush).unwrap();
    run(&disk, &mut Op::Cache { at: 0, len: MIB }).unwrap();

    let file = fs::read(&path).unwrap();
    assert_eq!(file.len() as u64, 3 * MIB);
    assert_eq!(&file[..11], b"\0\0\0\0\0hello\0");
    assert!(file[70_000..170_000].iter().all(|&byte| byte == 7));
    assert!(bytes_of(&read(&disk, 0, 3 << 20)) == file);
}

#[test]
fn a_cached_read_is_answered_at_once_and_an_uncached_one_later() {
    let (_directory, path) = sparse(4 * MIB);
    // Written past the page cache, which then has none of it.
    write(&FileDisk::open(&path, DIRECT).unwrap(), 0, &[1; 4 << 20]);
    // Nothing is read ahead.
    let disk = FileDisk::open(&path, Options { advice: Advice::Random, ..Options::default() });
    let disk = disk.unwrap();
    let attempt = |at| {
        let mut answer = Answer::default();
        let turn = disk.try_execute(&mut Op::Read { at, len: 4096 }, &mut answer).unwrap();
        let expected = if turn == Turn::Done { vec![1; 4096] } else { Vec::new() };
        assert_eq!(bytes_of(&answer.pieces), expected, "all or nothing");
        turn
    };
    // The kernel starts to read missing pages, and a fast disk may be done before the kernel checks again. So not every
    // read needs to come later.
    assert!((0..4 * MIB).step_by(STEP).any(|at| attempt(at) == Turn::WouldBlock));
    // Not every filesystem can say what is cached; the usual ones of Linux can.
    if !disk.opened().can.read_nowait.refused.load(Ordering::Relaxed) {
        // The kernel may drop cached pages at any time.
        assert!((0..4 * MIB).step_by(STEP).any(|at| {
            assert_eq!(bytes_of(&read(&disk, at, 4096)), [1; 4096]);
            attempt(at) == Turn::Done
        }));
    }
}

#[test]
fn holes_read_as_holes() {
    let (_directory, path) = sparse(10 * MIB);
    let disk = open(&path);
    assert!(matches!(read(&disk, 0, 10 << 20)[..], [Piece::Hole(len)] if len == 10 * MIB));
    assert_eq!(allocated(&path), 0);
    write(&disk, 5 * MIB + 8192, &[1; 8192]);
    let lens: Vec<u64> = read(&disk, 0, 10 << 20).iter().map(Piece::len).collect();
    assert_eq!(lens, [5 * MIB + 8192, 8192, 5 * MIB - 16384]);
    for (at, len) in [(0, 4096), (100, 100), (5 * MIB + 16384, 65536)] {
        // First from the medium, then from the page cache.
        for _ in 0..2 {
            let pieces = read(&disk, at, len);
            assert!(matches!(pieces[..], [Piece::Hole(hole)] if hole == u64::from(len)));
        }
    }
}

#[test]
fn zeroes_that_were_written_are_not_sent_either() {
    let (_directory, path) = sparse(MIB);
    let disk = open(&path);
    write(&disk, 0, &[[0; 4096], [1; 4096], [0; 4096]].concat());
    let lens: Vec<u64> = read(&disk, 100, 12_000).iter().map(Piece::len).collect();
    assert_eq!(lens, [3996, 4096, 3908]);
    assert!(!extents(&disk, 0, 4096, true)[0].hole, "they take space");
}

#[test]
fn extents_are_those_of_the_filesystem() {
    let (_directory, path) = sparse(10 * MIB);
    let disk = open(&path);
    let data = |len| Extent { len, hole: false, zero: false };
    let hole = |len| Extent { len, hole: true, zero: true };
    assert_eq!(extents(&disk, 0, 10 * MIB, false), [hole(10 * MIB)]);
    write(&disk, 2 * MIB, &vec![1; 1 << 20]);
    run(&disk, &mut Op::Flush).unwrap();
    let all = [hole(2 * MIB), data(MIB), hole(7 * MIB)];
    assert_eq!(extents(&disk, 0, 10 * MIB, false), all);
    assert_eq!(extents(&disk, 2 * MIB + 9, MIB, true), [data(MIB - 9)]);
    assert_eq!(extents(&disk, 10 * MIB - 1, 1, false), [hole(1)]);
}

#[test]
fn a_trim_gives_space_back() {
    let (_directory, path) = sparse(MIB);
    let disk = open(&path);
    write(&disk, 0, &vec![1; 1 << 20]);
    run(&disk, &mut Op::Flush).unwrap();
    assert_eq!(allocated(&path), MIB);
    run(&disk, &mut Op::Trim { at: 0, len: MIB / 2, fua: true }).unwrap();
    assert_eq!(allocated(&path), MIB / 2);
    trim(&disk, MIB - 100, 100);
    assert_eq!(fs::metadata(&path).unwrap().len(), MIB);
}

#[test]
fn zeroes_give_space_back_only_where_they_may() {
    let (_directory, path) = sparse(MIB);
    let disk = open(&path);
    write(&disk, 0, &vec![1; 1 << 20]);
    run(&disk, &mut Op::Flush).unwrap();
    zero(&disk, 1000, MIB / 2, false);
    assert_eq!(allocated(&path), MIB);
    zero(&disk, MIB / 2, MIB / 2, true);
    assert_eq!(allocated(&path), MIB / 2);
    let mut bytes = vec![1; 1 << 20];
    bytes[1000..].fill(0);
    assert!(bytes_of(&read(&disk, 0, 1 << 20)) == bytes);
}

#[test]
fn without_support_zeroes_are_written_and_a_fast_zero_changes_nothing() {
    let (_directory, path) = sparse(4 * MIB);
    let disk = open(&path);
    let can = &disk.opened().can;
    for ability in [&can.punch, &can.zero_range, &can.write_durable] {
        ability.refused.store(true, Ordering::Relaxed);
    }
    write(&disk, 0, &vec![1; 4 << 20]);
    let (at, len) = (1000, 3 * MIB);
    let mut op = Op::Zero { at, len, fua: false, may_trim: true, fast: true };
    assert_eq!(run(&disk, &mut op).unwrap_err().kind, Kind::Unsupported);
    assert_eq!(bytes_of(&read(&disk, at, 3 << 20)), vec![1; 3 << 20]);
    run(&disk, &mut Op::Zero { at, len, fua: true, may_trim: true, fast: false }).unwrap();
    trim(&disk, 0, 4 * MIB);
    let mut bytes = vec![1; 4 << 20];
    bytes[1000..1000 + (3 << 20)].fill(0);
    assert!(bytes_of(&read(&disk, 0, 4 << 20)) == bytes);
}

#[test]
fn reads_beyond_the_end_of_a_truncated_file_fail() {
    for options in [Options::default(), DIRECT] {
        for fill in [false, true] {
            let (_directory, path) = sparse(4 * MIB + 100);
            let disk = FileDisk::open(&path, options).unwrap();
            if fill {
                write(&disk, 0, &vec![1; 4 << 20]);
            }
            OpenOptions::new().write(true).open(&path).unwrap().set_len(MIB + 10).unwrap();
            for (at, len) in [(MIB, 11), (MIB, 4096), (0, 2 << 20), (3 * MIB, 512), (4 * MIB, 100)]
            {
                let error = try_read(&disk, at, len).unwrap_err();
                assert_eq!(error.kind, Kind::Io, "{len} at {at}, {options:?}");
            }
            if options == Options::default() {
                assert_eq!(bytes_of(&read(&disk, MIB, 10)), [u8::from(fill); 10]);
            }
            let listed = extents(&disk, 0, 4 * MIB + 100, false);
            assert!(!listed.last().unwrap().zero, "nothing is promised past the end: {listed:?}");
        }
    }
}

#[test]
fn errors_of_the_medium_reach_the_client() {
    let full = OpenOptions::new().read(true).write(true).open("/dev/full").unwrap();
    let full = FileDisk::from_file(full, false);
    for fua in [false, true] {
        assert_eq!(try_write(&full, 0, &[1; 4096], fua).unwrap_err().kind, Kind::NoSpace);
    }
    // Nothing is mapped at the start of a process's memory.
    let broken = FileDisk::from_file(File::open("/proc/self/mem").unwrap(), true);
    let error = try_read(&broken, 0, 4096).unwrap_err();
    assert_eq!(error.kind, Kind::Io);
    assert_eq!(error.to_string(), "cannot read 4096 bytes at offset 0");
    assert!(broken.opened().can.read_nowait.refused.load(Ordering::Relaxed), "it has no NOWAIT");
}

#[test]
fn a_read_only_disk_is_not_written() {
    let (_directory, path) = sparse(MIB);
    let options = Options { read_only: true, ..Options::default() };
    let disk = FileDisk::open(&path, options).unwrap();
    assert!(disk.info().read_only && !disk.info().can_trim);
    assert_eq!(try_write(&disk, 0, b"x", false).unwrap_err().kind, Kind::Denied);
    let mut op = Op::Trim { at: 0, len: MIB, fua: false };
    assert_eq!(run(&disk, &mut op).unwrap_err().kind, Kind::Denied);
    run(&disk, &mut Op::Flush).unwrap();
}

#[test]
fn a_file_that_cannot_be_written_is_served_read_only() {
    // A running program cannot be written, and this one runs.
    let disk = open(&std::env::current_exe().unwrap());
    assert!(disk.info().read_only);
    assert_eq!(bytes_of(&read(&disk, 1, 3)), b"ELF");
}

#[test]
fn a_path_that_is_no_disk_is_refused_with_its_kind() {
    let directory = directory();
    let path = |name| directory.path().join(name);
    nix::unistd::mkfifo(&path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _listener = UnixListener::bind(path("socket")).unwrap();
    for (path, kind) in [
        (directory.path().to_owned(), "a directory"),
        (path("fifo"), "a FIFO"),
        (path("socket"), "a socket"),
        ("/dev/null".into(), "a character device"),
    ] {
        assert!(refusal(&path).contains(kind), "{}", refusal(&path));
    }
    assert!(refusal(&path("missing")).contains("create it first"));
}

#[test]
fn advice_and_an_empty_file_are_taken() {
    let (_directory, path) = sparse(0);
    for advice in [Advice::Normal, Advice::Random, Advice::Sequential] {
        for cache in [Cache::Default, Cache::None] {
            let disk = FileDisk::open(&path, Options { read_only: false, cache, advice }).unwrap();
            assert_eq!(disk.info().size, 0);
        }
    }
}

#[test]
fn direct_writes_of_parts_of_a_block_do_not_undo_each_other() {
    let (_directory, path) = sparse(8192 + 300);
    let first = FileDisk::open(&path, DIRECT).unwrap();
    // For this disk the last bytes of the file are part of a block, and it bypasses the page cache too.
    OpenOptions::new().write(true).open(&path).unwrap().set_len(3 * 4096).unwrap();
    let second = FileDisk::open(&path, DIRECT).unwrap();
    assert_eq!(first.info().block_preferred, 4096);
    let part = 300;
    std::thread::scope(|scope| {
        for (disk, mine) in [(&first, 0), (&second, 1)] {
            scope.spawn(move || {
                for i in (0..28_u8).filter(|i| i % 2 == mine) {
                    try_write(disk, u64::from(i) * part, &[i + 1; 300], false).unwrap();
                }
            });
        }
    });
    let file = fs::read(&path).unwrap();
    assert_eq!(file.len(), 3 * 4096, "the last part of a block did not make the file longer");
    for i in 0..28_u8 {
        let start = usize::from(i) * 300;
        assert_eq!(file[start..start + 300], [i + 1; 300]);
    }
}
