//! `tmpdisk` and `ondemand`: disks that are created for a client.

use std::{
    fs,
    io::Write,
    os::unix::fs::FileExt,
    path::Path,
    process::{Command, Output, Stdio},
};

use support::{
    agent::{Agent, NBDKIT},
    process::{assert_ends, assert_refuses, is_running, pid_in},
    wire::{CLIENT_FLAGS, OPT_EXPORT_NAME, option},
};

use crate::BINARY;

/// Runs Python with libnbd, an unconnected handle `h`, and `uri(NAME)` for the agent's socket `s` in
/// `dir`.
fn client(dir: &Path, script: &str) -> Output {
    let head = format!(
        "import nbd, sys\n\
         def uri(name=''): return 'nbd+unix:///' + name + '?socket={0}/s'\n\
         def open(name=''):\n    h = nbd.NBD(); h.set_export_name(name); h.connect_unix('{0}/s'); return h\n\
         def denied(name=''):\n    try:\n        open(name); return False\n    except nbd.Error: return True\n",
        dir.display()
    );
    let mut python = Command::new("/usr/bin/python3");
    python.arg("-c").arg(format!("{head}{script}")).output().unwrap()
}

fn passes(dir: &Path, script: &str) {
    let output = client(dir, script);
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}

fn start(words: &[&str]) -> Agent {
    let mut command = Command::new(BINARY);
    command.args(["-f", "-U"]);
    // `{}` must stand for the directory only in words without spaces.
    Agent::start_with(command, "{}/s", words)
}

#[test]
fn each_client_of_tmpdisk_has_a_fresh_filesystem_and_nothing_stays() {
    let mut agent = start(&["tmpdisk", "8M", "label=mine"]);
    passes(
        agent.dir.path(),
        "a, b = open(), open()\n\
         assert a.get_size() == b.get_size() == 8 << 20\n\
         assert a.pread(2, 1080) == b'\\x53\\xef', 'the magic of ext4'\n\
         assert a.pread(5, 1144) == b'mine\\0', 'the label'\n\
         a.pwrite(b'x' * 512, 0); a.flush()\n\
         assert b.pread(512, 0) == bytes(512)\n\
         assert not a.can_multi_conn()",
    );
    let left = |dir: &Path| {
        let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().starts_with("agent")).count()
    };
    agent.wait_for_line(" session ");
    assert_eq!(left(agent.dir.path()), 0, "disks have no names");
    agent.end();
}

#[test]
fn a_command_gets_every_word_as_a_variable_and_what_it_makes_is_served() {
    let mut agent = start(&[
        "tmpdisk",
        "size=1M",
        "what=the word; of it",
        "command=printf '%s,%s,%s' \"$size\" \"$what\" \"$type\" > \"$disk\"; truncate -s 4096 \"$disk\"",
    ]);
    passes(
        agent.dir.path(),
        "h = open()\nassert h.get_size() == 4096\n\
         assert h.pread(27, 0) == b'1048576,the word; of it,ext', h.pread(64, 0)",
    );
    agent.end();
    let mut agent = start(&["tmpdisk", "1M", "command=echo it is so >&2; exit 3"]);
    passes(agent.dir.path(), "assert denied()");
    agent.wait_for_line("exit status: 3: it is so");
    agent.end();
}

#[test]
fn all_disks_together_take_no_more_than_they_may() {
    let make = "command=truncate -s $size \"$disk\"";
    let mut agent = start(&["tmpdisk", "1M", "max-total=2M", make]);
    passes(
        agent.dir.path(),
        "a, b = open(), open()\nassert denied()\na.shutdown()\ndel a\n\
         import time\n\
         until = time.time() + 30\n\
         while denied(): assert time.time() < until",
    );
    agent.wait_for_line("max-total=2097152: there is no room for 1048576 bytes more");
    agent.end();

    // A disk that a command makes counts with its own size.
    let mut agent = start(&["tmpdisk", "1M", "max-total=2M", "command=truncate -s 3M \"$disk\""]);
    passes(agent.dir.path(), "assert denied()");
    agent.end();

    let dir = tempfile::tempdir().unwrap();
    let place = format!("dir={}", dir.path().display());
    let mut agent = start(&["ondemand", "1M", "max-total=2M", make, &place]);
    passes(agent.dir.path(), "open('a'), open('b')\nassert denied('c')\nopen('a')");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing half-made stays");
    agent.end();
}

