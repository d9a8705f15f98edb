//! The memory of the whole process: locking, protection from the OOM killer, and its size.

use std::{fs, io, path::Path};

use nix::sys::sysinfo::sysinfo;

/// Locks the process's present and future memory (mlockall(2)).
pub(crate) fn lock_all() -> io::Result<()> {
    // SAFETY: takes no pointer, and changes nothing that Rust relies on.
    let result = unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Exempts this process from the OOM killer. If a machine swaps to this process's disk, it needs it most when memory
/// runs out.
pub(crate) fn spare_from_oom() -> io::Result<()> {
    // OOM_SCORE_ADJ_MIN, <linux/oom.h>.
    fs::write("/proc/self/oom_score_adj", "-1000")
}

/// Bytes of memory that this process may use: those of the machine, or the limit of its cgroup if that is lower.
pub(crate) fn available() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").ok();
    let machine = machine(meminfo.as_deref(), sysinfo().ok().map(|info| info.ram_total()));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    of_groups(Path::new("/sys/fs/cgroup"), &groups).min(machine)
}

/// The machine's memory in bytes. There is no /proc/meminfo if systemd shows a service only its own processes
/// (`ProcSubset=pid`). A container may have its own, with a lower value than sysinfo(2).
fn machine(meminfo: Option<&str>, sysinfo: Option<u64>) -> u64 {
    let known = [meminfo.and_then(total), sysinfo].into_iter().flatten().min();
    // Without either: a value low enough that nothing missing is promised.
    known.unwrap_or(1 << 30)
}

/// The value of `MemTotal` in bytes, proc_meminfo(5).
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The lowest limit of the process's groups and all their ancestors, in both hierarchies of cgroups(7).
fn of_groups(root: &Path, groups: &str) -> u64 {
    let mut least = u64::MAX;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (root, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            "memory" => (root.join("memory"), "memory.limit_in_bytes"),
            _ => continue,
        };
        for group in Path::new(path.trim_start_matches('/')).ancestors() {
            let limit = fs::read_to_string(root.join(group).join(file));
            // "max" does not parse, and means no limit.
            if let Some(limit) = limit.ok().and_then(|limit| limit.trim().parse().ok()) {
                least = least.min(limit);
            }
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_limit_of_the_groups_counts() {
        let root = tempfile::tempdir().unwrap();
        let put = |group: &str, file: &str, text: &str| {
            fs::create_dir_all(root.path().join(group)).unwrap();
            fs::write(root.path().join(group).join(file), text).unwrap();
        };
        put("system.slice/agent.service", "memory.max", "max\n");
        assert_eq!(of_groups(root.path(), "0::/system.slice/agent.service\n"), u64::MAX);
        put("system.slice", "memory.max", "4096\n");
        assert_eq!(of_groups(root.path(), "0::/system.slice/agent.service\n"), 4096);
        put("memory/box", "memory.limit_in_bytes", "1000\n");
        assert_eq!(of_groups(root.path(), "9:memory:/box\n3:cpu:/box\n"), 1000);
        assert_eq!(total("MemTotal:       24540000 kB\nMemFree: 1 kB\n"), Some(24_540_000 * 1024));
        assert!(available() > 0);
        assert_eq!(machine(None, Some(7 << 40)), 7 << 40);
        assert_eq!(machine(Some("MemTotal: 4 kB\n"), Some(7 << 40)), 4096);
        assert_eq!(machine(None, None), 1 << 30);
    }
}
