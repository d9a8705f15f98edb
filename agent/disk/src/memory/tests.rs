use proptest::prelude::*;

use super::{
    chunk::CHUNK_PAGES,
    extents::{EXTENTS, LOOKED_AT},
    *,
};
use crate::{
    Extent, execute_all,
    testing::{bytes_of, extents, read, run, trim, try_write, write, zero},
    zeroes::is_zero,
};

const MAX: u64 = i64::MAX as u64;

/// A write that was received into separate pages.
fn write_pages(disk: &MemoryDisk, at: u64, first: u64, bytes: &[u8]) {
    let mut pages = Pages::room(first, bytes.len());
    assert_eq!(pages.copy_in(bytes), Ok(bytes.len()));
    let mut op = Op::Write { at, data: Data::Pages(&mut pages), fua: false };
    assert_eq!(disk.try_execute(&mut op, &mut Answer::default()).unwrap(), Turn::Done);
}

#[test]
fn a_new_disk_of_the_largest_size_is_one_hole_and_costs_nothing() {
    let disk = MemoryDisk::new(MAX);
    assert_eq!(disk.info().size, MAX);
    assert_eq!(extents(&disk, 0, MAX, false), [Extent { len: MAX, hole: true, zero: true }]);
    assert!(matches!(read(&disk, MAX - 10, 10)[..], [Piece::Hole(10)]));
    trim(&disk, 0, MAX);
    zero(&disk, 0, MAX, false);
    assert_eq!(disk.allocated(), 0);
}

#[test]
fn both_ends_of_the_largest_disk_can_be_written_and_trimmed() {
    let disk = MemoryDisk::new(MAX);
    write(&disk, 0, b"first");
    write(&disk, MAX - 4, b"last");
    assert_eq!(bytes_of(&read(&disk, MAX - 6, 6)), b"\0\0last");
    let page = PAGE as u64;
    let last = MAX % page;
    let data = |len| Extent { len, hole: false, zero: false };
    let hole = |len| Extent { len, hole: true, zero: true };
    assert_eq!(extents(&disk, 0, MAX, false), [data(page), hole(MAX - page - last), data(last)]);
    assert_eq!(extents(&disk, 1, MAX - 1, true), [data(page - 1)]);
    assert_eq!(extents(&disk, page, MAX - page, true), [hole(MAX - page - last)]);
    trim(&disk, 0, MAX);
    assert_eq!(disk.allocated(), 0);
    assert_eq!(extents(&disk, 0, MAX, false), [hole(MAX)]);
}

#[test]
fn a_read_lends_pages_and_merges_holes() {
    let disk = MemoryDisk::new(3 * CHUNK);
    write(&disk, CHUNK - 2, b"abcd");
    let pieces = read(&disk, 10, u32::try_from(3 * CHUNK - 10).unwrap());
    let lens: Vec<u64> = pieces.iter().map(Piece::len).collect();
    let page = PAGE as u64;
    assert_eq!(lens, [CHUNK - page - 10, page, page, 2 * CHUNK - page]);
    assert!(matches!(pieces[1], Piece::Bytes(Slice::Lent(..))));
}

#[test]
fn a_lent_page_keeps_its_bytes_under_any_later_request() {
    let disk = MemoryDisk::new(CHUNK);
    type Change = fn(&MemoryDisk);
    let changes: [(&str, Change); 6] = [
        ("write", |disk| write(disk, 5, b"new")),
        ("whole page", |disk| write(disk, 0, &[9; PAGE])),
        ("taken page", |disk| write_pages(disk, 0, 0, &[9; PAGE])),
        ("trim", |disk| trim(disk, 2, 100)),
        ("trim of all", |disk| trim(disk, 0, CHUNK)),
        ("zero", |disk| zero(disk, 0, CHUNK, false)),
    ];
    for (name, change) in changes {
        write(&disk, 0, &[7; PAGE]);
        let lent = read(&disk, 0, 200);
        change(&disk);
        assert_eq!(bytes_of(&lent), [7; 200], "{name}");
        assert_ne!(bytes_of(&read(&disk, 0, 200)), [7; 200], "{name}");
    }
}

