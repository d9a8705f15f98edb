use proptest::prelude::*;

use super::*;
use disk::{MemoryDisk, testing::write};

const SECTORS: u64 = 20_000;

fn disk() -> MemoryDisk {
    let disk = MemoryDisk::new(SECTORS * 512);
    write(&disk, 510, &[0x55, 0xaa]);
    disk
}

/// An entry of the table in `sector`.
fn entry(disk: &MemoryDisk, sector: u64, i: u64, kind: u8, start: u32, len: u32) {
    let mut bytes = [0; 16];
    bytes[4] = kind;
    bytes[8..12].copy_from_slice(&start.to_le_bytes());
    bytes[12..].copy_from_slice(&len.to_le_bytes());
    write(disk, sector * 512 + 446 + 16 * i, &bytes);
    write(disk, sector * 512 + 510, &[0x55, 0xaa]);
}

fn find(disk: &MemoryDisk, number: u32) -> Result<Range<u64>, String> {
    let range = Wanted { number, sector: 512 }.find(disk).map_err(|error| error.to_string())?;
    Ok(range.start / 512..range.end / 512)
}

#[test]
fn primary_and_logical_partitions_are_found() {
    let disk = disk();
    entry(&disk, 0, 0, 0x83, 100, 50);
    entry(&disk, 0, 2, 0x05, 1000, 5000);
    entry(&disk, 1000, 0, 0x83, 10, 20);
    entry(&disk, 1000, 1, 0x05, 300, 100);
    entry(&disk, 1300, 0, 0x82, 5, 7);
    assert_eq!(find(&disk, 1), Ok(100..150));
    assert_eq!(find(&disk, 5), Ok(1010..1030));
    assert_eq!(find(&disk, 6), Ok(1305..1312));
    for missing in [2, 3, 4, 7, 128] {
        assert_eq!(find(&disk, missing), Err("there is no such partition".into()), "{missing}");
    }
}

#[test]
fn partitions_of_a_gpt_are_found() {
    let disk = disk();
    entry(&disk, 0, 0, 0xee, 1, 19_999);
    let mut header = [0; 92];
    header[..8].copy_from_slice(b"EFI PART");
    header[72..80].copy_from_slice(&2_u64.to_le_bytes());
    header[80..84].copy_from_slice(&4_u32.to_le_bytes());
    header[84..88].copy_from_slice(&128_u32.to_le_bytes());
    write(&disk, 512, &header);
    let partition = |i: u64, start: u64, last: u64| {
        let mut bytes = [0; 128];
        bytes[0] = 1;
        bytes[32..40].copy_from_slice(&start.to_le_bytes());
        bytes[40..48].copy_from_slice(&last.to_le_bytes());
        write(&disk, 1024 + 128 * (i - 1), &bytes);
    };
    partition(1, 64, 127);
    partition(3, 5000, SECTORS - 1);
    partition(4, 5000, SECTORS);
    assert_eq!(find(&disk, 1), Ok(64..128));
    assert_eq!(find(&disk, 3), Ok(5000..SECTORS));
    assert_eq!(find(&disk, 2), Err("there is no such partition".into()));
    assert_eq!(find(&disk, 4), Err("the partition reaches over the end of the disk".into()));
    assert_eq!(find(&disk, 5), Err("there is no such partition".into()));
    partition(1, 128, 5);
    assert_eq!(find(&disk, 1), Err("the partition table is damaged".into()));
    partition(1, 1, u64::MAX);
    assert_eq!(find(&disk, 1), Err("the partition table is damaged".into()));
}

#[test]
fn a_loop_of_logical_partitions_ends() {
    let disk = disk();
    entry(&disk, 0, 0, 0x0f, 1000, 5000);
    entry(&disk, 1000, 0, 0x83, 10, 20);
    entry(&disk, 1000, 1, 0x05, 0, 100);
    assert_eq!(find(&disk, 128), Ok(1010..1030));
}

#[test]
fn a_disk_without_a_table_is_reported() {
    for size in [0, 511, 512, 1 << 20] {
        assert_eq!(find(&MemoryDisk::new(size), 1), Err("there is no partition table".into()));
    }
}

proptest! {
    /// For any tables the answer is a range within the disk, or none.
    #[test]
    fn garbage_reaches_nothing_outside(
        sectors in proptest::collection::vec((0_u64..64, proptest::collection::vec(any::<u8>(), 512)), 1..8),
        gpt: bool,
        number in 1_u32..=128,
    ) {
        let disk = MemoryDisk::new(64 * 512);
        for (at, bytes) in sectors {
            write(&disk, at * 512, &bytes);
            write(&disk, at * 512 + 510, &[0x55, 0xaa]);
            // An extended partition with a valid start.
            write(&disk, at * 512 + 446 + 4, &[5, 0, 0, 0, bytes[0] % 64, 0, 0, 0]);
        }
        write(&disk, 510, &[0x55, 0xaa]);
        if gpt {
            write(&disk, 512, GPT_SIGNATURE);
        }
        for sector in [512, 4096] {
            if let Ok(range) = (Wanted { number, sector }).find(&disk) {
                prop_assert!(range.start < range.end && range.end <= 64 * 512);
            }
        }
    }
}
