//! A guest inside the VM host: a second QEMU, whose vsock device ends in the VM host's kernel.
//!
//! This guest is set up as a user's guest is: `vhost-vsock-pci`, no network card, the agent's
//! machine at CID 2. Only the processor is emulated, twice.

use std::time::Duration;

use qemu::args;
use vsock_cid::GuestCid;

use crate::{Outcome, guest::Guest};

/// The time limit from power-on to power-off under KVM. Emulation in emulation is given more.
const LIFE: Duration = Duration::from_secs(100);

/// The VM host's processors.
const PROCESSORS: usize = 2;

/// How often a guest is started again if its kernel crashed before its first process.
const RESTARTS: usize = 5;

/// The kind of an inner guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inner<'a> {
    /// The tiny guest. Each text is a command line of guest-tools.
    Tiny(&'a [&'a str]),
    /// The VM host's own Debian, without systemd. The text is a script of `tests/guest`.
    Debian(&'a str),
}

impl Inner<'_> {
    fn initramfs(self) -> &'static str {
        match self {
            Self::Tiny(_) => "/tools/boot/tiny",
            Self::Debian(_) => "/tools/boot/debian",
        }
    }

    fn append(self) -> String {
        let common = "console=ttyS0 quiet panic=-1 mitigations=off";
        match self {
            Self::Tiny(commands) => format!("{common} {}", words_after_the_dashes(commands)),
            Self::Debian(script) => {
                format!("{common} lab_init=/usr/local/sbin/lab-init lab_script=scripts/{script}")
            }
        }
    }

    fn memory(self) -> u32 {
        match self {
            Self::Tiny(_) => 256,
            Self::Debian(_) => 512,
        }
    }

    /// The VM host's own disks, which the guest only reads.
    fn disks(self) -> &'static [&'static str] {
        match self {
            Self::Tiny(_) => &[],
            Self::Debian(_) => &["/dev/vda", "/dev/vdb"],
        }
    }
}

/// Joins command lines of guest-tools for the kernel's command line of the tiny guest. They must
/// not contain `"`.
pub fn words_after_the_dashes(commands: &[&str]) -> String {
    let quoted: Vec<String> = commands.iter().map(|command| format!("\"{command}\"")).collect();
    format!("-- {}", quoted.join(" "))
}

/// The shell command that runs an inner guest to its end. Its output is the guest's console.
pub fn command(inner: Inner<'_>, cid: GuestCid) -> String {
    format!("{} -no-reboot {}", machine(inner), args::vsock(cid).join(" "))
}

/// Like [`command`], without a vsock device, and able to restart.
pub fn machine(inner: Inner<'_>) -> String {
    // Without cmpxchg16b the kernel takes another path in its allocator. Emulated twice, that
    // instruction has returned garbage in the flags register and broken the boot.
    let mut words: Vec<String> =
        "qemu-system-x86_64 -accel tcg -cpu qemu64,-cx16 -M q35 -nodefaults \
        -no-user-config -display none -serial stdio -kernel /tools/boot/vmlinux"
            .split_whitespace()
            .map(str::to_owned)
            .collect();
    words.extend(["-m".to_owned(), inner.memory().to_string()]);
    words.extend(["-initrd".to_owned(), inner.initramfs().to_owned()]);
    words.extend(["-append".to_owned(), format!("'{}'", inner.append())]);
    for disk in inner.disks() {
        let drive = format!("if=virtio,format=raw,readonly=on,file.locking=off,file={disk}");
        words.extend(["-drive".to_owned(), drive]);
    }
    words.join(" ")
}

/// Runs inner guests at the same time, each on a processor of its own, until they have powered off.
/// Returns their consoles.
pub fn run(host: &mut Guest, inners: &[(Inner<'_>, GuestCid)]) -> Outcome<Vec<String>> {
    let mut script = vec!["modprobe vhost_vsock".to_owned()];
    script.extend(inners.iter().enumerate().map(|(index, (inner, cid))| {
        let (processor, command) = (index % PROCESSORS, command(*inner, *cid));
        format!(
            "taskset -c {processor} {command} >/run/lab/inner.{cid} 2>&1 & guests=\"$guests $!\""
        )
    }));
    script.push("for guest in $guests; do wait $guest; done".to_owned());
    host.sh_within(&script.join("\n"), LIFE)?;
    let mut consoles = Vec::new();
    for (inner, cid) in inners {
        let mut console = host.sh(&format!("cat /run/lab/inner.{cid}"))?;
        // Seen in about one of ten runs: emulation in emulation crashes a kernel that does not
        // crash elsewhere, before any of our code has run in it.
        for _ in 0..RESTARTS {
            if !crashed(&console) {
                break;
            }
            println!("nest: the kernel of guest {cid} crashed as it started; again:\n{console}");
            console = host.sh_within(&command(*inner, *cid), LIFE)?;
        }
        consoles.push(console);
    }
    Ok(consoles)
}

/// Whether the kernel of an emulated guest crashed before its first process printed anything.
fn crashed(console: &str) -> bool {
    console.contains("Kernel panic") && !FIRST_WORDS.iter().any(|word| console.contains(word))
}

/// The first output of the first processes of the two kinds of guests.
const FIRST_WORDS: [&str; 2] = ["guest-tools: ready", "network cards: "];
