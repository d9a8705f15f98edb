//! The parent of this process, whose end may also end this one, and the descendants of a child. No `unsafe` in here.

use std::{fs, io, os::fd::OwnedFd};

use nix::{
    sys::{
        prctl::set_pdeathsig,
        signal::{Signal, kill},
    },
    unistd::{Pid, getppid},
};

use super::poll;

/// Process 1, which adopts the children of processes that have ended.
const INIT: Pid = Pid::from_raw(1);
/// Maximum number of processes of a tree that are looked at.
const MOST: usize = 4096;

/// The process that started this one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parent(Pid);

impl Parent {
    /// Makes the kernel send TERM to this process when the thread that started it ends (prctl(2)). `None` if it has
    /// ended already. Must be called again after a change of the user, which undoes it.
    pub(crate) fn end_with() -> io::Result<Option<Self>> {
        let parent = getppid();
        set_pdeathsig(Signal::SIGTERM)?;
        // A parent that ended before the call triggers no signal any more.
        Ok((parent != INIT && getppid() == parent).then_some(Self(parent)))
    }

    /// Whether the parent has ended, that is, another process has adopted this one.
    pub(crate) fn is_gone(self) -> bool {
        getppid() != self.0
    }
}

/// A process and its descendants, except those whose parents have ended.
#[derive(Debug)]
pub(crate) struct Tree(Vec<(Pid, OwnedFd)>);

impl Tree {
    /// The tree of a child that has not been waited for.
    pub(crate) fn of(root: Pid) -> Self {
        let mut found = Self(Vec::new());
        found.add(vec![root]);
        found
    }

    /// Adds the processes that were started meanwhile.
    pub(crate) fn grow(&mut self) {
        let next = self.alive().flat_map(children).collect();
        self.add(next);
    }

    /// Stops all of them with SIGSTOP, so that none starts another unseen, until `SIGCONT` or `SIGKILL`.
    pub(crate) fn freeze(&mut self) {
        loop {
            let count = self.0.len();
            // A process that cannot be stopped cannot be ended either, and that is reported.
            self.signal(Signal::SIGSTOP).ok();
            self.grow();
            if self.0.len() == count {
                return;
            }
        }
    }

    fn add(&mut self, mut next: Vec<Pid>) {
        while let Some(pid) = next.pop() {
            if self.0.len() >= MOST {
                break;
            }
            // Compares the number first, because checking whether a process has ended is a system call.
            if self.0.iter().any(|(known, end)| *known == pid && !poll::is_readable(end)) {
                continue;
            }
            // Opened before its children are read, so that they are those of the process that `end` refers to.
            let Ok(end) =
                u32::try_from(pid.as_raw()).map_err(io::Error::other).and_then(poll::process)
            else {
                continue;
            };
            next.extend(children(pid));
            self.0.push((pid, end));
        }
    }

    /// Sends the signal to all running processes, the root first. Returns the first error.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        let sent = self.alive().map(|pid| kill(pid, signal));
        // A process that has just ended needs no signal.
        let failed = sent.filter_map(Result::err).find(|error| *error != nix::Error::ESRCH);
        failed.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Whether all of them have ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.alive().next().is_none()
    }

    fn alive(&self) -> impl Iterator<Item = Pid> {
        self.0.iter().filter(|(_, end)| !poll::is_readable(end)).map(|(pid, _)| *pid)
    }
}

fn children(pid: Pid) -> Vec<Pid> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists =
        threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let mut all = Vec::new();
    for list in lists {
        all.extend(list.split_whitespace().filter_map(|id| id.parse().ok()).map(Pid::from_raw));
    }
    all
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader},
        process::{Command, Stdio},
    };

    use super::*;

    #[test]
    fn a_tree_has_the_children_of_children() {
        let script = "sh -c 'sleep 1000 & echo ready; wait' & wait";
        let mut child =
            Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let tree = Tree::of(Pid::from_raw(child.id().cast_signed()));
        assert_eq!(tree.0.len(), 3, "{tree:?}");
        assert!(!tree.has_ended());
        tree.signal(Signal::SIGKILL).unwrap();
        child.wait().unwrap();
        let start = std::time::Instant::now();
        while !tree.has_ended() {
            assert!(start.elapsed().as_secs() < 30);
            std::thread::yield_now();
        }
        tree.signal(Signal::SIGKILL).unwrap();
    }
}
