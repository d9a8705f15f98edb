//! System calls. These are the only modules of this crate with `unsafe`, and only where no safe
//! wrapper exists. Each block says why it is sound.

#[allow(unsafe_code, reason = "fork")]
pub(crate) mod fork;
#[allow(unsafe_code, reason = "descriptors by number, and the environment")]
pub(crate) mod inherited;
#[allow(unsafe_code, reason = "nix has no SO_PEERSEC")]
pub(crate) mod label;
pub(crate) mod lock;
pub(crate) mod manager;
#[allow(unsafe_code, reason = "mlockall")]
pub(crate) mod memory;
pub(crate) mod parent;
pub(crate) mod pid_file;
#[allow(unsafe_code, reason = "nix has no pidfd_open, and descriptors by number")]
pub(crate) mod poll;
pub(crate) mod process;
#[allow(unsafe_code, reason = "descriptors by number, and nix has no kcmp")]
pub(crate) mod scm;
pub(crate) mod selinux;
#[allow(unsafe_code, reason = "tokio's registration of a descriptor is unsafe")]
pub(crate) mod socket;
#[allow(unsafe_code, reason = "fork")]
pub(crate) mod spawn;
pub(crate) mod user;
#[allow(unsafe_code, reason = "nix has no options of AF_VSOCK")]
pub(crate) mod vsock;
#[allow(unsafe_code, reason = "nix has no sync_file_range")]
pub(crate) mod writeback;
