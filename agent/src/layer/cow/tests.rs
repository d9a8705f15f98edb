use std::thread;

use proptest::prelude::*;

use super::*;
use disk::{
    Data, Identity, MemoryBudget, MemoryDisk,
    testing::{bytes_of, extents, read, run, trim, try_write, write, zero},
};

const SIZE: u64 = 300_001;

fn unlimited() -> Arc<MemoryBudget> {
    Arc::new(MemoryBudget::new(u64::MAX))
}

fn overlay(size: u64, block: u64) -> Arc<Overlay> {
    let overlay = Overlay::new(&std::env::temp_dir(), size, block, Identity::fresh(), unlimited());
    Arc::new(overlay.unwrap())
}

/// A disk without zero bytes, and an overlay around it.
fn cow(block: u64, on_read: OnRead) -> (Arc<MemoryDisk>, CowDisk) {
    let below = Arc::new(MemoryDisk::new(SIZE));
    write(&*below, 0, &original());
    let overlay = overlay(SIZE, block);
    let settings = Settings { block, on_cache: false, on_read };
    (Arc::clone(&below), CowDisk::new(below, overlay, settings))
}

fn original() -> Vec<u8> {
    (0..SIZE).map(|i| (i % 251) as u8 + 1).collect()
}

fn all(disk: &dyn Disk) -> Vec<u8> {
    bytes_of(&read(disk, 0, u32::try_from(SIZE).unwrap()))
}

#[derive(Debug, Clone)]
enum Act {
    Write(u64, u64, u8),
    Zero(u64, u64, bool),
    Trim(u64, u64),
    Cache(u64, u64),
}

