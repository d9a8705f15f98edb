//! What only the living machine says: a device that opens, a port that is free, what QEMU has.
//!
//! None of it changes anything, except that the kernel may load a module that it would load anyway
//! when a guest starts. Programs get a deadline.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    process::Command,
    time::Duration,
};

use nix::unistd::{Gid, Group, Uid, User, geteuid};

use super::{
    unit::{self, Own},
    ways::HYBRID,
};
use crate::{
    child::{ChildError, Job, Printed},
    sys,
};

/// How long a program may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most characters of what a program says is wrong.
const SHOWN: usize = 500;

/// The kernel's ring is soon written over, and is root's on most machines; the journal is neither.
const JOURNAL: &[&str] = &[
    "--quiet",
    "--no-pager",
    "--boot",
    "--lines=3000",
    "--output=short-iso",
    "_TRANSPORT=kernel",
    "+",
    "_TRANSPORT=audit",
];

/// An answer, or the number of the error.
pub(super) type Answer = Result<(), i32>;

/// The device node, as stat(2) has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) mode: u32,
    pub(super) owner: String,
    pub(super) group: String,
}

/// A program that was asked, and what it said or why it said nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) program: String,
    pub(super) answer: Result<String, String>,
}

#[derive(Debug, Clone)]
pub(super) struct Probes {
    /// `uname -r`.
    pub(super) release: String,
    /// Who asks.
    pub(super) user: String,
    pub(super) node: Option<Node>,
    /// Opening /dev/vhost-vsock as QEMU does.
    pub(super) vhost: Answer,
    /// socket(AF_VSOCK).
    pub(super) socket: Answer,
    pub(super) port: u32,
    /// Binding that port.
    pub(super) bind: Answer,
    /// `ss` about the vsock sockets that listen.
    pub(super) listening: Option<String>,
    /// `systemctl list-sockets`.
    pub(super) sockets: Option<String>,
    /// This machine's CID.
    pub(super) cid: Option<u32>,
    /// `-device help` of each QEMU.
    pub(super) qemu: Vec<Asked>,
    /// Other hypervisors that are in the PATH.
    pub(super) hypervisors: Vec<String>,
    /// `virsh version` of the system's libvirt, where virsh is there.
    pub(super) libvirt: Option<Asked>,
    /// `systemctl show` of the service that this process is in and of the agent's.
    pub(super) units: Option<Asked>,
    /// The kernel's log, where it may be read.
    pub(super) log: String,
    /// What the journal has of the kernel and of its audit, where it may be read.
    pub(super) journal: String,
}

/// Nothing but success; what a test or an error's hint does not ask.
impl Default for Probes {
    fn default() -> Self {
        Self {
            release: String::new(),
            user: "root".into(),
            node: None,
            vhost: Ok(()),
            socket: Ok(()),
            port: 10809,
            bind: Ok(()),
            listening: None,
            sockets: None,
            cid: Some(2),
            qemu: Vec::new(),
            hypervisors: Vec::new(),
            libvirt: None,
            units: None,
            log: String::new(),
            journal: String::new(),
        }
    }
}

impl Probes {
    pub(super) fn ask(port: u32) -> Self {
        // First, so that its module is the one that the kernel loads: a socket has the kernel load any
        // transport that there is, and before 5.5 that one would keep this one out.
        let vhost = OpenOptions::new().read(true).write(true).open("/dev/vhost-vsock");
        let (socket, bind) = match sys::vsock::try_port(port) {
            Ok(bound) => (Ok(()), number(bound)),
            Err(error) => (number(Err(error)), Ok(())),
        };
        Self {
            socket,
            port,
            bind,
            listening: asked("ss", &["-lpnH", "--vsock"]).and_then(|asked| asked.answer.ok()),
            sockets: asked("systemctl", &["list-sockets", "--no-pager", "--no-legend", "--full"])
                .and_then(|asked| asked.answer.ok()),
            qemu: qemus().iter().filter_map(|name| asked(name, &["-device", "help"])).collect(),
            hypervisors: HYBRID
                .iter()
                .filter(|name| in_path(name))
                .map(|&name| name.into())
                .collect(),
            libvirt: asked("virsh", &["-c", "qemu:///system", "--readonly", "version"]),
            units: units(),
            journal: asked("journalctl", JOURNAL)
                .and_then(|asked| asked.answer.ok())
                .unwrap_or_default(),
            ..Self::of_device(number(vhost.map(drop)))
        }
    }

    /// What explains how the device opened or did not.
    pub(super) fn of_device(vhost: Answer) -> Self {
        let cid = File::open("/dev/vsock").and_then(|device| sys::vsock::local_cid(&device));
        Self {
            release: asked("uname", &["-r"])
                .and_then(|asked| asked.answer.ok())
                .map_or_else(String::new, |release| release.trim().to_owned()),
            user: user(geteuid()),
            node: node("/dev/vhost-vsock"),
            vhost,
            cid: cid.ok(),
            log: kernel_log().unwrap_or_default(),
            ..Self::default()
        }
    }
}

