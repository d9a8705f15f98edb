//! `copy`, one behaviour a file: against the agent, nbdkit and qemu-nbd, with nbdcopy, nbdinfo and
//! qemu-img as judges.

mod changes;
mod ends;
mod faults;
mod holes;
mod kept;
mod layouts;
mod loops;
mod pipes;
mod same;
mod words;

use std::{
    fs,
    os::unix::fs::FileExt,
    path::Path,
    process::{Command, Output, Stdio},
};

use support::random::Random;

/// The guest-tools that cargo has built for these tests.
const TOOL: &str = env!("CARGO_BIN_EXE_guest-tools");

/// `guest-tools copy WORDS`.
fn copy(words: &[&str]) -> Output {
    let mut command = Command::new(TOOL);
    command.arg("copy").args(words).stdin(Stdio::null());
    command.output().expect("guest-tools starts")
}

/// What it says on standard error when it succeeds.
fn copies(words: &[&str]) -> String {
    let output = copy(words);
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{words:?}: {why}");
    why
}

/// What it says when it fails: one line.
fn fails(words: &[&str]) -> String {
    let output = copy(words);
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{words:?}: {why}");
    assert!(why.starts_with("guest-tools: error: ") && why.lines().count() == 1, "{why}");
    why
}

/// What it says to programs.
fn told(words: &[&str]) -> serde_json::Value {
    let output = copy(&[words, &["--json"]].concat());
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {why}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// A program that judges. What it prints.
fn judge(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output();
    let output = output.unwrap_or_else(|error| {
        panic!("{program}: {error}: apt-get install libnbd-bin nbdkit qemu-utils")
    });
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {words:?}: {why}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Runs `script` with `$tool` and `$uri` while nbdkit serves `plugin`; it must succeed.
fn under_nbdkit(options: &[&str], plugin: &[&str], script: &str) -> String {
    let whole = format!(
        "set -eu\nuri=\"nbd+unix:///?socket=$unixsocket\"\ncd \"$(mktemp -d)\"\n\
         trap 'rm -rf \"$PWD\"' EXIT\n{script}"
    );
    let output = Command::new("nbdkit")
        .args(["--unix", "-"])
        .args(options)
        .args(plugin)
        .args(["--run", &whole])
        .env("tool", TOOL)
        .output()
        .expect("nbdkit is needed for this test: apt-get install nbdkit");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{options:?} {plugin:?} {script}: {out}{said}");
    said
}

/// A sparse file: of `size` bytes, data in each of the ranges.
fn sparse(path: &Path, size: u64, data: &[(u64, u64)]) {
    let file = fs::File::create(path).expect("a file");
    file.set_len(size).expect("its length");
    let mut random = Random::new(size | 1);
    for &(at, len) in data {
        let len = len.min(size.saturating_sub(at));
        file.write_all_at(&random.bytes(len), at).expect("room");
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn is_same(one: &Path, other: &Path) -> bool {
    fs::read(one).expect("a file") == fs::read(other).expect("a file")
}
