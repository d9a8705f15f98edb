//! The servers: how each is started, and what can be read about its process from outside.

use std::{
    fmt,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    time::{ClockId, clock_getcpuclockid},
    unistd::Pid,
};
use tempfile::NamedTempFile;

use crate::{Failure, case::Media, session::Session};

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    Nbdkit,
    QemuNbd,
    Agent,
    /// No server, but fio on the same file: the limit of them all.
    Fio,
    /// The agent once more: what two of the same differ by is noise.
    Control,
    /// The agent with one layer that passes everything on: what a layer costs.
    Layered,
}

impl Kind {
    /// The servers that are compared by default.
    pub(crate) const ALL: [Self; 4] = [Self::Nbdkit, Self::QemuNbd, Self::Agent, Self::Fio];

    pub(crate) const fn is_agent(self) -> bool {
        matches!(self, Self::Agent | Self::Control | Self::Layered)
    }

    fn layers(self) -> Option<String> {
        // This filter changes what a client is told, and no read or write.
        (self == Self::Layered).then(|| "--filter=nocache".into())
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Nbdkit => "nbdkit",
            Self::QemuNbd => "qemu-nbd",
            Self::Agent => "agent",
            Self::Fio => "fio",
            Self::Control => "control",
            Self::Layered => "layered",
        })
    }
}

/// A running server, which is killed when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) kind: Kind,
    /// The description of its disk, for the table.
    pub(crate) serves: &'static str,
    child: Child,
    socket: PathBuf,
    /// Its output goes to a file, because a terminal would slow it down.
    log: PathBuf,
    /// A file that is removed with the server.
    _backing: Option<NamedTempFile>,
}

impl Server {
    /// Starts a server with an empty disk of `size` bytes in memory. qemu-nbd has no memory disk
    /// and gets a file on tmpfs.
    pub(crate) fn start_memory(
        kind: Kind,
        room: &Path,
        size: u64,
        agent: Option<&Path>,
        pin: bool,
    ) -> Result<Self, Failure> {
        let socket = room.join(format!("memory-{kind}.sock"));
        let size_words = size.to_string();
        match kind {
            Kind::Nbdkit => {
                let mut args = nbdkit(&socket);
                args.extend(["memory".into(), size_words]);
                Self::start(kind, "memory plugin", socket, &args, None, pin)
            }
            Kind::Agent | Kind::Control | Kind::Layered => {
                let mut args = agent_words(agent, &socket)?;
                args.extend(kind.layers());
                args.extend(["memory".into(), size_words]);
                Self::start(kind, "memory disk", socket, &args, None, pin)
            }
            Kind::QemuNbd => {
                let file =
                    NamedTempFile::with_prefix_in("bench-", "/dev/shm").map_err(|error| {
                        format!(
                            "a file in /dev/shm, which is qemu-nbd's memory disk: {error}; \
                         leave qemu-nbd out with --servers nbdkit,agent"
                        )
                    })?;
                file.as_file().set_len(size)?;
                let args = qemu_nbd(&socket, file.path());
                Self::start(kind, "file on tmpfs", socket, &args, Some(file), pin)
            }
            Kind::Fio => Err("fio serves nothing".into()),
        }
    }

    /// Starts a server with the existing `file`, without the page cache if `media` says so.
    pub(crate) fn start_file(
        kind: Kind,
        media: Media,
        room: &Path,
        file: &Path,
        agent: Option<&Path>,
        pin: bool,
    ) -> Result<Self, Failure> {
        // A server that was killed has left its socket there.
        let socket = room.join(format!("{media:?}-{kind}.sock"));
        let direct = media == Media::Direct;
        let (serves, args) = match kind {
            Kind::Nbdkit => ("file plugin", with_file(nbdkit(&socket), file)),
            Kind::Agent | Kind::Control | Kind::Layered => {
                let mut args = agent_words(agent, &socket)?;
                args.extend(kind.layers());
                args = with_file(args, file);
                args.extend(direct.then(|| "cache=none".into()));
                ("file disk", args)
            }
            Kind::QemuNbd => {
                let mut args = qemu_nbd(&socket, file);
                if direct {
                    args.extend(["--aio=io_uring", "--cache=none"].map(String::from));
                }
                ("file, raw", args)
            }
            Kind::Fio => return Err("fio serves nothing".into()),
        };
        Self::start(kind, serves, socket, &args, None, pin)
    }