#[test]
fn a_page_that_is_not_lent_is_written_in_place_and_a_received_page_is_kept() {
    let disk = MemoryDisk::new(CHUNK);
    let address = |disk: &MemoryDisk| match &read(disk, 0, 1)[..] {
        [Piece::Bytes(slice)] => slice.as_ref().as_ptr(),
        other => panic!("{other:?}"),
    };
    write(&disk, 0, b"one");
    let before = address(&disk);
    write(&disk, 0, b"two");
    assert_eq!(address(&disk), before);

    let mut pages = Pages::room(0, PAGE);
    pages.copy_in(&[1; PAGE]).unwrap();
    let received = pages.part(0).unwrap().as_ptr();
    let mut op = Op::Write { at: 0, data: Data::Pages(&mut pages), fua: false };
    disk.try_execute(&mut op, &mut Answer::default()).unwrap();
    assert_eq!(address(&disk), received, "a whole page is taken, not copied");
}

#[test]
fn pages_that_do_not_lie_as_on_the_disk_are_copied() {
    let disk = MemoryDisk::new(CHUNK);
    let bytes: Vec<u8> = (0..2 * PAGE + 77).map(|i| u8::try_from(i % 251).unwrap()).collect();
    for (at, first) in [(0, 0), (100, 100), (100, 3), (PAGE as u64 - 1, 0), (0, 40)] {
        write_pages(&disk, at, first, &bytes);
        let len = u32::try_from(bytes.len()).unwrap();
        assert!(bytes_of(&read(&disk, at, len)) == bytes, "at {at}, first {first}");
    }
}

#[test]
fn a_page_is_freed_when_its_last_byte_is_trimmed() {
    let disk = MemoryDisk::new(CHUNK);
    write(&disk, 1000, &[1; 200]);
    trim(&disk, 1000, 100);
    assert_eq!(disk.allocated(), PAGE as u64);
    assert_eq!(bytes_of(&read(&disk, 1000, 200)), [[0; 100], [1; 100]].concat());
    zero(&disk, 1100, 100, true);
    assert_eq!(disk.allocated(), 0);
    assert!(disk.shards.iter().all(|shard| shard.0.read().unwrap().is_empty()));
}

#[test]
fn zeroes_that_may_not_trim_keep_pages_and_allocate_a_bounded_number() {
    let disk = MemoryDisk::new(MAX);
    let page = PAGE as u64;
    write(&disk, 0, &[1; PAGE]);
    zero(&disk, 0, page, false);
    assert_eq!(disk.allocated(), page);
    zero(&disk, page / 2, 2 * page, false);
    assert_eq!(disk.allocated(), 3 * page);
    zero(&disk, 0, MAX, false);
    assert_eq!(disk.allocated(), 3 * page, "what is there stays, and no more is taken");
    assert_eq!(
        extents(&disk, 0, 4 * page, true),
        [Extent { len: 3 * page, hole: false, zero: false }]
    );
    assert_eq!(bytes_of(&read(&disk, 0, 3 * 32768)), [0; 3 * PAGE]);
}

#[test]
fn bytes_of_an_earlier_page_are_never_read() {
    let disk = MemoryDisk::new(CHUNK);
    for round in 0..200 {
        // Fill this thread's spare pages with known bytes, then use them in every way in which a part of a page stays
        // unwritten.
        write(&disk, 0, &[0xee; 8 * PAGE]);
        write_pages(&disk, 8 * PAGE as u64, 0, &[0xee; 8 * PAGE]);
        trim(&disk, 0, CHUNK);
        let at = round * 157 % PAGE as u64;
        match round % 4 {
            0 => write(&disk, at, b"x"),
            1 => write_pages(&disk, at, at, b"x"),
            2 => write_pages(&disk, at, at + 1, b"x"),
            _ => zero(&disk, at, 1, false),
        }
        let all = bytes_of(&read(&disk, 0, u32::try_from(16 * PAGE).unwrap()));
        assert!(!all.contains(&0xee), "round {round}");
        trim(&disk, 0, CHUNK);
    }
}

#[test]
fn a_long_trim_is_left_to_the_pool_and_a_long_hole_is_not() {
    let disk = MemoryDisk::new(MAX);
    let mut op = Op::Trim { at: 0, len: MAX, fua: false };
    assert_eq!(disk.try_execute(&mut op, &mut Answer::default()).unwrap(), Turn::Done);
    for i in 0..=WALK {
        write(&disk, i * PAGE as u64, b"x");
    }
    assert_eq!(disk.try_execute(&mut op, &mut Answer::default()).unwrap(), Turn::WouldBlock);
    execute_all(&disk, &mut op, &mut Answer::default()).unwrap();
    assert_eq!(disk.allocated(), 0);
}

