//! Each filter, over the disk with which it has the most work.

use std::{fs, time::Duration};

use tempfile::TempDir;

use crate::{quiet::Errors, work::Row};

/// As large as a disk can be.
const HUGE: &str = "4611686018427387904";

fn over_memory(filter: &str, words: &[&str]) {
    let filter = format!("--filter={filter}");
    let words = [&[&filter, "memory", "64M"], words].concat();
    Row { contents_mib: 64, ..Row::default() }.run(&words);
}

fn over_nothing(filter: &str, words: &[&str]) {
    let filter = format!("--filter={filter}");
    Row::default().run(&[&[&filter, "null", HUGE], words].concat());
}

#[test]
fn noise_on_cow_delays_nobody() {
    Row::default().run(&["--filter=cow", "pattern", "64M"]);
}

#[test]
fn noise_on_cow_of_a_huge_disk_delays_nobody() {
    // The maps of overlays count as contents of disks.
    let row = Row { errors: Errors::Writes, contents_mib: 64, ..Row::default() };
    row.run(&["--memory-max=64M", "--filter=cow", "pattern", HUGE, "cow-on-cache=true"]);
}

#[test]
fn noise_on_protect_delays_nobody() {
    let words = ["--filter=protect", "null", HUGE, "protect=~0-4294967295"];
    Row { errors: Errors::Writes, ..Row::default() }.run(&words);
}

#[test]
fn noise_on_truncate_delays_nobody() {
    over_memory("truncate", &["truncate=50000000"]);
}

#[test]
fn noise_on_offset_delays_nobody() {
    over_memory("offset", &["offset=12345"]);
}

#[test]
fn noise_on_partition_delays_nobody() {
    let dir = TempDir::new().expect("a directory");
    let path = dir.path().join("disk");
    let mut table = vec![0; 32 << 20];
    // One entry of an MBR: type, first sector and sectors.
    table[0x1be + 4] = 0x83;
    table[0x1be + 8..0x1be + 12].copy_from_slice(&63u32.to_le_bytes());
    table[0x1be + 12..0x1be + 16].copy_from_slice(&65_000u32.to_le_bytes());
    table[510..512].copy_from_slice(&[0x55, 0xaa]);
    fs::write(&path, table).expect("a file");
    let path = path.to_str().expect("UTF-8");
    Row::default().run(&["--filter=partition", "file", path, "partition=1"]);
}

#[test]
fn noise_on_multi_conn_delays_nobody() {
    over_memory("multi-conn", &["multi-conn-mode=emulate"]);
}

#[test]
fn noise_on_zeroes_as_data_delays_nobody() {
    over_memory("nozero", &["zeromode=emulate"]);
}

#[test]
fn noise_on_zeroes_as_data_of_a_huge_disk_delays_nobody() {
    over_nothing("nozero", &["zeromode=emulate"]);
}

#[test]
fn noise_on_cache_by_reading_delays_nobody() {
    over_nothing("nocache", &["cachemode=emulate"]);
}

#[test]
fn noise_on_fua_by_flushing_delays_nobody() {
    over_memory("fua", &["fuamode=emulate"]);
}

#[test]
fn noise_on_log_delays_nobody() {
    let dir = TempDir::new().expect("a directory");
    over_memory("log", &[&format!("logfile={}", dir.path().join("log").display())]);
}

#[test]
fn noise_on_stats_delays_nobody() {
    let dir = TempDir::new().expect("a directory");
    over_memory("stats", &[&format!("statsfile={}", dir.path().join("stats").display())]);
}

#[test]
fn noise_on_rate_of_each_connection_delays_nobody() {
    over_memory("rate", &["connection-rate=100M"]);
}

#[test]
fn noise_on_delay_delays_nobody() {
    let own = Duration::from_millis(5);
    let row = Row { own, contents_mib: 64, ..Row::default() };
    row.run(&["--filter=delay", "memory", "64M", "rdelay=5ms", "wdelay=5ms", "delay-open=5ms"]);
}

#[test]
fn noise_on_error_delays_nobody() {
    let row = Row { errors: Errors::All, contents_mib: 64, ..Row::default() };
    row.run(&["--filter=error", "memory", "64M", "error-rate=10%"]);
}

#[test]
fn noise_on_pause_delays_nobody() {
    let dir = TempDir::new().expect("a directory");
    over_memory("pause", &[&format!("pause-control={}", dir.path().join("control").display())]);
}

#[test]
fn noise_on_readonly_delays_nobody() {
    let row = Row { errors: Errors::Writes, contents_mib: 64, ..Row::default() };
    row.run(&["--filter=readonly", "memory", "64M"]);
}

#[test]
fn noise_on_blocksize_policy_delays_nobody() {
    over_memory("blocksize-policy", &["blocksize-minimum=512", "blocksize-error-policy=error"]);
}

#[test]
fn noise_on_noextents_delays_nobody() {
    over_memory("noextents", &[]);
}

#[test]
fn noise_on_limit_and_ip_delays_nobody() {
    let words = ["--filter=limit", "--filter=ip", "memory", "64M", "limit=1000", "allow=all"];
    Row { contents_mib: 64, ..Row::default() }.run(&words);
}

#[test]
fn noise_on_exitwhen_delays_nobody() {
    over_memory("exitwhen", &["exit-when-file-created=/nonexistent"]);
}
