//! System calls without a safe wrapper. These are the only modules of this crate with `unsafe`; each block says why it
//! is sound.

#[allow(unsafe_code, reason = "nix has no io_submit with an eventfd of another process")]
pub(crate) mod aio;
#[allow(unsafe_code, reason = "nix has no preadv2 with flags")]
pub(crate) mod eventfd;
#[allow(unsafe_code, reason = "a handler for SIGBUS")]
pub(crate) mod shared;
#[allow(unsafe_code, reason = "nix loses the descriptors of a message that was cut")]
pub(crate) mod socket;

/// Bytes of this process's page tables (VmPTE of proc_pid_status(5)); `None` if /proc does not say.
pub(crate) fn page_tables() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmPTE:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes << 10)
}
