//! A machine under QEMU: started from a kernel and an initramfs, watched through its console, and ended.
//!
//! It has no network card. It ends when its value is dropped, and with the thread that started it.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use images::{Boot, Images};

use crate::{Failure, Outcome};

/// Long enough for KVM to boot the tiny guest about ten times.
const PROBE: Duration = Duration::from_secs(10);
/// How many lines of the console a failure shows.
const TAIL: usize = 60;

/// How the machine's processors run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// The processor's own virtualization.
    Kvm,
    /// Emulation. It works everywhere, and is about ten times slower.
    Tcg,
}

impl Accel {
    /// KVM if a kernel really boots with it, otherwise emulation. On some machines `/dev/kvm` opens and a
    /// guest then hangs. The result is kept until this machine restarts.
    pub fn of_this_machine(images: &Images) -> Outcome<Self> {
        if File::options().read(true).write(true).open("/dev/kvm").is_err() {
            return Ok(Self::Tcg);
        }
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let memo = images.folder().join("kvm");
        if let Ok(known) = fs::read_to_string(&memo)
            && let Some(verdict) = known.strip_prefix(&boot_id)
        {
            return Ok(if verdict == "works" { Self::Kvm } else { Self::Tcg });
        }
        let probe = Machine::new("kvm-probe", images.tiny()?).memory(256);
        let works = probe.start(Self::Kvm)?.wait_for("guest-tools: ready", PROBE).is_ok();
        let verdict = if works { "works" } else { "hangs" };
        // If the result cannot be stored, the next caller loses ten seconds and no more.
        drop(fs::write(memo, format!("{boot_id}{verdict}")));
        Ok(if works { Self::Kvm } else { Self::Tcg })
    }

    /// The name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "KVM",
            Self::Tcg => "emulation (no working KVM)",
        }
    }

    /// The factor for time limits that were measured under KVM.
    pub fn patience(self) -> u32 {
        match self {
            Self::Kvm => 1,
            Self::Tcg => 6,
        }
    }

    fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Self::Tcg => ["-accel", "tcg", "-cpu", "qemu64"],
        }
    }
}

/// A machine that can be started.
#[derive(Debug, Clone)]
pub struct Machine {
    name: String,
    boot: Boot,
    processors: u32,
    memory: u32,
    append: String,
    more: Vec<String>,
    restarts: bool,
}

impl Machine {
    /// `name` is for messages and the console's file.
    pub fn new(name: &str, boot: Boot) -> Self {
        // Nobody attacks an emulated guest through its caches, and it is slow already.
        let append = "console=ttyS0 quiet panic=-1 mitigations=off".to_owned();
        Self {
            name: name.to_owned(),
            boot,
            processors: 1,
            memory: 512,
            append,
            more: Vec::new(),
            restarts: false,
        }
    }

    pub fn processors(mut self, count: u32) -> Self {
        self.processors = count;
        self
    }

    /// Sets the memory, in MiB.
    pub fn memory(mut self, mib: u32) -> Self {
        self.memory = mib;
        self
    }

    /// Adds words to the kernel's command line.
    pub fn append(mut self, words: &str) -> Self {
        self.append.push(' ');
        self.append.push_str(words);
        self
    }

    /// Lets a guest restart, instead of ending the machine.
    pub fn restarts(mut self) -> Self {
        self.restarts = true;
        self
    }

    /// Adds a disk that the guest can only read. It appears in `/dev/disk/by-id` under `virtio-SERIAL`.
    pub fn disk(self, serial: &str, path: &Path) -> Self {
        let path = path.display();
        self.arguments([
            "-drive".to_owned(),
            format!("if=none,id={serial},format=raw,readonly=on,file={path}"),
            "-device".to_owned(),
            format!("virtio-blk-pci,drive={serial},serial={serial}"),
        ])
    }

    /// Adds words to QEMU's command line.
    pub fn arguments(mut self, words: impl IntoIterator<Item = String>) -> Self {
        self.more.extend(words);
        self
    }

    /// Starts the machine, with nothing connected to the lab's port.
    pub fn start(self, accel: Accel) -> Outcome<Running> {
        self.launch(accel, Stdio::null())
    }

    /// Starts the machine with a virtio port named `lab`, and returns the port's other end.
    pub fn start_with_port(self, accel: Accel) -> Outcome<(Running, UnixStream)> {
        let (ours, theirs) =
            UnixStream::pair().map_err(|e| Failure::of("cannot make a pair of sockets", &e))?;
        let port = ["-chardev", "socket,id=lab,fd=0", "-device", "virtio-serial-pci"];
        let named = ["-device", "virtserialport,chardev=lab,name=lab"];
        let machine = self.arguments(port.iter().chain(&named).map(|&word| word.to_owned()));
        Ok((machine.launch(accel, OwnedFd::from(theirs).into())?, ours))
    }

