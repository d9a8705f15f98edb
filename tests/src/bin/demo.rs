//! demo: what `./images/demo` shows once everything is built. A guest without a network card uses a
//! disk that the agent serves over vsock, and the host finds in the disk what the guest wrote.
//!
//! With `/dev/vhost-vsock` the guest's device is the kernel's. Otherwise it ends inside the agent
//! (vhost-user), which needs no kernel module and no root. The demo connects to no vsock address
//! from this machine.

use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use images::Images;
use qemu::{
    args::{self, Sharing, VhostUser},
    vsock::Bus,
};
use tests::{
    Failure, Outcome, need, nest,
    qemu::{Accel, Machine},
};
use vsock_cid::GuestCid;

/// Where the guest writes, and how much of the disk is shown afterwards, in bytes.
const AT: u64 = 1 << 20;
/// The most characters shown of the guest's line about its kernel, which is longer.
const SHOWN: usize = 72;
/// The guest's commands. Process 1 of the tiny guest takes them from its kernel's command line.
const COMMANDS: [&str; 3] =
    ["info", "write --offset 1M --input /proc/version", "read --offset 1M --length 72"];

fn main() -> ExitCode {
    let started = Instant::now();
    match show() {
        Ok(()) => {
            println!("\nThe demo took {:.0} s.", started.elapsed().as_secs_f32());
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("demo: error: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn show() -> Outcome<()> {
    need::guest_programs()?;
    let images = Images::of_this_workspace()?;
    let accel = Accel::of_this_machine(&images)?;
    let has_vhost = File::options().read(true).write(true).open("/dev/vhost-vsock").is_ok();
    println!(
        "KVM: {}.",
        if accel == Accel::Kvm {
            "works here, and is used"
        } else {
            "none that works here: the processor is emulated"
        }
    );
    let folder = tempfile::tempdir().map_err(|e| Failure::of("cannot make a folder", &e))?;
    let way = if has_vhost {
        println!("/dev/vhost-vsock: is there, so the kernel carries the guest's vsock.");
        Way::Kernel(GuestCid::MIN)
    } else {
        println!("/dev/vhost-vsock: not here, so the guest's vsock ends inside the agent.");
        Way::Agent(folder.path().join("vm"))
    };
    run(&images, accel, folder.path(), &way)
}

/// Where the guest's vsock device ends.
enum Way {
    Kernel(GuestCid),
    /// In the agent, through the socket at this path.
    Agent(PathBuf),
}

impl Way {
    /// The agent's listener, a description of it for people, and QEMU's options.
    fn words(&self) -> Outcome<(String, &'static str, Vec<String>)> {
        Ok(match self {
            Self::Kernel(cid) => ("--vsock".into(), "--vsock", args::vsock(*cid).into()),
            Self::Agent(socket) => {
                let memory = "256M".parse().map_err(|e| Failure::of("256M", &e))?;
                let (bus, id, sharing) = (Bus::Pci, "vsock0".into(), Sharing::Machine);
                let device = VhostUser { bus, id, socket: socket.clone(), memory, sharing };
                let listen = format!("--listen=vhost-user:{}", socket.display());
                (listen, "--listen vhost-user:VM", device.arguments())
            }
        })
    }
}

/// Runs the agent here, and the guest on this machine.
fn run(images: &Images, accel: Accel, folder: &Path, way: &Way) -> Outcome<()> {
    let (disk, pidfile) = (folder.join("disk"), folder.join("agent.pid"));
    let (listen, shown, device) = way.words()?;
    let file = File::create_new(&disk).map_err(|e| Failure::of("cannot make a disk", &e))?;
    file.set_len(1 << 30).map_err(|e| Failure::of("cannot make a disk", &e))?;
    println!("\nOn the host:  agent {shown} file DISK     (DISK is an empty file of 1 GiB)");
    let agent = Command::new(images.binaries()?.agent)
        .args([&listen, "--pidfile"])
        .arg(&pidfile)
        .args(["--print-uri", "--log", "null", "file"])
        .arg(&disk)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| Failure::of("cannot start the agent", &e))?;
    let mut agent = Agent(agent);
    agent.wait_until_ready()?;
    introduce_the_guest();
    let started = Instant::now();
    let mut guest = Machine::new("demo", images.tiny()?)
        .memory(256)
        .append(&nest::words_after_the_dashes(&COMMANDS))
        .arguments(device)
        .start(accel)?;
    let console = guest.wait_for_end(Duration::from_secs(20) * accel.patience())?;
    tell_the_guests_story(&console.join("\n"), started.elapsed())?;
    let mut found = [0; SHOWN];
    File::open(&disk)
        .and_then(|file| file.read_exact_at(&mut found, AT))
        .map_err(|e| Failure::of("cannot read the disk", &e))?;
    tell_what_the_host_found(&String::from_utf8_lossy(&found));
    fs::remove_file(&disk).map_err(|e| Failure::of("cannot remove the disk", &e))
}

fn introduce_the_guest() {
    println!(
        "Starting the guest: no network card, one vsock device.\n\
         Its only program is guest-tools, which finds the host at vsock CID 2."
    );
}

fn tell_the_guests_story(console: &str, took: Duration) -> Outcome<()> {
    println!("\nIn the guest:");
    // The content of a disk need not end with a line end.
    let console = console.replace("guest-tools: done", "\nguest-tools: done");
    for line in console.lines().filter(|line| !line.is_empty()) {
        let told = line
            .strip_prefix("guest-tools: run: ")
            .map_or_else(|| format!("    {line}"), |command| format!("  guest-tools {command}"));
        println!("{told}");
    }
    let succeeded =
        console.lines().filter(|line| line.contains("guest-tools: done after ")).count();
    if succeeded < COMMANDS.len() {
        return Err(Failure::new("a command in the guest failed: its words are above"));
    }
    println!("The guest booted, did this and powered off in {:.0} s.", took.as_secs_f32());
    Ok(())
}

fn tell_what_the_host_found(found: &str) {
    println!("\nOn the host, in DISK, {AT} bytes from its beginning, what the guest wrote:");
    println!("    {}", found.trim_end());
}

/// A running agent, which is killed when dropped.
struct Agent(Child);

impl Agent {
    /// Waits for the agent to print the URI at which it can be reached.
    fn wait_until_ready(&mut self) -> Outcome<()> {
        let mut uri = [0; 1];
        let stdout = self.0.stdout.as_mut();
        match stdout.map(|stdout| stdout.read(&mut uri)) {
            Some(Ok(1)) => Ok(()),
            _ => Err(Failure::new("the agent did not start; its own words are above")),
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have exited already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
