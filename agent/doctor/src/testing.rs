//! Machines for tests: a tree of files, and answers to probes.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use tempfile::TempDir;
use vsock_cid::Cid;

use crate::{
    Finding,
    machine::Machine,
    probes::{Node, Probes},
    run::{Run, RunError},
};

/// Runs programs without a deadline, for tests.
pub(crate) struct Unbounded;

impl Run for Unbounded {
    fn run(&self, program: &str, words: &[&str], _: Duration) -> Result<Output, RunError> {
        Command::new(program).args(words).env("LC_ALL", "C").output().map_err(RunError::Start)
    }
}

pub(crate) struct Tree {
    root: TempDir,
    pub(crate) probes: Probes,
}

impl Tree {
    pub(crate) fn new(release: &str) -> Self {
        let tree = Self { root: tempfile::tempdir().unwrap(), probes: Probes::default() };
        tree.file("/proc/sys/kernel/osrelease", release)
    }

    /// A machine that `tests/guest/record.sh` has recorded.
    pub(crate) fn recorded(text: &str) -> Self {
        let mut tree = Self { root: tempfile::tempdir().unwrap(), probes: Probes::default() };
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            let (kind, rest) = line.split_once(' ').unwrap();
            let (first, second) = rest.split_once(' ').unwrap_or((rest, ""));
            tree = match kind {
                "=" => {
                    let mut text = String::new();
                    while let Some(line) = lines.next_if(|line| !is_entry(line)) {
                        text += line;
                        text.push('\n');
                    }
                    tree.file(first, &text)
                }
                ">" => tree.link(first, second),
                "!" if first == "node" => {
                    let (mode, group) = second.split_once(' ').unwrap();
                    tree.node(u32::from_str_radix(mode, 8).unwrap(), group)
                }
                "!" => {
                    let number: i64 = second.parse().unwrap();
                    tree.probe(|probes| match first {
                        "vhost" if number == 0 => probes.vhost = Ok(()),
                        "vhost" => probes.vhost = Err(i32::try_from(number).unwrap()),
                        "cid" => {
                            let cid = u32::try_from(number).map(Cid::new);
                            probes.cid = cid.map_err(|_| libc::ENOENT);
                        }
                        _ => panic!("{line}"),
                    })
                }
                _ => panic!("{line}"),
            };
        }
        tree
    }

    pub(crate) fn file(self, path: &str, text: &str) -> Self {
        let path = self.root.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    pub(crate) fn directory(self, path: &str) -> Self {
        fs::create_dir_all(self.root.path().join(path.trim_start_matches('/'))).unwrap();
        self
    }

    pub(crate) fn link(self, path: &str, to: &str) -> Self {
        let path = self.root.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(Path::new(to), path).unwrap();
        self
    }

    /// Sets the running kernel's configuration.
    pub(crate) fn config(self, text: &str) -> Self {
        self.probe(|probes| probes.config = Some(text.into()))
    }

    /// Makes it a container of docker.
    pub(crate) fn docker(self) -> Self {
        self.file("/.dockerenv", "").link("/proc/self/ns/pid", "pid:[4026532190]")
    }

    /// Writes /proc/modules, from names and use counts.
    pub(crate) fn modules(self, modules: &[(&str, u32)]) -> Self {
        let lines = modules.iter().map(|(name, users)| format!("{name} 1 {users} - Live 0x0\n"));
        self.file("/proc/modules", &lines.collect::<String>())
    }

    /// Installs modules that could be loaded.
    pub(crate) fn loadable(mut self, modules: &[&str]) -> Self {
        let release = self.machine().release();
        for name in modules {
            self = self.file(&format!("/lib/modules/{release}/kernel/x/{name}.ko.xz"), "");
        }
        let lines = modules.iter().map(|name| format!("kernel/x/{name}.ko.xz:\n"));
        self.file(&format!("/lib/modules/{release}/modules.dep"), &lines.collect::<String>())
    }

    pub(crate) fn node(self, mode: u32, group: &str) -> Self {
        let node = Node { mode, owner: "root".into(), group: group.into() };
        self.probe(|probes| probes.node = Some(node))
    }

    pub(crate) fn probe(mut self, set: impl FnOnce(&mut Probes)) -> Self {
        set(&mut self.probes);
        self
    }

    pub(crate) fn machine(&self) -> Machine {
        Machine::new(self.root.path(), self.probes.clone())
    }

    /// The finding of a check with this id.
    pub(crate) fn finding(&self, check: fn(&Machine) -> Vec<Finding>, id: &str) -> Finding {
        let findings = check(&self.machine());
        let ids: Vec<_> = findings.iter().map(|finding| finding.id).collect();
        findings
            .iter()
            .find(|finding| finding.id == id)
            .unwrap_or_else(|| panic!("{ids:?}"))
            .clone()
    }
}

fn is_entry(line: &str) -> bool {
    ["= ", "> ", "! "].iter().any(|kind| line.starts_with(kind))
}
