//! Nothing is copied onto what it is read from, whatever the two are called.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use support::{
    random::Random,
    server::{Server, Transport::Unix},
};
use tempfile::TempDir;

use crate::{TOOL, copies, fails, is_same, loops::Loop, text};

const SIZE: u64 = 4 << 20;

/// A directory with a file of data in it, and the data.
fn disk() -> (TempDir, PathBuf, Vec<u8>) {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("file");
    let bytes = Random::new(3).bytes(SIZE);
    fs::write(&file, &bytes).expect("a file");
    (dir, file, bytes)
}

/// It is refused, and the file is as it was.
fn refused(from: &str, to: &str, file: &Path, bytes: &[u8], says: &str) {
    let why = fails(&[from, to]);
    assert!(why.contains(says), "{from} {to}: {why}");
    assert!(fs::read(file).expect("a file") == bytes, "{from} {to}: the file has changed");
}

#[test]
fn nothing_is_copied_onto_itself() {
    let server = Server::agent(TOOL, Unix);
    let (dir, file, bytes) = disk();
    let (hard, soft) = (dir.path().join("hard"), dir.path().join("soft"));
    fs::hard_link(&file, &hard).expect("a link");
    symlink(&file, &soft).expect("a link");
    for other in [&file, &hard, &soft] {
        refused(text(&file), text(other), &file, &bytes, "are the same");
        refused(text(other), text(&file), &file, &bytes, "are the same");
    }
    assert!(fails(&[&server.uri, &server.uri]).contains("are the same"));
}

#[test]
fn a_standard_stream_may_be_the_file() {
    let (_dir, file, bytes) = disk();
    let name = text(&file);
    let reading = || Stdio::from(File::open(&file).expect("a file"));
    let writing = || Stdio::from(OpenOptions::new().write(true).open(&file).expect("a file"));
    for (words, input, output) in [
        (["-", name], reading(), Stdio::null()),
        (["/dev/stdin", name], reading(), Stdio::null()),
        ([name, "-"], Stdio::null(), writing()),
        ([name, "/dev/stdout"], Stdio::null(), writing()),
        (["-", "-"], reading(), writing()),
    ] {
        let mut command = Command::new(TOOL);
        command.arg("copy").args(words).stdin(input).stdout(output);
        let output = command.output().expect("it starts");
        let why = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {why}");
        assert!(why.contains("are the same"), "{words:?}: {why}");
        assert!(fs::read(&file).expect("a file") == bytes, "{words:?}");
    }
    // What is not the file is copied, and one device that keeps nothing may be both.
    let other = file.with_extension("other");
    let mut command = Command::new(TOOL);
    command.args(["copy", "-", text(&other), "-q"]).stdin(reading());
    assert!(command.status().expect("it starts").success());
    assert!(is_same(&file, &other));
    copies(&["/dev/null", "/dev/null"]);
}

#[test]
fn a_loop_device_is_its_file() {
    let (dir, file, bytes) = disk();
    let Some(device) = Loop::over(&file, &[]) else { return };
    let Some(second) = Loop::over(Path::new(&device.device), &[]) else { return };
    let (hard, soft) = (dir.path().join("hard"), dir.path().join("soft"));
    fs::hard_link(&file, &hard).expect("a link");
    symlink(&file, &soft).expect("a link");
    for (upper, lower) in [
        (&*device.device, text(&file)),
        (&device.device, text(&hard)),
        (&device.device, text(&soft)),
        (&second.device, text(&file)),
        (&second.device, &device.device),
    ] {
        let says = format!("{upper} is made of {lower}");
        refused(upper, lower, &file, &bytes, &says);
        refused(lower, upper, &file, &bytes, &says);
    }
    // As standard input, too.
    let mut command = Command::new(TOOL);
    let input = File::open(&device.device).expect("a device");
    command.args(["copy", "-", text(&file)]).stdin(input);
    let output = command.output().expect("it starts");
    assert_eq!(output.status.code(), Some(1));
    assert!(fs::read(&file).expect("a file") == bytes);
    // The kernel knows the file when its name is another one's.
    fs::remove_file(&file).expect("a name");
    fs::write(&file, b"another").expect("a file");
    refused(&device.device, text(&hard), &hard, &bytes, "is made of");
    copies(&[&device.device, text(&file), "-q"]);
    assert!(is_same(&file, &hard));
}

