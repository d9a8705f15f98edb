//! What a test needs of this machine. A missing tool is a failure that names its package. Only `LAB=skip` turns
//! the guests off, and that is reported.

use std::{env, path::Path};

use crate::{Failure, Outcome};

/// Programs and the Debian packages that contain them.
const PACKAGES: &[(&str, &str)] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("mmdebstrap", "mmdebstrap"),
    ("mke2fs", "e2fsprogs"),
    ("depmod", "kmod"),
    ("xz", "xz-utils"),
    ("setpriv", "util-linux"),
];

/// Fails unless each of `programs` is in `PATH` (or in root's directories of programs).
pub fn programs(programs: &[&str]) -> Outcome<()> {
    let missing: Vec<&str> = programs.iter().copied().filter(|name| !is_there(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|name| package_of(name)).collect();
    Err(Failure::new(format!(
        "this machine lacks {}; install: apt-get install --no-install-recommends {}\n\
         (./tests/run installs all that the tests need)",
        missing.join(", "),
        packages.join(" ")
    )))
}

/// Whether the guests of a test are to boot: `LAB=skip` turns them off. Fails if something that they need is
/// missing.
pub fn guests(test: &str) -> Outcome<bool> {
    if guests_are_off(test) {
        return Ok(false);
    }
    guest_programs()?;
    Ok(true)
}

/// Fails unless everything for building and booting guests is there.
pub fn guest_programs() -> Outcome<()> {
    programs(&[
        "qemu-system-x86_64",
        "mmdebstrap",
        "mke2fs",
        "depmod",
        "xz",
        "zstd",
        "lz4",
        "setpriv",
    ])
}

fn guests_are_off(test: &str) -> bool {
    let off = env::var("LAB").is_ok_and(|value| value == "skip");
    if off {
        println!("SKIPPED {test}: LAB=skip is set; nothing was tested");
    }
    off
}

fn is_there(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| Path::new(&folder).join(program).is_file())
}

fn package_of(program: &str) -> &str {
    PACKAGES.iter().find(|(name, _)| *name == program).map_or(program, |(_, package)| package)
}

#[cfg(test)]
mod tests {
    use super::programs;

    #[test]
    fn a_missing_tool_is_a_failure_that_names_its_package() {
        assert!(programs(&["sh"]).is_ok());
        let failure = programs(&["sh", "no-such-tool"]).unwrap_err().to_string();
        assert!(failure.contains("this machine lacks no-such-tool"), "{failure}");
        assert!(failure.contains("apt-get install"), "{failure}");
    }
}
