//! guest-tools as process 1 of the tiny guest: an initramfs with this binary, some kernel modules,
//! and nothing else.
//!
//! `main` calls it when it finds itself to be process 1. It mounts the kernel's filesystems, loads
//! the modules, runs what the kernel's command line has after `--` (each word in quotes is one
//! command line of guest-tools), says how each ended, and powers off. It never returns and never
//! asks anything.

use std::{
    convert::Infallible,
    ffi::{CString, OsString},
    fs, io,
    path::{Path, PathBuf},
    process::{self, Command, ExitStatus},
    time::Instant,
};

use nix::{
    kmod::{ModuleInitFlags, finit_module},
    mount::{MsFlags, mount},
    sys::reboot::{RebootMode, reboot},
    unistd::sync,
};

/// Where the image's recipe puts the modules; loaded in the order of their names.
const MODULES: &str = "/modules";

/// What a shell says of a command that could not be run.
const NOT_RUN: i32 = 127;

/// Whether this process is the machine's first.
pub(crate) fn is_first_process() -> bool {
    process::id() == 1
}

/// Brings the machine up, runs `commands` one after another, and powers it off.
pub(crate) fn run(commands: impl Iterator<Item = OsString>) -> Infallible {
    let started = Instant::now();
    for (kind, at) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        if let Err(error) = mount_kernel_filesystem(kind, at) {
            complain(&format!("cannot mount {kind} on {at}: {error}"));
        }
    }
    match modules() {
        Ok(paths) => paths.iter().for_each(|path| {
            if let Err(error) = load(path) {
                complain(&format!("cannot load the module {}: {error}", path.display()));
            }
        }),
        Err(error) => complain(&format!("cannot list {MODULES}: {error}")),
    }
    println!("guest-tools: ready {} ms after process 1 started", started.elapsed().as_millis());
    for command in commands {
        run_one(&command.to_string_lossy());
    }
    sync();
    power_off()
}

fn mount_kernel_filesystem(kind: &str, at: &str) -> io::Result<()> {
    fs::create_dir_all(at)?;
    mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>)?;
    Ok(())
}

fn modules() -> io::Result<Vec<PathBuf>> {
    let mut paths =
        fs::read_dir(MODULES)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn load(path: &Path) -> io::Result<()> {
    let file = fs::File::open(path)?;
    let no_parameters = CString::default();
    finit_module(&file, &no_parameters, ModuleInitFlags::empty())?;
    Ok(())
}

/// Runs one command line in a process of its own: what it does wrong must not take process 1 down,
/// because the kernel panics when that one ends.
fn run_one(line: &str) {
    println!("guest-tools: run: {line}");
    let started = Instant::now();
    let status = Command::new("/proc/self/exe").args(line.split_whitespace()).status();
    let code = match status {
        Ok(status) => code_of(status),
        Err(error) => {
            complain(&format!("cannot start it: {error}"));
            NOT_RUN
        }
    };
    println!("guest-tools: exit {code} after {} ms: {line}", started.elapsed().as_millis());
}

/// An exit code as a shell would give it: 128 and the number for an end by a signal.
fn code_of(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

fn complain(what: &str) {
    eprintln!("guest-tools: error: {what}");
}

fn power_off() -> Infallible {
    match reboot(RebootMode::RB_POWER_OFF) {
        Ok(never) => never,
        Err(error) => {
            complain(&format!("cannot power off: {error}"));
            // The kernel panics when process 1 ends, and `panic=-1` then restarts it, which
            // QEMU's `-no-reboot` makes an end.
            process::exit(1)
        }
    }
}