#[test]
fn two_parts_of_one_file_are_not_the_same() {
    let (dir, file, bytes) = disk();
    let half = (SIZE / 2).to_string();
    let Some(first) = Loop::over(&file, &["--sizelimit", &half]) else { return };
    let Some(second) = Loop::over(&file, &["--offset", &half]) else { return };
    copies(&[&first.device, &second.device, "-q"]);
    let half = usize::try_from(SIZE / 2).expect("it fits");
    let twice = [&bytes[..half], &bytes[..half]].concat();
    assert!(fs::read(&file).expect("a file") == twice);
    // A copy beside it is a copy.
    copies(&[&first.device, text(&dir.path().join("copied")), "-q"]);
}

#[test]
fn a_partition_is_a_part_of_its_disk() {
    let (dir, file, mut bytes) = disk();
    // A table with one partition: of Linux, 2 MiB at 1 MiB.
    bytes[446..512].fill(0);
    bytes[450] = 0x83;
    bytes[454..458].copy_from_slice(&2048_u32.to_le_bytes());
    bytes[458..462].copy_from_slice(&4096_u32.to_le_bytes());
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    fs::write(&file, &bytes).expect("a file");
    let Some(disk) = Loop::over(&file, &["--partscan"]) else { return };
    let name = disk.device.trim_start_matches("/dev/");
    let number = fs::read_to_string(format!("/sys/class/block/{name}p1/dev"));
    // The kernel may know of it without a name in /dev.
    let partition = dir.path().join("partition");
    let made = number.ok().filter(|number| {
        let (major, minor) = number.trim().split_once(':').expect("two numbers");
        let made = Command::new("mknod").arg(&partition).args(["b", major, minor]).status();
        made.is_ok_and(|status| status.success()) && File::open(&partition).is_ok()
    });
    let Some(_) = made else {
        eprintln!("no partitions of loop devices here");
        return;
    };
    let partition = text(&partition);
    for lower in [&disk.device, text(&file)] {
        let says = format!("{partition} is made of {lower}");
        refused(partition, lower, &file, &bytes, &says);
        refused(lower, partition, &file, &bytes, &says);
    }
}

#[test]
fn a_file_is_lost_with_what_its_filesystem_is_on() {
    let (dir, image, _) = disk();
    let script = r#"set -e
        mkfs.ext4 -q -F "$1"
        mkdir "$2"
        mount -o loop "$1" "$2""#;
    let mount = dir.path().join("mount");
    let mounted = Command::new("unshare")
        .args([
            "--mount",
            "sh",
            "-c",
            &format!(
                "{script}\n{}",
                r#"
            head -c 300000 /dev/urandom > "$2/source"
            sync "$2/source"
            if "$tool" copy "$2/source" "$1" 2> "$3/why"; then echo copied > "$3/why"; fi
            # The other way nothing is lost.
            "$tool" copy "$1" "$2/target" -q --no-extents || echo "cannot be copied" >> "$3/why"
            umount "$2""#
            ),
            "sh",
        ])
        .args([&image, &mount])
        .arg(dir.path())
        .env("tool", TOOL)
        .output();
    let why = fs::read_to_string(dir.path().join("why")).unwrap_or_default();
    match mounted {
        Ok(output) if output.status.success() => {
            assert!(why.contains("/source is made of ") && why.lines().count() == 1, "{why}");
        }
        other => {
            assert!(why.is_empty(), "{why}: {other:?}");
            eprintln!("no filesystem in a file can be mounted here: {other:?}");
        }
    }
}