#[test]
fn a_filesystem_on_demand_stays_and_has_one_client_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let place = format!("dir={}", dir.path().display());
    let words = ["ondemand", "8M", place.as_str()];
    let mut agent = start(&words);
    passes(
        agent.dir.path(),
        "a = open('one')\nassert a.get_size() == 8 << 20 and a.pread(2, 1080) == b'\\x53\\xef'\n\
         a.pwrite(b'kept', 0); a.flush()\n\
         assert denied('one')\n\
         open('two'), open('')\n\
         for name in ['a.b', '..', 'a/b', 'a:b', 'x' * 256]: assert denied(name), name\n\
         h = nbd.NBD(); h.set_opt_mode(True); h.connect_uri(uri())\n\
         names = []\nh.opt_list(lambda name, _: names.append(name))\n\
         assert names == ['', 'one', 'two'], names",
    );
    agent.wait_for_line("one: the filesystem is locked by another client");
    agent.end();
    let mut names: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["default", "one", "two"]);

    let mut agent = start(&words);
    passes(agent.dir.path(), "assert open('one').pread(4, 0) == b'kept'");
    // nbdkit serves the same directory and takes the same lock.
    let held = "a = open('one')\n\
         import subprocess\n\
         tried = subprocess.run(sys.argv[1:], capture_output=True, text=True)\n\
         assert tried.returncode != 0 and 'locked by another client' in tried.stderr, tried";
    let output = Command::new("/usr/bin/python3")
        .arg("-c")
        .arg(format!(
            "import nbd, sys\ndef open(name): h = nbd.NBD(); h.connect_uri('nbd+unix:///' + name + \
             '?socket={}/s'); return h\n{held}",
            agent.dir.path().display()
        ))
        .args([NBDKIT, "-f", "-U", "-", "ondemand", "8M", &place, "-e", "one"])
        .args(["--run", "nbdinfo \"$uri\""])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    agent.end();
}

#[test]
fn with_wait_the_second_client_waits_for_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let place = format!("dir={}", dir.path().display());
    let make = "command=truncate -s $size \"$disk\"";
    let mut agent = start(&["ondemand", "1M", "wait=true", make, &place]);
    passes(
        agent.dir.path(),
        "import threading\na = open('one')\na.pwrite(b'first', 0)\ngot = []\n\
         t = threading.Thread(target=lambda: got.append(open('one').pread(5, 0)))\n\
         t.start()\nopen('two')\nassert got == []\na.shutdown(); del a\n\
         t.join(30)\nassert got == [b'first'], got",
    );
    agent.end();
}

#[test]
fn a_client_cannot_put_words_into_the_command_or_reach_another_file() {
    let dir = tempfile::tempdir().unwrap();
    let outside = tempfile::NamedTempFile::new().unwrap();
    outside.as_file().set_len(4096).unwrap();
    std::os::unix::fs::symlink(outside.path(), dir.path().join("link")).unwrap();
    let place = format!("dir={}", dir.path().display());
    let mut agent = start(&["ondemand", "8M", &place]);
    passes(
        agent.dir.path(),
        "assert denied('link')\n\
         for name in ['$(touch made)', '`touch made`', '; touch made', '-x', \"a'b\\\"c\"]:\n\
         \x20   assert open(name).get_size() == 8 << 20, name",
    );
    agent.end();
    assert!(!Path::new("made").exists() && !dir.path().join("made").exists());
    let mut bytes = [1; 16];
    outside.as_file().read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes, [0; 16]);
}

#[test]
fn impossible_options_are_reported_at_start() {
    for (words, part) in [
        ("tmpdisk", "'size' is missing"),
        ("tmpdisk 1X", "size=1X is not a size"),
        ("tmpdisk 2M max-total=1M", "max-total=1M is not enough"),
        ("ondemand 1M", "'dir' is missing"),
        ("ondemand 1M dir=/nonexistent", "/nonexistent"),
        ("ondemand 1M dir=/etc/passwd", "/etc/passwd"),
        ("ondemand 1M dir=/tmp wait=perhaps", "wait=perhaps"),
    ] {
        assert_refuses(BINARY, words, part);
    }
    // nbdkit's help has the same keys.
    let help = Command::new(BINARY).args(["tmpdisk", "--help"]).stdin(Stdio::null()).output();
    let help = String::from_utf8(help.unwrap().stdout).unwrap();
    for key in ["[size=]<SIZE>", "type=<FS>", "label=<LABEL>", "command=<COMMAND>"] {
        assert!(help.contains(key), "{key} in {help}");
    }
}

/// ^C and TERM reach the agent. Its commands run in process groups of their own.
#[test]
fn a_command_that_hangs_ends_with_the_agent() {
    let command = "command=echo $$ > \"$TMPDIR/pid\"; sleep 1000; true";
    let mut agent = start(&["--shutdown-timeout", "100ms", "tmpdisk", "8M", command]);
    let mut stream = support::client::greeted(&agent.path("s"));
    stream.write_all(&[&CLIENT_FLAGS[..], &option(OPT_EXPORT_NAME, b"")].concat()).unwrap();
    let pid = pid_in(&agent.path("pid"));
    assert!(is_running(pid));
    agent.end();
    assert_ends(pid);
}