fn number(result: io::Result<()>) -> Answer {
    result.map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))
}

fn node(path: &str) -> Option<Node> {
    let meta = fs::metadata(path).ok()?;
    let group = Group::from_gid(Gid::from_raw(meta.gid())).ok().flatten();
    let group = group.map_or_else(|| meta.gid().to_string(), |group| group.name);
    Some(Node { mode: meta.mode() & 0o7777, owner: user(Uid::from_raw(meta.uid())), group })
}

fn user(uid: Uid) -> String {
    User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}

/// The QEMU of this architecture, by the names that distributions have for it.
fn qemus() -> [&'static str; 3] {
    let own = match std::env::consts::ARCH {
        "x86_64" => "qemu-system-x86_64",
        "aarch64" => "qemu-system-aarch64",
        "s390x" => "qemu-system-s390x",
        "powerpc64" => "qemu-system-ppc64",
        "riscv64" => "qemu-system-riscv64",
        _ => "qemu-system-native",
    };
    [own, "qemu-kvm", "/usr/libexec/qemu-kvm"]
}

/// Whether there is such a program, which is not run.
fn in_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(name).is_file())
}

/// A user's services are known to that user's systemd only.
fn units() -> Option<Asked> {
    let own = Own::of(&fs::read_to_string("/proc/self/cgroup").unwrap_or_default());
    let (users, own): (Vec<_>, Vec<_>) = own.iter().partition(|own| own.is_users());
    let ask = |how: &[&str], names: Vec<&str>| {
        asked("systemctl", &[how, &["show", unit::PROPERTIES, "--"], &names].concat())
    };
    let names = own.iter().map(|own| own.name.as_str()).chain(unit::SHIPPED.iter().copied());
    let mut of_system = ask(&[], names.collect())?;
    if !users.is_empty() {
        let names = users.iter().map(|own| own.name.as_str()).collect();
        let of_user = ask(&["--user"], names)?.answer;
        of_system.answer = match (of_system.answer, of_user) {
            (Ok(system), Ok(user)) => Ok(format!("{system}\n{user}")),
            (Err(_), user) => user,
            (system, Err(_)) => system,
        };
    }
    Some(of_system)
}

/// `None` where there is no such program.
pub(super) fn asked(program: &str, words: &[&str]) -> Option<Asked> {
    let mut command = Command::new(program);
    command.args(words).env("LC_ALL", "C");
    let answer = match Job::new(command).within(PATIENCE).interruptible(false).answer() {
        Ok(Printed { status, stdout, .. }) if status.success() => {
            Ok(String::from_utf8_lossy(&stdout).into_owned())
        }
        Ok(Printed { status, stderr, .. }) => {
            // A library's warnings may stand before it.
            let said = String::from_utf8_lossy(&stderr);
            let mut lines = said.lines().filter(|line| !line.trim().is_empty());
            let why = lines.clone().find(|line| line.starts_with("error:"));
            let why = why.or_else(|| lines.next());
            Err(why.map_or_else(|| status.to_string(), |why| why.chars().take(SHOWN).collect()))
        }
        Err(ChildError::Start(error)) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(ChildError::Start(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    Some(Asked { program: program.into(), answer })
}

/// All of it that is there, without waiting for more.
fn kernel_log() -> io::Result<String> {
    let options = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg");
    let mut file = options?;
    let (mut text, mut record) = (String::new(), [0; 8192]);
    loop {
        match file.read(&mut record) {
            Ok(0) => return Ok(text),
            Ok(n) => text.push_str(&String::from_utf8_lossy(&record[..n])),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(text),
            // A record was overwritten while we read; the next one is there.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_heard_or_told_from_one_that_is_not_there() {
        assert_eq!(asked("/none/such", &[]), None);
        let answer = asked("sh", &["-c", "echo yes"]).unwrap().answer;
        assert_eq!(answer.unwrap(), "yes\n");
        let answer = asked("sh", &["-c", "echo; echo why >&2; exit 1"]).unwrap().answer;
        assert_eq!(answer.unwrap_err(), "why");
        let warned = "echo '(x:1): GLib-WARNING' >&2; echo 'error: why' >&2; exit 1";
        let answer = asked("sh", &["-c", warned]).unwrap().answer;
        assert_eq!(answer.unwrap_err(), "error: why");
        // Nobody waits for what it leaves running.
        let answer = asked("sh", &["-c", "sleep 1000 & echo yes"]).unwrap().answer;
        assert_eq!(answer.unwrap(), "yes\n");
        let answer = asked("sh", &["-c", "yes"]).unwrap().answer;
        assert!(answer.unwrap_err().contains("prints more than"));
        // More than a pipe holds, on both.
        let flood = "yes | head -c 300000; yes | head -c 300000 >&2";
        assert_eq!(asked("sh", &["-c", flood]).unwrap().answer.unwrap().len(), 300_000);
    }
}
