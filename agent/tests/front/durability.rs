//! Lost writes are reported: a device whose writeback fails, and the errors that clients of the agent
//! receive.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use support::{agent::Agent, process::python};
use tempfile::TempDir;

use crate::{BINARY, engines::ENGINES};

/// A loop device of 8 MiB over a full tmpfs of 1 MiB. It accepts writes, and writing them back fails. It is
/// removed when dropped.
pub(crate) struct Failing {
    dir: TempDir,
    pub(crate) device: PathBuf,
}

fn run(program: &str, words: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(words).output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(String::from_utf8(output.stdout).unwrap().trim().to_owned());
    }
    Err(format!("{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr)))
}

impl Failing {
    /// `None` if this is not permitted, which is reported on stderr.
    pub(crate) fn new() -> Option<Self> {
        let mut device = Self { dir: TempDir::new().unwrap(), device: PathBuf::new() };
        match device.set_up() {
            Ok(()) => Some(device),
            Err(why) => {
                eprintln!("NOT TRIED, this needs root and loop devices: {why}");
                None
            }
        }
    }

    fn path(&self) -> &str {
        self.dir.path().to_str().unwrap()
    }

    fn set_up(&mut self) -> Result<(), String> {
        run("mount", &["-t", "tmpfs", "-o", "size=1M", "tmpfs", self.path()])?;
        let file = self.dir.path().join("file");
        File::create(&file).unwrap().set_len(8 << 20).unwrap();
        self.take_room();
        self.device = run("losetup", &["--find", "--show", file.to_str().unwrap()])?.into();
        Ok(())
    }

    /// Fills the tmpfs.
    pub(crate) fn take_room(&self) {
        fs::write(self.dir.path().join("ballast"), vec![1; 2 << 20]).unwrap_err();
    }

    pub(crate) fn make_room(&self) {
        fs::remove_file(self.dir.path().join("ballast")).unwrap();
    }
}

impl Drop for Failing {
    fn drop(&mut self) {
        // If the device does not exist, this prints an error and does nothing else.
        run("losetup", &["-d", self.device.to_str().unwrap()]).ok();
        run("umount", &["-l", self.path()]).ok();
    }
}

/// The output of `code`: libnbd's Python with `connect()`, and `told(what, ...)`, which prints the name of
/// the error or "ok".
fn client(socket: &Path, code: &str) -> Vec<String> {
    let start = "import nbd, sys\n\
        def connect():\n  h = nbd.NBD()\n  h.set_export_name('disk')\n  h.connect_unix(sys.argv[1])\n  return h\n\
        def told(what, *args):\n  try: what(*args)\n  except nbd.Error as error: print(error.errno)\n\
        \x20 else: print('ok')\n\
        BLOCK = b'x' * 65536\n";
    let text = python(&format!("{start}{code}"), &[socket.to_str().unwrap()]);
    text.lines().map(str::to_owned).collect()
}

/// A directory that contains the device.
fn device_directory(device: &str) -> TempDir {
    let directory = TempDir::new().unwrap();
    run("cp", &["-a", device, directory.path().join("disk").to_str().unwrap()]).unwrap();
    directory
}

#[test]
fn a_durable_write_that_fails_does_not_hide_lost_writes_from_a_flush() {
    for io in ENGINES {
        durable_write_that_fails(io);
    }
}

fn durable_write_that_fails(io: &str) {
    let Some(device) = Failing::new() else { return };
    let mut agent =
        Agent::start(BINARY, &format!("{io} -U {{}}/s file {}", device.device.display()));
    // Another process than the agent makes the kernel write back, as the kernel itself does too.
    let code = format!(
        "import os\n\
         h = connect()\n\
         told(h.pwrite, BLOCK, 0)\n\
         fd = os.open('{}', os.O_RDWR)\n\
         try: os.fdatasync(fd)\n\
         except OSError: print('lost')\n\
         told(h.pwrite, BLOCK, 1 << 20, nbd.CMD_FLAG_FUA)\n\
         told(h.flush)\ntold(h.flush)\n",
        device.device.display()
    );
    assert_eq!(client(&agent.path("s"), &code), ["ok", "lost", "EIO", "EIO", "EIO"]);
    let log = agent.end();
    let device = device.device.to_str().unwrap();
    let lines: Vec<_> = log.iter().filter(|line| line.contains("cannot make")).collect();
    let [line] = lines[..] else { panic!("one line: {log:#?}") };
    assert!(line.contains("ERROR") && line.contains(device), "{line}");
    assert!(line.contains("os error 5"), "{line}");
}

#[test]
fn when_there_is_room_again_a_new_client_works_and_those_that_lost_writes_do_not() {
    let Some(device) = Failing::new() else { return };
    let path = device.device.to_str().unwrap();
    let directory = device_directory(path);
    let directory = format!("file dir={}", directory.path().display());
    // Without the page cache the write itself fails, and nothing is lost.
    let (lost, refused) = (["ok", "EIO", "EIO", "EIO"], ["ENOSPC", "ok", "ok", "ok"]);
    let rows = [
        (format!("file {path}"), lost),
        (format!("split {path}"), lost),
        (directory.clone(), lost),
        (format!("{directory} cache=none"), refused),
    ];
    let rows = ENGINES.iter().flat_map(|io| rows.iter().map(move |row| (io, row)));
    for (turn, (io, (words, expected))) in rows.enumerate() {
        if turn > 0 {
            device.take_room();
        }
        // At an offset that no earlier turn has written, because a written block may have its space
        // already.
        let at = format!("{turn} << 20");
        let agent = Agent::start(BINARY, &format!("{io} -U {{}}/s {words}"));
        let code = format!(
            "a = connect()\nb = connect()\n\
             told(a.pwrite, BLOCK, {at})\ntold(a.flush)\ntold(b.flush)\n\
             told(a.flush)\n"
        );
        assert_eq!(client(&agent.path("s"), &code), *expected, "{io} {words}");
        device.make_room();
        let code = format!(
            "c = connect()\ntold(c.pwrite, BLOCK, {at})\ntold(c.flush)\n\
             told(c.pwrite, BLOCK, {at}, nbd.CMD_FLAG_FUA)\n"
        );
        assert_eq!(client(&agent.path("s"), &code), ["ok", "ok", "ok"], "{words}");
    }
}

#[test]
fn a_loss_after_the_last_client_has_left_is_told_to_the_next_once() {
    let Some(device) = Failing::new() else { return };
    let path = device.device.to_str().unwrap();
    let rows = ENGINES.iter().flat_map(|io| ["file", "split"].map(|plugin| (io, plugin)));
    for (turn, (io, plugin)) in rows.enumerate() {
        let words = format!("{plugin} {path}");
        let agent = Agent::start(BINARY, &format!("{io} -U {{}}/s {words}"));
        let code = format!("a = connect()\ntold(a.pwrite, BLOCK, {turn} << 20)\na.shutdown()\n");
        assert_eq!(client(&agent.path("s"), &code), ["ok"], "{words}");
        // The agent starts the writeback although no client asked for it.
        agent.wait_for_line("cannot make");
        let code = "b = connect()\nc = connect()\n\
            told(b.flush)\ntold(b.flush)\ntold(c.flush)\ntold(c.flush)\ntold(connect().flush)\n";
        assert_eq!(client(&agent.path("s"), code), ["EIO", "ok", "EIO", "ok", "ok"], "{words}");
    }
}

#[test]
fn with_multi_conn_a_flush_covers_what_another_connection_wrote() {
    let Some(device) = Failing::new() else { return };
    device.make_room();
    for (byte, words) in
        ["", "multi-conn-track-dirty=fast", "multi-conn-mode=emulate", "fuamode=force --filter=fua"]
            .into_iter()
            .enumerate()
    {
        let agent = Agent::start(
            BINARY,
            &format!("-U {{}}/s --filter=multi-conn file {} {words}", device.device.display()),
        );
        let code = format!(
            "a = connect()\nb = connect()\nb.flush()\n\
             a.pwrite(bytes([{byte} + 1]) * 65536, 0)\nb.flush()\n"
        );
        client(&agent.path("s"), &code);
        let medium = fs::read(device.dir.path().join("file")).unwrap();
        assert!(medium[..65536].iter().all(|&found| usize::from(found) == byte + 1), "{words}");
    }
}

#[test]
fn losses_of_an_overlay_are_told() {
    let Some(device) = Failing::new() else { return };
    device.make_room();
    let (path, folder) = (device.device.to_str().unwrap(), TempDir::new().unwrap());
    let mounted = folder.path().to_str().unwrap();
    // Without a journal, whose blocks would have to be written too.
    run("mke2fs", &["-q", "-t", "ext4", "-O", "^has_journal", path]).unwrap();
    run("mount", &[path, mounted]).unwrap();
    run("sync", &[]).unwrap();
    let tried = std::panic::catch_unwind(|| {
        device.take_room();
        let mut command = Command::new("env");
        command.arg(format!("TMPDIR={mounted}")).arg(BINARY);
        let agent = Agent::start_by(command, "-U {}/s --filter=cow memory 8M");
        let code = "a = connect()\ntold(a.flush)\n\
            told(a.pwrite, BLOCK, 0)\ntold(a.pwrite, BLOCK, 65536)\n";
        let code = format!(
            "{code}import subprocess\nsubprocess.run(['sync', '-f', '{mounted}'])\n\
             told(a.flush)\ntold(a.flush)\ntold(connect().flush)\n"
        );
        client(&agent.path("s"), &code)
    });
    run("umount", &["-l", mounted]).unwrap();
    let told = tried.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    assert_eq!(told, ["ok", "ok", "ok", "ENOSPC", "EIO", "ok"]);
}
