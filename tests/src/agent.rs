//! The agent on this machine, beside the guests that it serves.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use images::Images;

use crate::{Failure, Outcome};

const PATIENCE: Duration = Duration::from_mins(2);

/// An agent, ended with its value.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    log: Receiver<String>,
    seen: Vec<String>,
}

impl Agent {
    /// Starts it and waits until it listens.
    pub fn start(
        images: &Images,
        words: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Outcome<Self> {
        let agent = images.binaries()?.agent;
        let mut command = Command::new(agent);
        command.args(words.into_iter().map(|word| word.as_ref().to_owned()));
        let child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut child = child.map_err(|e| Failure::of("cannot start the agent", &e))?;
        let stderr = child.stderr.take().ok_or_else(|| Failure::new("no stderr"))?;
        let (lines, log) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                // The test may want no more.
                lines.send(line).ok();
            }
        });
        let mut agent = Self { child, log, seen: Vec::new() };
        agent.wait_for("listening on")?;
        Ok(agent)
    }

    /// The first line of its log, from where the last call stopped, that has `part` in it.
    pub fn wait_for(&mut self, part: &str) -> Outcome<String> {
        let deadline = Instant::now() + PATIENCE;
        while let Ok(line) =
            self.log.recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            self.seen.push(line.clone());
            if line.contains(part) {
                return Ok(line);
            }
        }
        Err(self.failure(&format!("did not say {part:?}")))
    }

    /// Waits until so many lines of its log, from its start, have `part` in them.
    pub fn wait_for_count(&mut self, part: &str, count: usize) -> Outcome<()> {
        let counted = |seen: &[String]| seen.iter().filter(|line| line.contains(part)).count();
        let mut have = counted(self.log());
        while have < count {
            self.wait_for(part)?;
            have += 1;
        }
        Ok(())
    }

    /// Waits until so many sessions have ended. One whose line was left out, since a client may cause only so
    /// many, is among those that the log counts every few seconds.
    pub fn wait_for_ends(&mut self, count: usize) -> Outcome<()> {
        const LEFT_OUT: &str = "lines of the log were left out";
        let ends = |line: &String| match line.split_once(LEFT_OUT) {
            Some((_, rest)) => {
                let lines = rest.split_once("lines=").and_then(|(_, n)| n.split(' ').next());
                lines.and_then(|n| n.parse().ok()).unwrap_or(0)
            }
            None => usize::from(line.contains(" end=")),
        };
        let mut looked = 0;
        let mut have = 0;
        loop {
            let seen = self.log();
            have += seen[looked..].iter().map(ends).sum::<usize>();
            looked = seen.len();
            if have >= count {
                return Ok(());
            }
            self.wait_for(LEFT_OUT)?;
        }
    }

    /// All that it has said.
    pub fn log(&mut self) -> &[String] {
        self.seen.extend(self.log.try_iter());
        &self.seen
    }

    /// `what` is wrong with this agent; with the end of its log.
    pub fn failure(&mut self, what: &str) -> Failure {
        let log = self.log();
        let tail = &log[log.len().saturating_sub(40)..];
        Failure::new(format!("the agent: {what}\n--- the end of its log:\n{}", tail.join("\n")))
    }

    /// How many descriptors it has open.
    pub fn descriptors(&self) -> Outcome<usize> {
        let folder = format!("/proc/{}/fd", self.child.id());
        let open = fs::read_dir(&folder).map_err(|e| Failure::of(&folder, &e))?;
        Ok(open.count())
    }

    /// What a line of its `/proc/PID/status` has: `VmRSS` in kibibytes, `Threads`.
    pub fn status(&self, key: &str) -> Outcome<u64> {
        let path = format!("/proc/{}/status", self.child.id());
        let text = fs::read_to_string(&path).map_err(|e| Failure::of(&path, &e))?;
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
            .ok_or_else(|| Failure::new(format!("{path} has no {key}")))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
