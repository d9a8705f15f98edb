//! guest-tools as process 1 of the tiny guest: an initramfs with this binary, some kernel modules,
//! and nothing else.
//!
//! `main` calls it in process 1. It mounts the kernel's filesystems, loads the modules, runs the
//! command lines that the kernel's command line has after `--` (each quoted word is one command line
//! of guest-tools), prints how each ended, and powers off. It never returns and never asks for
//! input.

use std::{
    convert::Infallible,
    ffi::{CString, OsString},
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process,
    time::Instant,
};

use nix::{
    kmod::{ModuleInitFlags, finit_module},
    mount::{MsFlags, mount},
    sys::reboot::{RebootMode, reboot},
    unistd::sync,
};

/// The directory of the modules that are loaded at the start, in the order of their names.
const MODULES: &str = "/modules";
/// The directory of the modules that are loaded on demand: NAME.ko.
const DRIVERS: &str = "/drivers";

/// Whether this process is the machine's first.
pub(crate) fn is_first_process() -> bool {
    process::id() == 1
}

/// Brings the machine up, runs `lines` one after another, and powers it off. `perform` takes the
/// words of a command line, the program's name first, and returns whether it succeeded.
pub(crate) fn run(
    lines: impl Iterator<Item = OsString>,
    perform: impl Fn(Vec<String>) -> bool,
) -> Infallible {
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
    for line in lines {
        perform_one(&line.to_string_lossy(), &perform);
    }
    sync();
    power_off()
}

fn mount_kernel_filesystem(kind: &str, at: &str) -> io::Result<()> {
    fs::create_dir_all(at)?;
    mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>)?;
    Ok(())
}

/// Loads a driver from the image, where there is no modprobe.
pub(crate) fn load_driver(name: &str) -> io::Result<()> {
    load(&Path::new(DRIVERS).join(name).with_extension("ko"))
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

/// Runs a command line in this process, because starting another one takes an emulated guest
/// seconds. A panic must not get out: the kernel panics when process 1 ends.
fn perform_one(line: &str, perform: &impl Fn(Vec<String>) -> bool) {
    println!("guest-tools: run: {line}");
    let words = ["guest-tools"].into_iter().chain(line.split_whitespace());
    let words = words.map(str::to_owned).collect();
    let started = Instant::now();
    let verdict = match catch_unwind(AssertUnwindSafe(|| perform(words))) {
        Ok(true) => "done",
        Ok(false) => "failed",
        Err(_) => "panicked",
    };
    println!("guest-tools: {verdict} after {} ms: {line}", started.elapsed().as_millis());
}

fn complain(what: &str) {
    eprintln!("guest-tools: error: {what}");
}

fn power_off() -> Infallible {
    match reboot(RebootMode::RB_POWER_OFF) {
        Ok(never) => never,
        Err(error) => {
            complain(&format!("cannot power off: {error}"));
            // The kernel panics when process 1 ends. With `panic=-1` it then restarts, and QEMU
            // exits because of `-no-reboot`.
            process::exit(1)
        }
    }
}
