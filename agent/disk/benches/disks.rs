//! The cost of a disk's requests, without the network: `cargo bench -p disk --bench disks`.
//!
//! Prints nanoseconds per request, and the memory that is freed when a memory disk is trimmed.

#![allow(clippy::unwrap_used, clippy::cast_precision_loss)]

use std::{
    fs::File,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use disk::{Answer, Data, Disk, FileDisk, MemoryDisk, Op, Pages, Turn, execute_all, file::Options};
use nix::time::{ClockId, clock_gettime};

const GIB: u64 = 1 << 30;
const TIME: Duration = Duration::from_millis(700);

/// xorshift64*: the same offsets in every run.
struct Offsets(u64);

impl Offsets {
    fn next(&mut self, of: u64, len: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8) % (of / len) * len
    }
}

/// Calls `request` for some time. Prints this thread's CPU time per call, in the best and in the median one of many
/// short intervals, since the machine may have other work.
fn measure(name: &str, mut request: impl FnMut()) {
    let mut spells = Vec::new();
    let start = Instant::now();
    while start.elapsed() < TIME {
        let (before, mut count) = (spent(), 0_u64);
        while count < 64 || spent().saturating_sub(before).as_micros() < 5000 {
            for _ in 0..16 {
                request();
            }
            count += 16;
        }
        spells.push(spent().saturating_sub(before).as_nanos() as f64 / count as f64);
    }
    spells.sort_by(f64::total_cmp);
    println!("{name:<48} best {:>9.1} ns, median {:>9.1} ns", spells[0], spells[spells.len() / 2]);
}

fn spent() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

fn read(disk: &dyn Disk, at: u64, len: u32, answer: &mut Answer) {
    answer.clear();
    let mut op = Op::Read { at, len };
    if disk.try_execute(&mut op, answer).unwrap() == Turn::WouldBlock {
        execute_all(disk, &mut op, answer).unwrap();
    }
    black_box(&answer);
}

fn write(disk: &dyn Disk, at: u64, data: Data<'_>) {
    let mut answer = Answer::default();
    let mut op = Op::Write { at, data, fua: false };
    if disk.try_execute(&mut op, &mut answer).unwrap() == Turn::WouldBlock {
        execute_all(disk, &mut op, &mut answer).unwrap();
    }
}

fn fill(disk: &dyn Disk, size: u64) {
    for at in (0..size).step_by(1 << 20) {
        write(disk, at, Data::Bytes(&[0x5a; 1 << 20]));
    }
}

/// The resident memory of this process, in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

fn memory() {
    let disk = MemoryDisk::new(i64::MAX as u64);
    let before = resident();
    let start = Instant::now();
    fill(&disk, GIB);
    println!(
        "memory: fill of 1 GiB: {:?}, {} MiB resident",
        start.elapsed(),
        (resident() - before) >> 20
    );
    reads("memory", &disk);
    let (mut offsets, bytes) = (Offsets(3), vec![1; 256 << 10]);
    measure("memory: write 4 KiB, random", || {
        write(&disk, offsets.next(GIB, 4096), Data::Bytes(&bytes[..4096]));
    });
    measure("memory: write 256 KiB, copied", || {
        write(&disk, offsets.next(GIB, 256 << 10), Data::Bytes(&bytes));
    });
    measure("memory: write 256 KiB, received into pages", || {
        let at = offsets.next(GIB, 256 << 10);
        let mut pages = Pages::room(at, 256 << 10);
        pages.copy_in(&bytes).unwrap();
        write(&disk, at, Data::Pages(&mut pages));
    });
    measure("memory: list extents of 32 MiB", || {
        let mut answer = Answer::default();
        let (at, len) = (offsets.next(GIB, 32 << 20), 32 << 20);
        disk.try_execute(&mut Op::Extents { at, len, one: false }, &mut answer).unwrap();
        black_box(answer);
    });
    // With a second thread, to see whether a lock costs time.
    let disk = Arc::new(disk);
    std::thread::scope(|scope| {
        for seed in [5, 6] {
            let disk = Arc::clone(&disk);
            scope.spawn(move || {
                let (mut offsets, mut answer) = (Offsets(seed), Answer::default());
                measure("memory: read 4 KiB, random, one of two threads", || {
                    read(&*disk, offsets.next(GIB, 4096), 4096, &mut answer);
                });
            });
        }
    });
    let start = Instant::now();
    let mut op = Op::Trim { at: 0, len: i64::MAX as u64, fua: false };
    execute_all(&*disk, &mut op, &mut Answer::default()).unwrap();
    let held = resident().saturating_sub(before) >> 20;
    println!("memory: trim of all: {:?}, {held} MiB stay resident", start.elapsed());
}

fn reads(name: &str, disk: &dyn Disk) {
    let (mut offsets, mut answer) = (Offsets(1), Answer::default());
    measure(&format!("{name}: read 4 KiB, the same"), || read(disk, 4096, 4096, &mut answer));
    measure(&format!("{name}: read 4 KiB, random"), || {
        read(disk, offsets.next(GIB, 4096), 4096, &mut answer);
    });
    measure(&format!("{name}: read 256 KiB, random"), || {
        read(disk, offsets.next(GIB, 256 << 10), 256 << 10, &mut answer);
    });
    measure(&format!("{name}: read 1 MiB, random"), || {
        read(disk, offsets.next(GIB, 1 << 20), 1 << 20, &mut answer);
    });
}

fn file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    File::create(&path).unwrap().set_len(GIB).unwrap();
    let disk = FileDisk::open(&path, Options::default()).unwrap();
    fill(&disk, GIB);
    reads("file", &disk);
    let (mut offsets, bytes) = (Offsets(3), vec![1; 4096]);
    measure("file: write 4 KiB, random", || {
        write(&disk, offsets.next(GIB, 4096), Data::Bytes(&bytes));
    });
}

fn main() {
    // `cargo test --all-targets` starts benches too, without this argument. There is nothing to do then.
    if !std::env::args().any(|word| word == "--bench") {
        return;
    }
    memory();
    file();
}
