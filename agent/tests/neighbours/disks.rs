//! Each plugin except `zero`, whose disk has no bytes.

use std::{fs::File, path::Path};

use support::agent::Agent;
use tempfile::TempDir;

use crate::{BINARY, quiet::Errors, work::Row};

pub(crate) fn sparse(path: &Path, size: u64) -> String {
    File::create(path).and_then(|file| file.set_len(size)).expect("a file");
    path.to_str().expect("UTF-8").to_owned()
}

/// A disk whose files are in `dir`.
fn on(dir: &TempDir) -> Row<'_> {
    Row { medium: Some(dir.path()), ..Row::default() }
}

#[test]
fn noise_on_memory_delays_nobody() {
    Row { contents_mib: 64, ..Row::default() }.run(&["memory", "64M"]);
}

#[test]
fn noise_on_file_delays_nobody() {
    let dir = TempDir::new().expect("a directory");
    on(&dir).run(&["file", &sparse(&dir.path().join("disk"), 64 << 20)]);
}

#[test]
fn noise_on_file_without_the_page_cache_delays_nobody() {
    let dir = TempDir::new().expect("a directory");
    on(&dir).run(&["file", &sparse(&dir.path().join("disk"), 64 << 20), "cache=none"]);
}

#[test]
fn noise_on_a_file_of_a_directory_delays_nobody() {
    let dir = TempDir::new().expect("a directory");
    sparse(&dir.path().join("disk"), 16 << 20);
    let words = format!("dir={}", dir.path().display());
    on(&dir).run(&["--filter=exportname", "file", &words, "default-export=disk"]);
}

#[test]
fn noise_on_split_delays_nobody() {
    let dir = TempDir::new().expect("a directory");
    let names = ["one", "two"].map(|name| sparse(&dir.path().join(name), 24 << 20));
    on(&dir).run(&["split", &names[0], &names[1]]);
}

#[test]
fn noise_on_data_delays_nobody() {
    Row { contents_mib: 16, ..Row::default() }.run(&["data", "( 0x55 0xAA )*65536", "size=16M"]);
}

#[test]
fn noise_on_tmpdisk_delays_nobody() {
    Row::default().run(&["tmpdisk", "4M", "command=truncate -s 4M \"$disk\""]);
}

#[test]
fn noise_on_ondemand_delays_nobody() {
    let dir = TempDir::new().expect("a directory");
    let words = format!("dir={}", dir.path().display());
    // An export is open for one client at a time.
    let row = Row { export: "quiet", ..on(&dir) };
    row.run(&["ondemand", "4M", &words, "command=truncate -s 4M \"$disk\""]);
}

#[test]
fn noise_on_another_server_by_a_connection_each_delays_nobody() {
    let far = Agent::serve(BINARY, &["memory", "64M"]);
    let words = format!("socket={}", far.socket().display());
    // One thread per connection reads what the other server sends.
    Row { threads: 80, ..Row::default() }.run(&["nbd", &words]);
}

#[test]
fn noise_on_another_server_by_one_connection_delays_nobody() {
    let far = Agent::serve(BINARY, &["memory", "64M"]);
    let words = format!("socket={}", far.socket().display());
    Row::default().run(&["nbd", &words, "shared=true"]);
}

/// As large as a disk can be.
const HUGE: &str = "4611686018427387904";

#[test]
fn noise_on_null_delays_nobody() {
    Row::default().run(&["null", HUGE]);
}

#[test]
fn noise_on_ones_delays_nobody() {
    Row { errors: Errors::Writes, ..Row::default() }.run(&["ones", HUGE]);
}

#[test]
fn noise_on_pattern_delays_nobody() {
    Row { errors: Errors::Writes, ..Row::default() }.run(&["pattern", HUGE]);
}

#[test]
fn noise_on_random_delays_nobody() {
    Row { errors: Errors::Writes, ..Row::default() }.run(&["random", HUGE]);
}

#[test]
fn noise_on_full_delays_nobody() {
    Row { errors: Errors::Writes, ..Row::default() }.run(&["full", HUGE]);
}