#[test]
fn many_extents_are_cut_at_an_extents_end() {
    let disk = MemoryDisk::new(MAX);
    let count = EXTENTS as u64;
    for i in 0..count {
        write(&disk, i * 2 * PAGE as u64, b"x");
    }
    let listed = extents(&disk, 0, MAX, false);
    assert_eq!(listed.len(), EXTENTS);
    assert!(listed.iter().all(|extent| extent.len == PAGE as u64));
    assert_eq!(listed.iter().map(|extent| extent.len).sum::<u64>(), count * PAGE as u64);
}

/// A disk with one byte in each of its first chunks.
fn scattered(chunks: u64) -> MemoryDisk {
    let disk = MemoryDisk::new(MAX);
    (0..chunks).for_each(|i| write(&disk, i * CHUNK + 1, b"x"));
    disk
}

#[test]
fn extents_of_many_chunks_are_answered_some_chunks_at_a_time() {
    let chunks = 3 * LOOKED_AT as u64 + 7;
    let disk = scattered(chunks);
    let (mut at, mut asked, mut data) = (0, 0, 0);
    while at < MAX {
        let listed = extents(&disk, at, MAX - at, false);
        data += listed.iter().filter(|extent| !extent.hole).map(|extent| extent.len).sum::<u64>();
        let covered: u64 = listed.iter().map(|extent| extent.len).sum();
        at += covered;
        asked += 1;
        assert!(at == MAX || covered <= LOOKED_AT as u64 * CHUNK, "one answer covers {covered}");
    }
    assert_eq!((asked, data), (4, chunks * PAGE as u64));
}

#[test]
fn what_one_extent_costs_does_not_grow_with_the_disks_chunks() {
    let time = |disk: &MemoryDisk| {
        let once = || {
            let start = std::time::Instant::now();
            (0..500).for_each(|_| drop(extents(disk, 0, MAX, true)));
            start.elapsed()
        };
        (0..5).map(|_| once()).min().unwrap()
    };
    // A walk over all chunks would take 400 times as long.
    let (few, many) = (time(&scattered(8)), time(&scattered(4000)));
    assert!(many < 20 * few, "{few:?} with 8 chunks, {many:?} with 4000");
}

#[test]
fn a_trim_of_the_largest_disk_finds_its_chunks_wherever_they_are() {
    let disk = scattered(100);
    for shift in 30..62 {
        write(&disk, 1 << shift, b"x");
    }
    trim(&disk, CHUNK, MAX - CHUNK - 1);
    assert_eq!(disk.allocated(), PAGE as u64);
    write(&disk, MAX - 1, b"x");
    zero(&disk, 0, MAX, true);
    assert_eq!(disk.allocated(), 0);
    assert_eq!(extents(&disk, 0, MAX, true), [Extent { len: MAX, hole: true, zero: true }]);
}

#[test]
fn many_threads_see_old_or_new_bytes_and_no_others() {
    let disk = MemoryDisk::new(2 * CHUNK);
    let len = 3 * PAGE;
    std::thread::scope(|scope| {
        for byte in [1_u8, 2] {
            let disk = &disk;
            scope.spawn(move || {
                for round in 0..300_u64 {
                    let at = CHUNK - (round % 5) * 1000;
                    match round % 3 {
                        0 => write(disk, at, &vec![byte; len]),
                        1 => write_pages(disk, at, at, &vec![byte; len]),
                        _ => trim(disk, at, len as u64),
                    }
                }
            });
            scope.spawn(move || {
                for _ in 0..300 {
                    let bytes = bytes_of(&read(disk, CHUNK, u32::try_from(len).unwrap()));
                    assert!(bytes.iter().all(|byte| [0, 1, 2].contains(byte)));
                    extents(disk, 0, 2 * CHUNK, false);
                }
            });
        }
    });
    trim(&disk, 0, 2 * CHUNK);
    assert_eq!(disk.allocated(), 0);
}

#[derive(Debug, Clone)]
enum Step {
    Write(usize, usize, u8),
    Pages(usize, usize, usize, u8),
    Trim(usize, usize),
    Zero(usize, usize, bool),
    /// Reads, and keeps the lent pages until the end.
    Read(usize, usize),
    Extents(usize, usize),
}

/// The size of the disk: an odd number of bytes, more than two chunks.
const SIZE: usize = 2 * CHUNK_PAGES * PAGE + 5 * PAGE + 123;

