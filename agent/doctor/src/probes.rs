//! What only the living machine says: a device that opens, a port that is free, what QEMU has.
//!
//! None of it changes anything, except that the kernel may load a module that it would load anyway
//! when a guest starts. Programs get a deadline.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use nix::unistd::{Gid, Group, Uid, User, geteuid};

use crate::{
    run::{Asked, Run, ask},
    service::{self, Own},
    sys,
};

/// The hypervisors whose vsock ends in a Unix socket on the host.
pub(crate) const HYBRID: &[&str] = &["firecracker", "cloud-hypervisor"];

/// The running kernel's configuration, which gzip has packed.
pub(crate) const OWN_CONFIG: &str = "/proc/config.gz";

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
pub(crate) type Answer = Result<(), i32>;

/// The device node, as stat(2) has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) mode: u32,
    pub(crate) owner: String,
    pub(crate) group: String,
}

#[derive(Debug, Clone)]
pub(crate) struct Probes {
    /// `uname -r`.
    pub(crate) release: String,
    /// What is packed in [`OWN_CONFIG`].
    pub(crate) config: Option<String>,
    /// Who asks.
    pub(crate) user: String,
    pub(crate) node: Option<Node>,
    /// Opening /dev/vhost-vsock as QEMU does.
    pub(crate) vhost: Answer,
    /// socket(AF_VSOCK).
    pub(crate) socket: Answer,
    pub(crate) port: u32,
    /// Binding that port.
    pub(crate) bind: Answer,
    /// `ss` about the vsock sockets that listen.
    pub(crate) listening: Option<String>,
    /// `systemctl list-sockets`.
    pub(crate) sockets: Option<String>,
    /// This machine's CID, from /dev/vsock.
    pub(crate) cid: Result<u32, i32>,
    /// `-device help` of each QEMU.
    pub(crate) qemu: Vec<Asked>,
    /// Other hypervisors that are in the PATH.
    pub(crate) hypervisors: Vec<String>,
    /// `virsh version` of the system's libvirt, where virsh is there.
    pub(crate) libvirt: Option<Asked>,
    /// `systemctl show` of the service that this process is in and of the agent's.
    pub(crate) units: Option<Asked>,
    /// The kernel's log, where it may be read.
    pub(crate) log: String,
    /// What the journal has of the kernel and of its audit, where it may be read.
    pub(crate) journal: String,
}

/// Nothing but success; what a test or an error's hint does not ask.
impl Default for Probes {
    fn default() -> Self {
        Self {
            release: String::new(),
            config: None,
            user: "root".into(),
            node: None,
            vhost: Ok(()),
            socket: Ok(()),
            port: 10809,
            bind: Ok(()),
            listening: None,
            sockets: None,
            cid: Ok(libc::VMADDR_CID_HOST),
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
    pub(crate) fn of_host(port: u32, run: &dyn Run) -> Self {
        // First, so that its module is the one that the kernel loads: a socket has the kernel load any
        // transport that there is, and before 5.5 that one would keep this one out.
        let vhost = OpenOptions::new().read(true).write(true).open("/dev/vhost-vsock");
        let (socket, bind) = match sys::try_port(port) {
            Ok(bound) => (Ok(()), number(bound)),
            Err(error) => (number(Err(error)), Ok(())),
        };
        Self {
            socket,
            port,
            bind,
            listening: answer(run, "ss", &["-lpnH", "--vsock"]),
            sockets: answer(
                run,
                "systemctl",
                &["list-sockets", "--no-pager", "--no-legend", "--full"],
            ),
            qemu: qemus().iter().filter_map(|name| ask(run, name, &["-device", "help"])).collect(),
            hypervisors: HYBRID
                .iter()
                .filter(|name| in_path(name))
                .map(|&name| name.into())
                .collect(),
            libvirt: ask(run, "virsh", &["-c", "qemu:///system", "--readonly", "version"]),
            units: units(run),
            journal: answer(run, "journalctl", JOURNAL).unwrap_or_default(),
            ..Self::of_device(number(vhost.map(drop)), run)
        }
    }

    /// What a guest is asked: only its CID, and whether it may have a vsock socket. Runs no program.
    pub(crate) fn of_guest() -> Self {
        Self { socket: number(sys::try_socket()), cid: cid(), ..Self::default() }
    }

    /// What explains how the device opened or did not.
    pub(crate) fn of_device(vhost: Answer, run: &dyn Run) -> Self {
        Self {
            release: answer(run, "uname", &["-r"])
                .map_or_else(String::new, |release| release.trim().to_owned()),
            config: unpacked(run, OWN_CONFIG),
            user: user(geteuid()),
            node: node("/dev/vhost-vsock"),
            vhost,
            cid: cid(),
            log: kernel_log().unwrap_or_default(),
            ..Self::default()
        }
    }
}

/// What a program answers, where it does.
fn answer(run: &dyn Run, program: &str, words: &[&str]) -> Option<String> {
    ask(run, program, words)?.answer.ok()
}

/// A file that gzip has packed. By that program, which every distribution's base has: one file
/// of the kernel's is not worth a crate.
fn unpacked(run: &dyn Run, path: &str) -> Option<String> {
    Path::new(path).exists().then(|| answer(run, "gzip", &["-dc", path])).flatten()
}

/// This machine's own CID: as a guest where it is one, else as a host.
fn cid() -> Result<u32, i32> {
    number(File::open("/dev/vsock").and_then(|device| sys::local_cid(&device)))
}

/// The number of an error of the system.
fn number<T>(result: io::Result<T>) -> Result<T, i32> {
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
fn units(run: &dyn Run) -> Option<Asked> {
    let own = Own::of(&fs::read_to_string("/proc/self/cgroup").unwrap_or_default());
    let (users, own): (Vec<_>, Vec<_>) = own.iter().partition(|own| own.is_users());
    let show = |how: &[&str], names: Vec<&str>| {
        ask(run, "systemctl", &[how, &["show", service::PROPERTIES, "--"], &names].concat())
    };
    let names = own.iter().map(|own| own.name.as_str()).chain(service::SHIPPED.iter().copied());
    let mut of_system = show(&[], names.collect())?;
    if !users.is_empty() {
        let names = users.iter().map(|own| own.name.as_str()).collect();
        let of_user = show(&["--user"], names)?.answer;
        of_system.answer = match (of_system.answer, of_user) {
            (Ok(system), Ok(user)) => Ok(format!("{system}\n{user}")),
            (Err(_), user) => user,
            (system, Err(_)) => system,
        };
    }
    Some(of_system)
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
    use std::process::Command;

    use super::*;
    use crate::testing::Unbounded;

    #[test]
    fn a_packed_file_is_unpacked_and_any_other_says_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name| directory.path().join(name).to_str().unwrap().to_owned();
        fs::write(path("config"), "CONFIG_VSOCKETS=y\n").unwrap();
        assert!(Command::new("gzip").arg(path("config")).status().unwrap().success());
        let unpacked = |name| unpacked(&Unbounded, &path(name));
        assert_eq!(unpacked("config.gz").as_deref(), Some("CONFIG_VSOCKETS=y\n"));
        fs::write(path("plain.gz"), "CONFIG_VHOST_VSOCK=y\n").unwrap();
        assert_eq!(unpacked("plain.gz"), None);
        assert_eq!(unpacked("none.gz"), None);
    }
}
