//! The agent with common clients: libnbd's tools, QEMU's, fio.

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt, MetadataExt},
    process::Command,
};

use support::{
    agent::Agent,
    process::{python, succeeds as run},
    random::Random,
};

/// The agent, built by cargo for these tests.
const BINARY: &str = env!("CARGO_BIN_EXE_agent");

fn uri(agent: &Agent) -> String {
    format!("nbd+unix:///?socket={}", agent.socket().display())
}

/// Runs Python with a connected libnbd handle `h`.
fn nbdsh(agent: &Agent, before: &str, script: &str) -> String {
    let uri = uri(agent);
    let script = format!("import nbd\nh = nbd.NBD()\n{before}\nh.connect_uri({uri:?})\n{script}\n");
    python(&script, &[])
}

#[test]
fn nbdinfo_shows_what_the_disk_can_do() {
    let agent = Agent::serve(BINARY, &["memory", "1G"]);
    let info = run("nbdinfo", "libnbd-bin", &[&uri(&agent)]);
    for line in [
        "export-size: 1073741824",
        "base:allocation",
        "is_read_only: false",
        "can_cache: true",
        "can_df: true",
        "can_fast_zero: true",
        "can_flush: true",
        "can_fua: true",
        "can_multi_conn: true",
        "can_trim: true",
        "can_zero: true",
        "block_size_minimum: 1",
        "block_size_preferred: 4096",
        "block_size_maximum: 33554432",
    ] {
        assert!(info.contains(line), "{line:?} is missing in {info}");
    }
    assert!(run("nbdinfo", "libnbd-bin", &["--list", &uri(&agent)]).contains("export=\"\""));
}

#[test]
fn readonly_is_told_and_kept() {
    let agent = Agent::serve(BINARY, &["-r", "memory", "1M"]);
    let said = nbdsh(
        &agent,
        "h.set_strict_mode(0)",
        "print(h.is_read_only())
for f in (lambda: h.pwrite(b'x' * 512, 0), lambda: h.zero(512, 0), lambda: h.trim(512, 0)):
    try:
        f()
    except nbd.Error as error:
        print(error.errno)",
    );
    assert_eq!(said, "True\nEPERM\nEPERM\nEPERM\n");
}

#[test]
fn libnbd_reads_what_it_wrote_in_every_framing() {
    let agent = Agent::serve(BINARY, &["memory", "64M"]);
    for before in ["", "h.set_request_structured_replies(False)"] {
        let said = nbdsh(
            &agent,
            before,
            "import os
data = os.urandom(3000001)
h.pwrite(data, 12345, nbd.CMD_FLAG_FUA)
h.flush()
print(bytes(h.pread(len(data), 12345)) == data)
h.zero(100000, 20000)
print(bytes(h.pread(100000, 20000)) == bytes(100000))
h.zero(100000, 220000, nbd.CMD_FLAG_NO_HOLE)
h.trim(h.get_size(), 0)
h.cache(4096, 0)
print(bytes(h.pread(1 << 20, 12345)) == bytes(1 << 20))
h.shutdown()",
        );
        assert_eq!(said, "True\nTrue\nTrue\n", "{before}");
    }
}

#[test]
fn reads_past_the_end_and_unknown_commands_are_errors_and_the_connection_lives() {
    let agent = Agent::serve(BINARY, &["memory", "1M"]);
    let said = nbdsh(
        &agent,
        "h.set_strict_mode(0)",
        "def failed(f):
    try:
        f()
        print('no error')
    except nbd.Error as error:
        print(error.errno)
size = h.get_size()
failed(lambda: h.pread(512, size))
failed(lambda: h.pwrite(b'x' * 512, size))
failed(lambda: h.pwrite(b'x' * 512, size - 1))
failed(lambda: h.zero(512, size))
failed(lambda: h.trim(512, size))
failed(lambda: h.pread(512, 0, 0x4000))
print(len(h.pread(65536, 0, nbd.CMD_FLAG_DF)))
print(len(h.pread(512, size - 512)))",
    );
    assert_eq!(said, "EINVAL\nENOSPC\nENOSPC\nENOSPC\nEINVAL\nEINVAL\n65536\n512\n");
}

#[test]
fn block_status_tells_holes_from_data() {
    let agent = Agent::serve(BINARY, &["memory", "8G"]);
    let said = nbdsh(
        &agent,
        "h.add_meta_context('base:allocation')",
        "h.pwrite(b'x' * 65536, 1 << 20)
def status(count, offset, flags=0):
    seen = []
    h.block_status(count, offset, lambda c, o, e, err: seen.extend(e), flags)
    print(seen)
status(2 << 20, 0)
status(2 << 20, 0, nbd.CMD_FLAG_REQ_ONE)
status(100, 1 << 20, nbd.CMD_FLAG_REQ_ONE)
status(0xffffffff, 2 << 20)
status(512, h.get_size() - 512)",
    );
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines[0], "[1048576, 3, 65536, 0, 983040, 3]");
    assert_eq!(lines[1], "[1048576, 3]");
    assert_eq!(lines[2], "[100, 0]");
    assert_eq!(lines[3], "[4294967295, 3]");
    assert_eq!(lines[4], "[512, 3]");
}