    fn launch(self, accel: Accel, stdin: Stdio) -> Outcome<Running> {
        let log = log_folder()?.join(format!("{}.{}", self.name, std::process::id()));
        let errors = log.with_added_extension("stderr");
        let error_file = File::create(&errors)
            .map_err(|e| Failure::of(&format!("cannot create {}", errors.display()), &e))?;
        // QEMU must end with the process that started it, even when that is killed.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "qemu-system-x86_64", "-M", "q35", "-nodefaults"])
            .args(["-no-user-config", "-display", "none"])
            .args((!self.restarts).then_some("-no-reboot"))
            .args(["-serial", "file:/dev/stdout"])
            .args(accel.arguments())
            .args(["-smp", &self.processors.to_string(), "-m", &self.memory.to_string()])
            .arg("-kernel")
            .arg(&self.boot.kernel)
            .arg("-initrd")
            .arg(&self.boot.initramfs)
            .args(["-append", &self.append])
            .args(&self.more)
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(error_file);
        let mut child = command.spawn().map_err(|e| Failure::of("cannot run setpriv", &e))?;
        let stdout = child.stdout.take().ok_or_else(|| Failure::new("QEMU without a console"))?;
        let console = log.with_added_extension("console");
        let file = File::create(&console)
            .map_err(|e| Failure::of(&format!("cannot create {}", console.display()), &e))?;
        let (to, lines) = mpsc::channel();
        thread::spawn(move || follow(BufReader::new(stdout), file, &to));
        Ok(Running { name: self.name, child, lines, console, errors, seen: Vec::new() })
    }
}

/// Copies the console to a file and to the receiver of lines, until the machine ends.
fn follow(mut console: impl BufRead, mut file: File, to: &mpsc::Sender<String>) {
    let mut line = Vec::new();
    while console.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
        // Neither a full disk nor a receiver that has gone may stop the machine's console.
        drop(file.write_all(&line));
        drop(to.send(String::from_utf8_lossy(&line).trim_end().to_owned()));
        line.clear();
    }
}

/// The directory of the consoles. They are kept after a failure.
fn log_folder() -> Outcome<PathBuf> {
    let folder = Images::of_this_workspace()?.folder().join("consoles");
    fs::create_dir_all(&folder)
        .map_err(|e| Failure::of(&format!("cannot create {}", folder.display()), &e))?;
    Ok(folder)
}

/// A started machine.
#[derive(Debug)]
pub struct Running {
    name: String,
    child: Child,
    lines: Receiver<String>,
    console: PathBuf,
    errors: PathBuf,
    seen: Vec<String>,
}

impl Running {
    /// Waits for the next line of the console that contains `text`, starting after the last call's line.
    pub fn wait_for(&mut self, text: &str, patience: Duration) -> Outcome<String> {
        let deadline = Instant::now() + patience;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(text) {
                        return Ok(line);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    let seconds = patience.as_secs();
                    return Err(self.failure(&format!("did not say {text:?} in {seconds} s")));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(self.failure(&format!("ended without saying {text:?}")));
                }
            }
        }
    }

    /// Waits for lines of the console that contain these texts, in this order. `patience` is the time limit
    /// of each.
    pub fn wait_for_each(&mut self, texts: &[&str], patience: Duration) -> Outcome<()> {
        texts.iter().try_for_each(|text| self.wait_for(text, patience).map(drop))
    }

    /// Waits until the machine has powered off. Returns everything on its console.
    pub fn wait_for_end(&mut self, patience: Duration) -> Outcome<Vec<String>> {
        let deadline = Instant::now() + patience;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Timeout) => {
                    let seconds = patience.as_secs();
                    return Err(self.failure(&format!("did not power off in {seconds} s")));
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        match self.child.wait() {
            Ok(status) if status.success() => Ok(self.seen.clone()),
            Ok(status) => Err(self.failure(&format!("QEMU ended with {status}"))),
            Err(error) => Err(Failure::of("cannot wait for QEMU", &error)),
        }
    }

    /// Everything on its console so far.
    pub fn console(&mut self) -> &[String] {
        self.seen.extend(self.lines.try_iter());
        &self.seen
    }

    /// The failure `what` of this machine, with the end of its console and QEMU's output.
    pub fn failure(&mut self, what: &str) -> Failure {
        self.seen.extend(self.lines.try_iter());
        let tail = &self.seen[self.seen.len().saturating_sub(TAIL)..];
        let errors = fs::read_to_string(&self.errors).unwrap_or_default();
        Failure::new(format!(
            "the machine {}: {what}\n--- QEMU: {}\n--- the end of its console ({}):\n{}\n---",
            self.name,
            errors.trim_end(),
            self.console.display(),
            tail.join("\n")
        ))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have exited already.
        drop(self.child.kill());
        drop(self.child.wait());
        if !thread::panicking() {
            drop(fs::remove_file(&self.errors));
        }
    }
}