/// Ranges that are short, or end at the edges of pages and chunks.
fn ranges() -> impl Strategy<Value = (usize, usize)> {
    let edges = prop::sample::select(vec![0, PAGE, 3 * PAGE, CHUNK_PAGES * PAGE, SIZE]);
    let at = prop_oneof![
        0..SIZE,
        (edges, 0_usize..40).prop_map(|(edge, off)| (edge + 20).saturating_sub(off))
    ];
    let len = prop_oneof![1_usize..100, 1..4 * PAGE, Just(PAGE), Just(2 * PAGE), Just(SIZE)];
    (at, len).prop_map(|(at, len)| (at.min(SIZE - 1), len)).prop_map(|(at, len)| {
        let at = at - at % if len % PAGE == 0 { PAGE } else { 1 };
        (at, len.min(SIZE - at))
    })
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (ranges(), any::<u8>()).prop_map(|((at, len), byte)| Step::Write(at, len, byte)),
        3 => (ranges(), prop_oneof![4 => Just(0_usize), 1 => 0_usize..99], any::<u8>())
            .prop_map(|((at, len), shift, byte)| Step::Pages(at, len, shift, byte)),
        2 => ranges().prop_map(|(at, len)| Step::Trim(at, len)),
        2 => (ranges(), any::<bool>()).prop_map(|((at, len), trim)| Step::Zero(at, len, trim)),
        3 => ranges().prop_map(|(at, len)| Step::Read(at, len)),
        1 => ranges().prop_map(|(at, len)| Step::Extents(at, len)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_memory_disk_behaves_as_an_array_of_bytes(steps in prop::collection::vec(steps(), 1..25)) {
        let disk = MemoryDisk::new(SIZE as u64);
        let mut model = vec![0_u8; SIZE];
        let mut lent = Vec::new();
        for step in steps {
            match step {
                Step::Write(at, len, byte) => {
                    model[at..at + len].fill(byte);
                    write(&disk, at as u64, &model[at..at + len]);
                }
                Step::Pages(at, len, shift, byte) => {
                    model[at..at + len].fill(byte);
                    write_pages(&disk, at as u64, (at + shift) as u64, &model[at..at + len]);
                }
                Step::Trim(at, len) => {
                    model[at..at + len].fill(0);
                    trim(&disk, at as u64, len as u64);
                }
                Step::Zero(at, len, may_trim) => {
                    model[at..at + len].fill(0);
                    zero(&disk, at as u64, len as u64, may_trim);
                }
                Step::Read(at, len) => {
                    let pieces = read(&disk, at as u64, u32::try_from(len).unwrap());
                    prop_assert!(bytes_of(&pieces) == model[at..at + len]);
                    lent.push((pieces, model[at..at + len].to_vec()));
                }
                Step::Extents(at, len) => {
                    let mut here = at;
                    for extent in extents(&disk, at as u64, len as u64, false) {
                        let end = here + usize::try_from(extent.len).unwrap();
                        prop_assert!(!extent.zero || is_zero(&model[here..end]));
                        here = end;
                    }
                    prop_assert_eq!(here, at + len);
                }
            }
        }
        for (pieces, bytes) in lent {
            prop_assert!(bytes_of(&pieces) == bytes, "a lent page changed");
        }
        let held = disk.shards.iter().flat_map(|shard| {
            let shard = shard.0.read().unwrap();
            shard.values().map(|chunk| chunk.used as u64).collect::<Vec<_>>()
        });
        prop_assert_eq!(held.sum::<u64>() * PAGE as u64, disk.allocated());
    }
}

#[test]
fn all_disks_together_take_no_more_than_their_budget() {
    let budget = Arc::new(MemoryBudget::new(4 * PAGE as u64));
    let disks: Vec<_> = (0..2).map(|_| MemoryDisk::within(1 << 40, Arc::clone(&budget))).collect();
    let page = PAGE as u64;
    write(&disks[0], 0, &[1; 3 * PAGE]);
    write(&disks[1], 5 * page, b"x");
    let full = |disk: &MemoryDisk, at| try_write(disk, at, b"x", false).unwrap_err().kind;
    assert_eq!(full(&disks[0], 1 << 30), Kind::NoSpace);
    assert_eq!(full(&disks[1], 0), Kind::NoSpace);
    let mut zero = Op::Zero { at: 0, len: 32 * page, fua: false, may_trim: false, fast: false };
    assert_eq!(run(&disks[1], &mut zero).unwrap_err().kind, Kind::NoSpace);
    // Pages that exist can be written again.
    write(&disks[0], 7, b"again");
    trim(&disks[0], page, page);
    write(&disks[1], 0, b"x");
    assert_eq!(full(&disks[1], 2 * page), Kind::NoSpace);
    drop(disks);
    assert_eq!(budget.used(), 0);
}