fn act() -> impl Strategy<Value = Act> {
    // Often at the border of a block.
    let at = prop_oneof![0..SIZE, (0..SIZE / 4096).prop_map(|block| block * 4096)];
    let len = prop_oneof![1..5000_u64, (1..30_u64).prop_map(|blocks| blocks * 4096)];
    (at, len, any::<u8>(), 0..6_u8).prop_map(|(at, len, byte, kind)| {
        let len = len.min(SIZE - at);
        match kind {
            0..3 => Act::Write(at, len, byte),
            3 => Act::Zero(at, len, byte % 2 == 0),
            4 => Act::Trim(at, len),
            _ => Act::Cache(at, len),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// After any requests the disk reads like a copy in memory, and the disk below is unchanged.
    #[test]
    fn it_reads_as_a_copy_would(
        acts in proptest::collection::vec(act(), 1..40),
        large: bool,
        on_read: bool,
        on_cache: bool,
    ) {
        let on_read = if on_read { OnRead::Always } else { OnRead::Never };
        let (below, mut disk) = cow(if large { 65536 } else { 4096 }, on_read);
        disk.settings.on_cache = on_cache;
        let mut model = original();
        for act in acts {
            let range = |at: u64, len: u64| usize::try_from(at).unwrap()..usize::try_from(at + len).unwrap();
            match act {
                Act::Write(at, len, byte) => {
                    let bytes = vec![byte; usize::try_from(len).unwrap()];
                    write(&disk, at, &bytes);
                    model[range(at, len)].copy_from_slice(&bytes);
                }
                Act::Zero(at, len, may_trim) => {
                    zero(&disk, at, len, may_trim);
                    model[range(at, len)].fill(0);
                }
                Act::Trim(at, len) => {
                    trim(&disk, at, len);
                    // Trimmed bytes may be zeroes or unchanged.
                    let now = bytes_of(&read(&disk, at, u32::try_from(len).unwrap()));
                    let before = &mut model[range(at, len)];
                    for (now, before) in now.iter().zip(before) {
                        prop_assert!(*now == 0 || now == before);
                        *before = *now;
                    }
                }
                Act::Cache(at, len) => {
                    run(&disk, &mut Op::Cache { at, len }).unwrap();
                }
            }
        }
        prop_assert!(all(&disk) == model);
        prop_assert!(all(&*below) == original(), "nothing is written below");
        // A hole reads as zeroes.
        let mut at = 0;
        while at < SIZE {
            for extent in extents(&disk, at, SIZE - at, false) {
                let range = usize::try_from(at).unwrap()..usize::try_from(at + extent.len).unwrap();
                prop_assert!(!extent.zero || model[range].iter().all(|byte| *byte == 0));
                at += extent.len;
            }
        }
    }
}

#[test]
fn connections_that_write_parts_of_one_block_do_not_undo_each_other() {
    let (_, disk) = cow(65536, OnRead::Never);
    // Each thread has every eighth run of 100 bytes.
    thread::scope(|scope| {
        for thread in 0..8_u64 {
            let disk = &disk;
            scope.spawn(move || {
                for run in (thread..SIZE / 100).step_by(8) {
                    write(disk, run * 100, &[u8::try_from(thread).unwrap() + 100; 100]);
                    if run % 64 == thread {
                        let bytes = bytes_of(&read(disk, run * 100, 100));
                        assert_eq!(bytes, [u8::try_from(thread).unwrap() + 100; 100]);
                    }
                }
            });
        }
    });
    let end = usize::try_from(SIZE / 100 * 100).unwrap();
    let expected: Vec<u8> = (0..end).map(|i| (i / 100 % 8).to_le_bytes()[0] + 100).collect();
    assert!(all(&disk)[..end] == expected);
}

#[test]
fn extents_tell_the_overlay_the_disk_below_and_trimmed_blocks_apart() {
    let below = Arc::new(MemoryDisk::new(1 << 20));
    let overlay = overlay(1 << 20, 65536);
    let settings = Settings { block: 65536, on_cache: false, on_read: OnRead::Never };
    write(&*below, 0, &[1; 131_072]);
    let disk = CowDisk::new(below, overlay, settings);
    let map = || {
        let (mut at, mut map) = (0, Vec::<(u64, bool)>::new());
        while at < 1 << 20 {
            for extent in extents(&disk, at, (1 << 20) - at, false) {
                at += extent.len;
                match map.last_mut() {
                    Some((end, hole)) if *hole == extent.hole => *end = at,
                    _ => map.push((at, extent.hole)),
                }
            }
        }
        map
    };
    assert_eq!(map(), [(131_072, false), (1 << 20, true)]);
    trim(&disk, 0, 65536);
    write(&disk, 300_000, &[1; 10]);
    assert_eq!(
        map(),
        [(65536, true), (131_072, false), (262_144, true), (327_680, false), (1 << 20, true)]
    );
}

#[test]
fn the_last_block_may_be_short_and_a_disk_may_be_huge() {
    let (_, disk) = cow(65536, OnRead::Never);
    write(&disk, SIZE - 1, &[9]);
    assert_eq!(bytes_of(&read(&disk, SIZE - 2, 2)), [original()[original().len() - 2], 9]);
    let size = i64::MAX as u64;
    let overlay = overlay(size, 65536);
    let settings = Settings { block: 65536, on_cache: false, on_read: OnRead::Never };
    let disk = CowDisk::new(Arc::new(MemoryDisk::new(size)), overlay, settings);
    write(&disk, size - 3, b"end");
    assert_eq!(bytes_of(&read(&disk, size - 4, 4)), b"\0end");
    let mut op = Op::Write { at: 5, data: Data::Bytes(b"x"), fua: true };
    run(&disk, &mut op).unwrap();
}

#[test]
fn space_of_trimmed_blocks_is_used_again() {
    let (_, disk) = cow(4096, OnRead::Never);
    for _ in 0..100 {
        write(&disk, 0, &[1; 8192]);
        trim(&disk, 0, 8192);
    }
    write(&disk, 0, &[2; 8192]);
    assert!(disk.overlay.room() <= 2 * 4096, "{}", disk.overlay.room());
}

#[test]
fn one_request_takes_no_more_than_its_share_of_memory() {
    let size = i64::MAX as u64;
    let overlay = overlay(size, 65536);
    let settings = Settings { block: 65536, on_cache: false, on_read: OnRead::Never };
    let disk = CowDisk::new(Arc::new(MemoryDisk::new(size)), overlay, settings);
    trim(&disk, 0, size);
    let mut op = Op::Zero { at: 0, len: size, fua: false, may_trim: true, fast: false };
    assert_eq!(run(&disk, &mut op).unwrap_err().kind, DiskKind::NoMemory);
    assert_eq!(extents(&disk, size - 1, 1, true).len(), 1);
}

/// A disk with edited facts.
#[derive(Debug)]
struct Said {
    below: Arc<dyn Disk>,
    edit: fn(&mut DiskInfo),
}

impl Layer for Said {
    fn below(&self) -> &dyn Disk {
        &*self.below
    }

    fn info(&self) -> DiskInfo {
        let mut info = self.below.info();
        (self.edit)(&mut info);
        info
    }
}

fn memory(size: u64) -> Arc<dyn Disk> {
    Arc::new(MemoryDisk::new(size))
}

/// The disk of a client that opens `below` by this name.
fn over(overlays: &Overlays, name: &str, below: &Arc<dyn Disk>) -> Result<CowDisk, String> {
    let settings = Settings { block: 4096, on_cache: false, on_read: OnRead::Never };
    match overlays.of(name, &**below) {
        Ok(overlay) => Ok(CowDisk::new(Arc::clone(below), overlay, settings)),
        Err(crate::exports::OpenError::Failed(error)) => Err(error.source.unwrap().to_string()),
        Err(other) => panic!("{other:?}"),
    }
}

fn first_byte(disk: &dyn Disk) -> u8 {
    bytes_of(&read(disk, 0, 1))[0]
}

#[test]
fn an_overlay_is_found_again_by_the_next_client_and_ends_with_its_disk() {
    let overlays = Overlays::new(4096, unlimited());
    let (one, other) = (memory(8192), memory(8192));
    let first = over(&overlays, "a", &one).unwrap();
    write(&first, 0, b"x");
    let said = Disk::info(&first);
    assert_eq!(first_byte(&over(&overlays, "a", &one).unwrap()), b'x', "at the same time");
    assert_eq!(first_byte(&over(&overlays, "b", &one).unwrap()), 0, "another name");
    drop(first);
    let again = over(&overlays, "a", &one).unwrap();
    assert_eq!((first_byte(&again), Disk::info(&again)), (b'x', said.clone()));
    let replaced = over(&overlays, "a", &other).unwrap();
    assert_eq!(first_byte(&replaced), 0, "another disk");
    assert_ne!(Disk::info(&replaced).identity, said.identity);
    assert_eq!(first_byte(&again), b'x', "a client of the old overlay keeps it");
    assert_eq!(overlays.len(), 1);
}

#[test]
fn an_ephemeral_disk_has_an_overlay_of_its_own_that_is_not_kept() {
    let overlays = Overlays::new(4096, unlimited());
    let below: Arc<dyn Disk> =
        Arc::new(Said { below: memory(8192), edit: |info| info.ephemeral = true });
    let first = over(&overlays, "", &below).unwrap();
    write(&first, 0, b"x");
    assert!(Disk::info(&first).ephemeral && !Disk::info(&first).multi_conn);
    assert_eq!(first_byte(&over(&overlays, "", &below).unwrap()), 0);
    assert_eq!(overlays.len(), 0);
    let overlay = Arc::downgrade(&first.overlay);
    drop(first);
    assert!(overlay.upgrade().is_none());
}

#[test]
fn an_overlay_without_writes_is_not_kept_and_its_disk_has_the_same_identity() {
    let overlays = Overlays::new(4096, unlimited());
    let below = memory(8192);
    let said = Disk::info(&over(&overlays, "0", &below).unwrap());
    for name in 1..100 {
        over(&overlays, &name.to_string(), &below).unwrap();
        assert!(overlays.len() <= 2);
    }
    assert_eq!(
        Disk::info(&over(&overlays, "0", &below).unwrap()),
        said,
        "for a client that comes back"
    );
    write(&over(&overlays, "0", &below).unwrap(), 0, b"x");
    over(&overlays, "1", &below).unwrap();
    assert_eq!(first_byte(&over(&overlays, "0", &below).unwrap()), b'x');
}

#[test]
fn without_an_identity_the_name_decides() {
    let overlays = Overlays::new(4096, unlimited());
    let unknown = |size| -> Arc<dyn Disk> {
        Arc::new(Said { below: memory(size), edit: |info| info.identity = None })
    };
    let first = over(&overlays, "", &unknown(8192)).unwrap();
    assert_eq!(Disk::info(&first).identity, None);
    write(&first, 0, b"x");
    assert_eq!(first_byte(&over(&overlays, "", &unknown(8192)).unwrap()), b'x');
}

#[test]
fn an_overlay_follows_a_resize_of_its_disk() {
    let overlays = Overlays::new(4096, unlimited());
    // The same disk in several sizes: each byte is its number.
    let bytes: Vec<u8> = (0..40_000_u32).map(|at| (at % 251) as u8 + 1).collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    let sized = |size: u64| -> Arc<dyn Disk> {
        let len = usize::try_from(size).unwrap();
        std::fs::write(file.path(), &bytes[..len]).unwrap();
        Arc::new(disk::FileDisk::open(file.path(), disk::file::Options::default()).unwrap())
    };
    let whole =
        |disk: &CowDisk| bytes_of(&read(disk, 0, u32::try_from(Disk::info(disk).size).unwrap()));
    let disk = over(&overlays, "", &sized(10_000)).unwrap();
    write(&disk, 9_000, b"end");
    write(&disk, 5, b"begin");
    let error = over(&overlays, "", &sized(20_000)).unwrap_err();
    assert!(error.contains("wait until they have left"), "{error}");
    drop(disk);
    let mut expected = bytes.clone();
    expected[5..10].copy_from_slice(b"begin");
    expected[9_000..9_003].copy_from_slice(b"end");
    let larger = over(&overlays, "", &sized(20_000)).unwrap();
    assert!(whole(&larger) == expected[..20_000]);
    write(&larger, 15_000, b"gone");
    trim(&larger, 16_384, 20_000 - 16_384);
    drop(larger);
    // Within a block, and over several blocks.
    let shorter = over(&overlays, "", &sized(9_002)).unwrap();
    assert!(whole(&shorter) == expected[..9_002]);
    drop(shorter);
    expected[9_002] = bytes[9_002];
    let larger = over(&overlays, "", &sized(39_999)).unwrap();
    assert!(whole(&larger) == expected[..39_999]);
    assert_eq!(overlays.len(), 1);
    // A trimmed last block is zeroes, and the bytes after it are those of the disk.
    trim(&larger, 36_864, 39_999 - 36_864);
    drop(larger);
    let larger = over(&overlays, "", &sized(40_000)).unwrap();
    expected[36_864..39_999].fill(0);
    assert!(whole(&larger) == expected);
}

#[test]
fn the_map_is_bounded_by_the_budget_of_memory_disks() {
    let size = 1 << 50;
    let budget = Arc::new(MemoryBudget::new(1 << 20));
    let overlay =
        Overlay::new(&std::env::temp_dir(), size, 65536, Identity::fresh(), Arc::clone(&budget));
    let settings = Settings { block: 65536, on_cache: false, on_read: OnRead::Always };
    let below = Arc::new(MemoryDisk::new(size));
    let disk = CowDisk::new(below, Arc::new(overlay.unwrap()), settings);
    // Each block is in a group of its own.
    let far = |i: u64| i << 30;
    for i in 0..1000 {
        trim(&disk, far(i), 65536);
    }
    assert!(budget.used() > (1 << 20) - (1 << 16) && budget.used() <= 1 << 20);
    let error = try_write(&disk, far(2000), b"x", false).unwrap_err();
    assert_eq!((error.kind, error.verb, error.at), (DiskKind::NoSpace, Verb::Write, far(2000)));
    let mut zero = Op::Zero { at: far(2000), len: 65536, fua: false, may_trim: true, fast: false };
    assert_eq!(run(&disk, &mut zero).unwrap_err().kind, DiskKind::NoSpace);
    assert_eq!(bytes_of(&read(&disk, far(2000), 3)), [0; 3], "what would be copied is read below");
    write(&disk, far(3) + 65536, b"a neighbour of what is there");
    drop(disk);
    assert_eq!(budget.used(), 0);
}
