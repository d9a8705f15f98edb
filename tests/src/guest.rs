//! The Debian VM host, booted, and commands that run in it.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use images::{Images, Tool};

use crate::{
    Failure, Outcome,
    qemu::{Accel, Machine, Running},
};

/// The time limit of one command, under KVM.
const COMMAND: Duration = Duration::from_mins(1);
/// The time limit from power-on until systemd has finished booting, under KVM.
const BOOT: Duration = Duration::from_mins(1);

/// A booted VM host. It is ended when dropped.
#[derive(Debug)]
pub struct Guest {
    machine: Running,
    port: BufReader<UnixStream>,
    patience: u32,
}

/// How a command in a guest ended, and what it wrote to standard output and standard error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    pub status: i32,
    pub output: String,
}

impl Guest {
    /// Boots the VM host with the `scripts` of `tests/guest/` (and everything else on the tools
    /// disk) under `/tools`.
    pub fn boot(name: &str) -> Outcome<Self> {
        Self::boot_with(name, &[])
    }

    /// Like [`Self::boot`], with `more` on the tools disk.
    pub fn boot_with(name: &str, more: &[Tool]) -> Outcome<Self> {
        Self::boot_as(name, more, Ok)
    }

    /// Like [`Self::boot_with`], on a machine that `shape` has changed.
    pub fn boot_as(
        name: &str,
        more: &[Tool],
        shape: impl FnOnce(Machine) -> Outcome<Machine>,
    ) -> Outcome<Self> {
        let images = Images::of_this_workspace()?;
        let host = images.host()?;
        let tools = images.tools(&[scripts()?.as_slice(), more].concat())?;
        let accel = Accel::of_this_machine(&images)?;
        let started = Instant::now();
        println!("{name}: booting the VM host with {}", accel.name());
        let machine = Machine::new(name, host.boot)
            .processors(2)
            .memory(2048)
            .append("systemd.show_status=false")
            .disk("root", &host.root)
            .disk("tools", &tools);
        let (machine, port) = shape(machine)?.start_with_port(accel)?;
        let mut guest = Self { machine, port: BufReader::new(port), patience: accel.patience() };
        guest.up()?;
        println!("{name}: up after {:.1} s", started.elapsed().as_secs_f32());
        Ok(guest)
    }

    fn up(&mut self) -> Outcome<()> {
        let hello = self.line(BOOT)?;
        if hello == "ready" {
            return Ok(());
        }
        Err(self.machine.failure(&format!("the lab's port said {hello:?}")))
    }

    /// Runs a script that restarts the guest, and waits until the guest is up again. Returns
    /// everything on its console since its first start.
    pub fn restart_by(&mut self, script: &str) -> Outcome<&[String]> {
        let started = Instant::now();
        self.ask(script)?;
        self.up()?;
        println!("up again after {:.1} s", started.elapsed().as_secs_f32());
        Ok(self.machine.console())
    }

    /// Runs a shell script and returns how it ended.
    pub fn run(&mut self, script: &str) -> Outcome<Ended> {
        self.run_within(script, COMMAND)
    }

    /// Like [`Self::run`], with a time limit (under KVM; emulation is given more).
    pub fn run_within(&mut self, script: &str, patience: Duration) -> Outcome<Ended> {
        self.ask(script)?;
        let header = self.line(patience)?;
        let numbers: Option<(i32, usize)> = header.strip_prefix("exit ").and_then(|rest| {
            let (status, length) = rest.split_once(' ')?;
            Some((status.parse().ok()?, length.parse().ok()?))
        });
        let Some((status, length)) = numbers else {
            return Err(self.machine.failure(&format!("the lab's port said {header:?}")));
        };
        let mut output = vec![0; length];
        if let Err(error) = self.port.read_exact(&mut output) {
            return Err(self.machine.failure(&format!("output of {length} bytes: {error}")));
        }
        Ok(Ended { status, output: String::from_utf8_lossy(&output).trim_end().to_owned() })
    }

    fn ask(&mut self, script: &str) -> Outcome<()> {
        let request = format!("{}\n{script}", script.len());
        let asked = self.port.get_mut().write_all(request.as_bytes());
        asked.map_err(|error| self.machine.failure(&format!("took no command: {error}")))
    }

    /// Runs a shell script that has to succeed, and returns its output.
    pub fn sh(&mut self, script: &str) -> Outcome<String> {
        self.sh_within(script, COMMAND)
    }

    /// Like [`Self::sh`], with a time limit.
    pub fn sh_within(&mut self, script: &str, patience: Duration) -> Outcome<String> {
        let ended = self.run_within(&format!("set -e\n{script}"), patience)?;
        if ended.status == 0 {
            return Ok(ended.output);
        }
        let what = format!(
            "a script in it ended with status {}:\n{script}\n--- and said:\n{}",
            ended.status, ended.output
        );
        Err(self.machine.failure(&what))
    }

    /// A named check: `script` has to succeed. Prints the name and the duration.
    pub fn check(&mut self, name: &str, script: &str) -> Outcome<String> {
        let started = Instant::now();
        let output = self.sh(script)?;
        println!("ok: {name} ({:.1} s)", started.elapsed().as_secs_f32());
        Ok(output)
    }

    /// A named check: `script` has to succeed with `answer` as the last line of its output.
    pub fn expect(&mut self, name: &str, script: &str, answer: &str) -> Outcome<()> {
        let output = self.check(name, script)?;
        if output.lines().last() == Some(answer) {
            return Ok(());
        }
        Err(self.machine.failure(&format!("{name}: {script}\nexpected {answer:?}, got:\n{output}")))
    }

    /// A failure of this guest, with its console.
    pub fn failure(&mut self, what: &str) -> Failure {
        self.machine.failure(what)
    }

    fn line(&mut self, patience: Duration) -> Outcome<String> {
        let patience = patience * self.patience;
        let mut line = String::new();
        let read = self
            .port
            .get_ref()
            .set_read_timeout(Some(patience))
            .and_then(|()| self.port.read_line(&mut line));
        match read {
            Ok(count) if count > 0 => Ok(line.trim_end().to_owned()),
            Ok(_) => Err(self.machine.failure("ended")),
            Err(error) => {
                let seconds = patience.as_secs();
                Err(self.machine.failure(&format!("no answer in {seconds} s ({error})")))
            }
        }
    }
}

/// The scripts for inner guests: the files of `tests/guest`.
fn scripts() -> Outcome<Vec<Tool>> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("guest");
    let cannot = |e: std::io::Error| Failure::of(&format!("cannot list {}", folder.display()), &e);
    let mut tools = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(cannot)? {
        let entry = entry.map_err(cannot)?;
        let name = format!("scripts/{}", entry.file_name().to_string_lossy());
        tools.push(Tool { name, source: entry.path() });
    }
    tools.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(tools)
}
