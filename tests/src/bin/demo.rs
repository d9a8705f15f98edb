//! demo: what `./images/demo` shows once everything is built. A guest with no network card uses a
//! disk that the agent serves over vsock, and the host finds in the disk what the guest wrote.
//!
//! With KVM and `/dev/vhost-vsock` the guest is this machine's. Without, it is the guest of an
//! emulated VM host. It connects to no vsock address from this machine.

use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::FileExt,
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use images::Images;
use qemu::args::{self, GuestCid};
use tests::{
    Failure, Outcome,
    guest::Guest,
    need,
    nest::{self, Inner},
    qemu::{Accel, Machine},
};

/// Where the guest writes, and how much of the disk is shown afterwards.
const AT: u64 = 1 << 20;
/// What the guest says of its kernel is longer than this.
const SHOWN: usize = 72;
/// What the guest does; process 1 of the tiny guest takes them from its kernel's command line.
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
    need::guests()?;
    let images = Images::of_this_workspace()?;
    let cid = GuestCid::new(3).map_err(|e| Failure::of("CID 3", &e))?;
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
    if has_vhost {
        println!("/dev/vhost-vsock: is there, so the guest is this machine's own.");
        on_this_machine(&images, accel, cid)
    } else {
        println!(
            "/dev/vhost-vsock: not here, so a whole VM host is emulated, with the agent on it, and \
             the guest runs inside that. It is slow, and nothing in it is a stand-in."
        );
        inside_a_vm_host(cid)
    }
}

/// The agent runs here, and the guest is this machine's.
fn on_this_machine(images: &Images, accel: Accel, cid: GuestCid) -> Outcome<()> {
    let folder = tempfile::tempdir().map_err(|e| Failure::of("cannot make a folder", &e))?;
    let (disk, pidfile) = (folder.path().join("disk"), folder.path().join("agent.pid"));
    let file = File::create_new(&disk).map_err(|e| Failure::of("cannot make a disk", &e))?;
    file.set_len(1 << 30).map_err(|e| Failure::of("cannot make a disk", &e))?;
    println!("\nOn the host:  agent --vsock file DISK     (DISK is an empty file of 1 GiB)");
    let agent = Command::new(images.binaries()?.agent)
        .args(["--vsock", "--pidfile"])
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
        .arguments(args::vsock(cid))
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

/// The agent runs on an emulated VM host, and the guest inside that.
fn inside_a_vm_host(cid: GuestCid) -> Outcome<()> {
    println!();
    let mut host = Guest::boot("demo")?;
    println!("\nOn the host:  agent --vsock file DISK     (DISK is an empty file of 1 GiB)");
    host.sh(". /tools/scripts/lab.sh
         truncate -s 1G /run/lab/disk
         serve demo --vsock file /run/lab/disk")?;
    introduce_the_guest();
    let started = Instant::now();
    let consoles = nest::run(&mut host, &[(Inner::Tiny(&COMMANDS), cid)])?;
    tell_the_guests_story(&consoles.concat(), started.elapsed())?;
    let found =
        host.sh(&format!("dd if=/run/lab/disk bs=1 skip={AT} count={SHOWN} status=none"))?;
    tell_what_the_host_found(&found);
    Ok(())
}

fn introduce_the_guest() {
    println!(
        "Starting the guest: no network card, one vsock device (vhost-vsock-pci, guest-cid=3).\n\
         Its only program is guest-tools, which finds the host at vsock CID 2."
    );
}

fn tell_the_guests_story(console: &str, took: Duration) -> Outcome<()> {
    println!("\nIn the guest:");
    // What a disk holds need not end a line.
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

/// A running agent; ended when dropped.
struct Agent(Child);

impl Agent {
    /// It prints where it can be reached when it can be.
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
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
