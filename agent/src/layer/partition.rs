//! Serves one partition of a disk: nbdkit-partition-filter(1).
//!
//! The table is read when an export is opened, and it is not trusted: no byte outside the disk is reached, and a loop of
//! logical partitions ends.

use std::{ops::Range, sync::Arc};

use thiserror::Error;

use super::{Entry, refuse, window};
use crate::{
    exports::OpenError,
    params::{Key, Params},
    stack::BuildError,
};
use disk::{Disk, DiskError};

/// The highest number of a partition. A GPT usually has 128 entries.
const HIGHEST: u32 = 128;
const MBR: usize = 512;
/// Offset of the four entries in the table of an MBR or an extended partition.
const ENTRIES: usize = 446;
const GPT_SIGNATURE: &[u8] = b"EFI PART";

pub(super) const ENTRY: Entry = Entry {
    name: "partition",
    about: "Serve one partition of the disk (GPT or MBR)",
    keys: &[
        Key::once(
            "partition",
            "N",
            "Number of the partition, from 1; from 5 on logical partitions of an MBR",
        ),
        Key::once("partition-sectorsize", "512|4K", "Bytes in a sector [default: 512]"),
    ],
    build: |params, stack, _| {
        let wanted = Wanted::parse(params)?;
        Ok(stack.each_later(move |below, permit| {
            Box::pin(async move {
                // Reading the table may block.
                permit.blocking(move || wanted.window(below)).await?
            })
        }))
    },
};

#[derive(Debug, Error)]
enum NoPartition {
    #[error("there is no partition table")]
    NoTable,
    #[error("there is no such partition")]
    Missing,
    #[error("the partition table is damaged")]
    Damaged,
    #[error("the partition reaches over the end of the disk")]
    TooLong,
    #[error("the partition table cannot be read: {0}")]
    Read(#[from] DiskError),
}

/// The reason is part of the message, because the log shows one cause of an error.
#[derive(Debug, Error)]
#[error("filter partition: partition={number} of {size} bytes: {why}")]
struct Refused {
    number: u32,
    size: u64,
    why: NoPartition,
}

#[derive(Debug, Clone, Copy)]
struct Wanted {
    number: u32,
    sector: u64,
}

impl Wanted {
    fn parse(params: &Params<'_>) -> Result<Self, BuildError> {
        let text = params.needed("partition")?;
        let number: u32 = params.number("partition")?.unwrap_or(0);
        if !(1..=HIGHEST).contains(&number) {
            let what = "a partition's number";
            return Err(params.wrong("partition", text, what, "write 1 to 128").into());
        }
        let sector = match params.size("partition-sectorsize")? {
            None | Some(512) => 512,
            Some(4096) => 4096,
            Some(other) => {
                let other = other.to_string();
                let what = "a sector's size";
                let key = "partition-sectorsize";
                return Err(params.wrong(key, &other, what, "write 512 or 4K").into());
            }
        };
        Ok(Self { number, sector })
    }

    /// The partition as a disk.
    fn window(self, below: Arc<dyn Disk>) -> Result<Arc<dyn Disk>, OpenError> {
        let (number, size) = (self.number, below.info().size);
        let refused = |why| refuse(Refused { number, size, why });
        let range = self.find(&*below).map_err(refused)?;
        let window = window::Window::new(below, range.start, range.end - range.start);
        window.map(|window| Arc::new(window) as _).ok_or_else(|| refused(NoPartition::TooLong))
    }

    /// Where the partition lies, in bytes of the disk.
    fn find(self, disk: &dyn Disk) -> Result<Range<u64>, NoPartition> {
        let size = disk.info().size;
        if size < MBR as u64 {
            return Err(NoPartition::NoTable);
        }
        let mbr = window::read(disk, 0, 512)?;
        if mbr[510..512] != [0x55, 0xaa] {
            return Err(NoPartition::NoTable);
        }
        let sectors = match self.read(disk, 1)? {
            Some(header) if header.starts_with(GPT_SIGNATURE) => self.gpt(disk, &header)?,
            _ => self.mbr(disk, &mbr)?,
        };
        let byte = |sector: u64| sector.checked_mul(self.sector).ok_or(NoPartition::Damaged);
        let range = byte(sectors.start)?..byte(sectors.end)?;
        if range.is_empty() {
            return Err(NoPartition::Damaged);
        }
        if range.end > size {
            return Err(NoPartition::TooLong);
        }
        Ok(range)
    }