#[test]
fn a_sparse_read_comes_as_a_hole() {
    let agent = Agent::serve(BINARY, &["memory", "8M"]);
    let said = nbdsh(
        &agent,
        "",
        "h.pwrite(b'x' * 65536, 0)
seen = []
h.pread_structured(131072, 0, lambda data, offset, status, err: seen.append((offset, status, len(data))))
print(seen)",
    );
    // 2 is LIBNBD_READ_HOLE: no bytes were sent, libnbd made the zeroes.
    assert_eq!(said.trim(), "[(0, 1, 65536), (65536, 2, 65536)]");
}

#[test]
fn a_flush_covers_what_another_connection_was_answered() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("disk");
    File::create(&path).and_then(|file| file.set_len(1 << 20)).expect("a file");
    let agent = Agent::serve(BINARY, &["file", path.to_str().expect("UTF-8")]);
    let said = nbdsh(
        &agent,
        "",
        &format!(
            "g = nbd.NBD()
g.connect_uri({:?})
print(h.can_multi_conn(), g.can_multi_conn())
for i in range(100):
    h.pwrite(bytes([i]) * 512, i * 512)
    g.flush()
    assert bytes(g.pread(512, i * 512)) == bytes([i]) * 512",
            uri(&agent)
        ),
    );
    assert_eq!(said, "True True\n");
    assert_eq!(fs::read(&path).expect("the file")[512 * 99], 99);
}

#[test]
fn nbdcopy_brings_an_image_in_and_out_and_holes_stay_holes() {
    let dir = tempfile::tempdir().expect("a directory");
    let (image, disk, back) =
        (dir.path().join("image"), dir.path().join("disk"), dir.path().join("back"));
    let data = Random::new(1).bytes(3 << 20);
    let file = File::create(&image).expect("a file");
    file.set_len(64 << 20).expect("a size");
    file.write_all_at(&data, 1 << 20).expect("data");
    file.write_all_at(&data, 40 << 20).expect("data");
    File::create(&disk).and_then(|file| file.set_len(64 << 20)).expect("a file");
    for words in [&["memory", "64M"][..], &["file", disk.to_str().expect("UTF-8")]] {
        let agent = Agent::serve(BINARY, words);
        let image = image.to_str().expect("UTF-8");
        let back = back.to_str().expect("UTF-8");
        run("nbdcopy", "libnbd-bin", &[image, &uri(&agent)]);
        run("nbdcopy", "libnbd-bin", &["--flush", &uri(&agent), back]);
        run("cmp", "diffutils", &[image, back]);
        let blocks = fs::metadata(back).expect("a file").blocks() * 512;
        assert!(blocks < 16 << 20, "{blocks} bytes of a copy of 6 MiB of data");
        fs::remove_file(back).expect("a file");
    }
    let blocks = fs::metadata(&disk).expect("a file").blocks() * 512;
    assert!(blocks < 16 << 20, "{blocks} bytes of a disk of 6 MiB of data");
}

#[test]
fn qemu_writes_verifies_and_discards() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = dir.path().join("disk");
    File::create(&disk).and_then(|file| file.set_len(256 << 20)).expect("a file");
    let disk = disk.to_str().expect("UTF-8").to_owned();
    let direct = format!("file={disk}");
    for words in [&["memory", "256M"][..], &["file", &disk], &["file", &direct, "cache=none"]] {
        let agent = Agent::serve(BINARY, words);
        let uri = uri(&agent);
        let commands = [
            "write -P 0x11 0 40M",
            "write -P 0x22 1234567 7654321",
            "read -P 0x22 1234567 7654321",
            "read -P 0x11 0 1234567",
            "write -z 10M 5M",
            "read -P 0 10M 5M",
            "write -f -P 0x33 4096 4096",
            "discard 20M 5M",
            "read -P 0x33 4096 4096",
            "aio_write -P 0x44 100M 1M",
            "aio_write -P 0x55 101M 1M",
            "aio_flush",
            "flush",
            "read -P 0x44 100M 1M",
            "read -P 0x55 101M 1M",
        ];
        let mut args = vec!["-f", "raw"];
        for command in &commands {
            args.extend(["-c", command]);
        }
        args.push(&uri);
        let said = run("qemu-io", "qemu-utils", &args);
        assert!(!said.contains("failed") && !said.contains("error"), "{words:?}: {said}");
    }
}

#[test]
fn fio_verifies_random_writes_at_depth() {
    let agent = Agent::serve(BINARY, &["memory", "64M"]);
    let said = run(
        "fio",
        "fio",
        &[
            "--name=verify",
            "--ioengine=nbd",
            &format!("--uri={}", uri(&agent)),
            "--rw=randwrite",
            "--bsrange=512-64k",
            "--blockalign=512",
            "--size=64M",
            "--io_size=32M",
            "--iodepth=32",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--verify_state_save=0",
            "--minimal",
        ],
    );
    assert!(!said.is_empty());
}