    fn start(
        kind: Kind,
        serves: &'static str,
        socket: PathBuf,
        args: &[String],
        backing: Option<NamedTempFile>,
        pin: bool,
    ) -> Result<Self, Failure> {
        // taskset executes the server in its own place, so the process is still our child.
        let pinned = ["taskset", "-c", "0"].map(String::from);
        let words: Vec<&String> = pinned.iter().filter(|_| pin).chain(args).collect();
        let log = socket.with_extension("log");
        let said = File::create(&log)?;
        let child = Command::new(words[0])
            .args(&words[1..])
            .stdin(Stdio::null())
            .stdout(said.try_clone()?)
            .stderr(said)
            .spawn()
            .map_err(|error| format!("starting {}: {error}; {}", words[0], kind.how_to_get()))?;
        let mut server = Self { kind, serves, child, socket, log, _backing: backing };
        match server.wait_until_it_answers() {
            Ok(()) => Ok(server),
            Err(failure) => Err(format!("{failure}{}", server.last_words()).into()),
        }
    }

    /// Waits until the server accepts a connection. Each server has its own way to report that it
    /// is ready, but all accept connections then.
    fn wait_until_it_answers(&mut self) -> Result<(), Failure> {
        let patience = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("{} ended before it served: {status}", self.kind).into());
            }
            match self.connect(false) {
                Ok(session) => return session.close(),
                Err(failure) if Instant::now() > patience => {
                    return Err(
                        format!("{} does not serve after 10 s: {failure}", self.kind).into()
                    );
                }
                Err(_) => thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    pub(crate) fn connect(&self, structured: bool) -> Result<Session, Failure> {
        Session::connect(&self.socket, structured)
    }

    /// The end of its output, for an error message.
    pub(crate) fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(5)..];
        if last.is_empty() { String::new() } else { format!("; it said: {}", last.join(" | ")) }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().expect("a pid is positive and small"))
    }

    /// The CPU clock of the whole process: user and system time of all threads, including ended
    /// ones, in nanoseconds. The time of a running thread is up to a tick behind.
    pub(crate) fn cpu_clock(&self) -> Result<ClockId, Failure> {
        Ok(clock_getcpuclockid(self.pid())?)
    }

    /// The proportional set size in bytes, which is the memory that the process really takes.
    pub(crate) fn memory(&self) -> Result<u64, Failure> {
        let path = format!("/proc/{}/smaps_rollup", self.pid());
        let text = fs::read_to_string(&path).map_err(|error| format!("reading {path}: {error}"))?;
        let kib: u64 = text
            .lines()
            .find_map(|line| line.strip_prefix("Pss:")?.strip_suffix("kB")?.trim().parse().ok())
            .ok_or_else(|| format!("{path} has no line `Pss:`"))?;
        Ok(1024 * kib)
    }

    pub(crate) fn threads(&self) -> Result<usize, Failure> {
        Ok(fs::read_dir(format!("/proc/{}/task", self.pid()))?.count())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have exited already, and there is nowhere to report an error.
        kill(self.pid(), Signal::SIGKILL).ok();
        self.child.wait().ok();
    }
}

impl Kind {
    pub(crate) fn how_to_get(self) -> &'static str {
        match self {
            Self::Nbdkit => "it is in Debian's package nbdkit (taskset in util-linux)",
            Self::QemuNbd => "it is in Debian's package qemu-utils (taskset in util-linux)",
            Self::Fio => "it is in Debian's package fio",
            Self::Agent | Self::Control | Self::Layered => {
                "cargo build --release -p agent makes it (taskset is in util-linux)"
            }
        }
    }
}

fn words(words: &[&str], socket: &Path) -> Vec<String> {
    let socket = socket.display().to_string();
    words.iter().map(|&word| String::from(word)).chain([socket]).collect()
}

fn with_file(mut words: Vec<String>, file: &Path) -> Vec<String> {
    words.extend(["file".into(), file.display().to_string()]);
    words
}

fn nbdkit(socket: &Path) -> Vec<String> {
    words(&["nbdkit", "--foreground", "--exit-with-parent", "--unix"], socket)
}

fn agent_words(agent: Option<&Path>, socket: &Path) -> Result<Vec<String>, Failure> {
    let agent = agent.ok_or("the agent's path has not been found out")?.display().to_string();
    Ok(words(&[&agent, "--foreground", "--unix"], socket))
}

fn qemu_nbd(socket: &Path, file: &Path) -> Vec<String> {
    let mut words = words(&["qemu-nbd", "--persistent", "--shared=0", "--socket"], socket);
    words.extend(["--format=raw".into(), file.display().to_string()]);
    words
}