    /// The first 512 bytes of a sector; `None` beyond the end of the disk.
    fn read(self, disk: &dyn Disk, sector: u64) -> Result<Option<Vec<u8>>, NoPartition> {
        let at = sector.checked_mul(self.sector).ok_or(NoPartition::Damaged)?;
        if at.checked_add(512).is_none_or(|end| end > disk.info().size) {
            return Ok(None);
        }
        Ok(Some(window::read(disk, at, 512)?))
    }

    /// The sectors of the partition by the GPT (UEFI specification, 5.3).
    fn gpt(self, disk: &dyn Disk, header: &[u8]) -> Result<Range<u64>, NoPartition> {
        let (first, count, len) = (le64(header, 72), le32(header, 80), le32(header, 84));
        if !(128..=4096).contains(&len) || !len.is_multiple_of(8) {
            return Err(NoPartition::Damaged);
        }
        if self.number > count {
            return Err(NoPartition::Missing);
        }
        let at = first
            .checked_mul(self.sector)
            .and_then(|at| at.checked_add(u64::from(self.number - 1) * u64::from(len)))
            .filter(|at| at.checked_add(128).is_some_and(|end| end <= disk.info().size))
            .ok_or(NoPartition::Damaged)?;
        let entry = window::read(disk, at, 128)?;
        if entry[..16] == [0; 16] {
            return Err(NoPartition::Missing);
        }
        let (start, last) = (le64(&entry, 32), le64(&entry, 40));
        Ok(start..last.checked_add(1).ok_or(NoPartition::Damaged)?)
    }

    fn mbr(self, disk: &dyn Disk, mbr: &[u8]) -> Result<Range<u64>, NoPartition> {
        let entries = (0..4).map(|i| MbrEntry::of(mbr, i));
        if self.number <= 4 {
            let found = entries.clone().nth(self.number as usize - 1);
            let found = found.filter(|entry| entry.is_used() && !entry.is_extended());
            return found.map(|entry| entry.range(0)).ok_or(NoPartition::Missing);
        }
        let extended = entries.clone().find(MbrEntry::is_extended).ok_or(NoPartition::Missing)?;
        let base = u64::from(extended.start);
        let mut table = base;
        // The number of the partition bounds the steps, so a loop ends.
        for _ in 5..self.number {
            let next = MbrEntry::of(&self.logical(disk, table)?, 1);
            if !next.is_extended() {
                return Err(NoPartition::Missing);
            }
            table = base + u64::from(next.start);
        }
        let entry = MbrEntry::of(&self.logical(disk, table)?, 0);
        Some(entry)
            .filter(MbrEntry::is_used)
            .map(|entry| entry.range(table))
            .ok_or(NoPartition::Missing)
    }

    /// The table at the start of a logical partition.
    fn logical(self, disk: &dyn Disk, sector: u64) -> Result<Vec<u8>, NoPartition> {
        let table = self.read(disk, sector)?.ok_or(NoPartition::Damaged)?;
        if table[510..512] != [0x55, 0xaa] {
            return Err(NoPartition::Damaged);
        }
        Ok(table)
    }
}

#[derive(Debug, Clone, Copy)]
struct MbrEntry {
    kind: u8,
    start: u32,
    len: u32,
}

impl MbrEntry {
    fn of(table: &[u8], i: usize) -> Self {
        let at = ENTRIES + 16 * i;
        Self { kind: table[at + 4], start: le32(table, at + 8), len: le32(table, at + 12) }
    }

    fn is_used(&self) -> bool {
        self.kind != 0 && self.len != 0
    }

    fn is_extended(&self) -> bool {
        matches!(self.kind, 0x05 | 0x0f | 0x85)
    }

    /// The sectors of the disk, where `start` counts from `base`.
    fn range(self, base: u64) -> Range<u64> {
        let start = base + u64::from(self.start);
        start..start + u64::from(self.len)
    }
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from(le32(bytes, at)) | u64::from(le32(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests;