#[test]
fn a_directory_serves_its_files_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a directory");
    let served = dir.path().join("served");
    fs::create_dir(&served).expect("a directory");
    fs::write(served.join("one"), [1; 4096]).expect("a file");
    fs::write(served.join("two"), [2; 8192]).expect("a file");
    fs::write(dir.path().join("secret"), [3; 4096]).expect("a file");
    std::os::unix::fs::symlink("../secret", served.join("link")).expect("a link");
    let agent = Agent::serve(BINARY, &["file", &format!("dir={}", served.display())]);
    let named = |name: &str| format!("nbd+unix:///{name}?socket={}", agent.socket().display());
    assert_eq!(run("nbdinfo", "libnbd-bin", &["--size", &named("one")]).trim(), "4096");
    assert_eq!(run("nbdinfo", "libnbd-bin", &["--size", &named("two")]).trim(), "8192");
    let list = run("nbdinfo", "libnbd-bin", &["--list", &uri(&agent)]);
    assert!(list.contains("export=\"one\"") && list.contains("export=\"two\""), "{list}");
    assert!(!list.contains("secret"), "{list}");
    for name in ["", "three", "link", "../secret", "%2e%2e%2fsecret", ".", "..", "served", "one/"] {
        let output = Command::new("nbdinfo").args(["--size", &named(name)]).output();
        assert!(!output.expect("nbdinfo").status.success(), "{name:?} was served");
    }
}

#[test]
fn full_has_no_space_and_null_forgets() {
    let agent = Agent::serve(BINARY, &["full", "1M"]);
    let said = nbdsh(
        &agent,
        "",
        "try:
    h.pwrite(b'x' * 512, 0)
except nbd.Error as error:
    print(error.errno)
print(bytes(h.pread(512, 0)) == bytes(512))",
    );
    assert_eq!(said, "ENOSPC\nTrue\n");
    let agent = Agent::serve(BINARY, &["null", "1M"]);
    let said =
        nbdsh(&agent, "", "h.pwrite(b'x' * 512, 0)\nprint(bytes(h.pread(512, 0)) == bytes(512))");
    assert_eq!(said, "True\n");
    let agent = Agent::serve(BINARY, &["pattern", "1M"]);
    let said = nbdsh(&agent, "", "print(bytes(h.pread(16, 4096)).hex())");
    assert_eq!(said, "00000000000010000000000000001008\n");
}

#[test]
fn a_disk_of_2_to_the_63_starts_and_is_written_at_its_end() {
    let mut agent = Agent::serve(BINARY, &["memory", "9223372036854775807"]);
    let said = nbdsh(
        &agent,
        "",
        "size = h.get_size()
print(size)
h.pwrite(b'end', size - 3)
print(bytes(h.pread(3, size - 3)))
h.pwrite(b'mid', size // 2)
h.trim(0xffffffff, size - 0xffffffff)
print(bytes(h.pread(3, size - 3)), bytes(h.pread(3, size // 2)))",
    );
    assert_eq!(said, "9223372036854775807\nb'end'\nb'\\x00\\x00\\x00' b'mid'\n");
    assert!(agent.status("VmRSS") < 64 << 10);
    agent.assert_alive();
}

#[test]
fn a_file_that_shrinks_or_has_no_space_gives_errors_and_the_agent_lives() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = dir.path().join("disk");
    fs::write(&disk, vec![7; 8 << 20]).expect("a file");
    let path = disk.to_str().expect("UTF-8");
    let mut agent = Agent::serve(BINARY, &["file", path]);
    let said = nbdsh(
        &agent,
        "",
        &format!(
            "import os
print(bytes(h.pread(4096, 4 << 20)) == bytes([7]) * 4096)
os.truncate({path:?}, 1 << 20)
for offset in (4 << 20, (1 << 20) - 512):
    try:
        h.pread(4096, offset)
    except nbd.Error as error:
        print(error.errno)
print(bytes(h.pread(4096, 0)) == bytes([7]) * 4096)"
        ),
    );
    assert_eq!(said, "True\nEIO\nEIO\nTrue\n");
    agent.assert_alive();

    // A limit on the size of files simulates a full medium: EFBIG is reported as ENOSPC.
    let mut limited = Command::new("prlimit");
    limited.args(["--fsize=1048576", BINARY]);
    let disk = dir.path().join("limited");
    File::create(&disk).and_then(|file| file.set_len(1 << 20)).expect("a file");
    File::options().write(true).open(&disk).and_then(|f| f.set_len(8 << 20)).expect("a size");
    let mut agent = Agent::serve_by(limited, &["file", disk.to_str().expect("UTF-8")]);
    let said = nbdsh(
        &agent,
        "",
        "h.pwrite(b'x' * 4096, 0)
try:
    h.pwrite(b'x' * 4096, 4 << 20)
except nbd.Error as error:
    print(error.errno)
print(bytes(h.pread(1, 0)))",
    );
    assert_eq!(said, "ENOSPC\nb'x'\n");
    agent.assert_alive();
}
