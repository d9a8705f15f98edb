//! What no file says: whether a device opens, whether a port is free, which devices QEMU has.
//!
//! A probe changes nothing, except that the kernel may load a module that it would also load when a
//! guest starts.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use nix::unistd::{Gid, Group, Uid, User, geteuid};
use vsock_cid::Cid;

use crate::{
    run::{Asked, Run, ask},
    service::{self, Own},
    sys,
};

/// The hypervisors that connect a guest's vsock to Unix sockets of the host.
pub(crate) const HYBRID: &[&str] = &["firecracker", "cloud-hypervisor"];

/// The running kernel's configuration, compressed by gzip.
pub(crate) const OWN_CONFIG: &str = "/proc/config.gz";

/// What journalctl is asked. The kernel's own log is short, and on most machines only root may read it;
/// the journal is long, and more users may read it.
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

/// Success, or the errno of the failure.
pub(crate) type Answer = Result<(), i32>;

/// The device node, as stat(2) has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) mode: u32,
    pub(crate) owner: String,
    pub(crate) group: String,
}

/// The answers of a machine.
#[derive(Debug, Clone)]
pub(crate) struct Probes {
    /// `uname -r`.
    pub(crate) release: String,
    /// The text in [`OWN_CONFIG`].
    pub(crate) config: Option<String>,
    /// The name of this process's user.
    pub(crate) user: String,
    pub(crate) node: Option<Node>,
    /// Opening /dev/vhost-vsock as QEMU does.
    pub(crate) vhost: Answer,
    /// socket(AF_VSOCK).
    pub(crate) socket: Answer,
    pub(crate) port: u32,
    /// Binding a vsock socket to that port.
    pub(crate) bind: Answer,
    /// `ss` about the vsock sockets that listen.
    pub(crate) listening: Option<String>,
    /// `systemctl list-sockets`.
    pub(crate) sockets: Option<String>,
    /// This machine's CID, or the errno with which /dev/vsock refused it.
    pub(crate) cid: Result<Cid, i32>,
    /// `-device help` of each QEMU.
    pub(crate) qemu: Vec<Asked>,
    /// Those of [`HYBRID`] that are in the PATH.
    pub(crate) hypervisors: Vec<String>,
    /// `virsh version` of the system's libvirt, where virsh is there.
    pub(crate) libvirt: Option<Asked>,
    /// `systemctl show` of the service that this process is in and of the agent's.
    pub(crate) units: Option<Asked>,
    /// The kernel's log; empty where it cannot be read.
    pub(crate) log: String,
    /// The journal's lines of the kernel and of its audit; empty where they cannot be read.
    pub(crate) journal: String,
}

/// Answers without a fault, for the probes that a test or a hint does not need.
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
            cid: Ok(Cid::HOST),
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
        // The device comes before the socket, so that the kernel loads the device's module first. For a
        // socket the kernel loads any transport, which before Linux 5.5 keeps vhost_vsock out.
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

    /// Asks for this machine's CID and for a vsock socket. Runs no program.
    pub(crate) fn of_guest() -> Self {
        Self { socket: number(sys::try_socket()), cid: cid(), ..Self::default() }
    }

    /// Asks what explains the result of opening the device.
    pub(crate) fn of_device(vhost: Answer, run: &dyn Run) -> Self {
        Self {
            release: answer(run, "uname", &["-r"])
                .map_or_else(String::new, |release| release.trim().to_owned()),
            config: decompressed(run, OWN_CONFIG),
            user: user(geteuid()),
            node: node("/dev/vhost-vsock"),
            vhost,
            cid: cid(),
            log: kernel_log().unwrap_or_default(),
            ..Self::default()
        }
    }
}

/// The answer of a program, if it gives one.
fn answer(run: &dyn Run, program: &str, words: &[&str]) -> Option<String> {
    ask(run, program, words)?.answer.ok()
}

/// The text of a file that is compressed by gzip. The program gzip decompresses it: every distribution
/// has it, and one file is not worth a dependency.
fn decompressed(run: &dyn Run, path: &str) -> Option<String> {
    Path::new(path).exists().then(|| answer(run, "gzip", &["-dc", path])).flatten()
}

/// This machine's own CID: a guest's where it is a guest, else the host's.
fn cid() -> Result<Cid, i32> {
    number(File::open("/dev/vsock").and_then(|device| sys::local_cid(&device)))
}

/// Turns an error into its errno.
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

/// The names that distributions give the QEMU of this architecture.
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

/// Whether a program is in the PATH. It is not run.
fn in_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(name).is_file())
}

/// Shows the service of this process and those of the agent. Only the user's own systemd knows a user's
/// service.
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

/// Reads the kernel's log as it is now, without waiting for more.
fn kernel_log() -> io::Result<String> {
    let options = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg");
    let mut file = options?;
    let (mut text, mut record) = (String::new(), [0; 8192]);
    loop {
        match file.read(&mut record) {
            Ok(0) => return Ok(text),
            Ok(n) => text.push_str(&String::from_utf8_lossy(&record[..n])),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(text),
            // A record was overwritten during the read; the next one follows.
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
    fn a_file_of_gzip_is_read_and_another_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name| directory.path().join(name).to_str().unwrap().to_owned();
        fs::write(path("config"), "CONFIG_VSOCKETS=y\n").unwrap();
        assert!(Command::new("gzip").arg(path("config")).status().unwrap().success());
        let text = |name| decompressed(&Unbounded, &path(name));
        assert_eq!(text("config.gz").as_deref(), Some("CONFIG_VSOCKETS=y\n"));
        fs::write(path("plain.gz"), "CONFIG_VHOST_VSOCK=y\n").unwrap();
        assert_eq!(text("plain.gz"), None);
        assert_eq!(text("none.gz"), None);
    }
}
