//! Why AF_VSOCK does not work on a machine, and how to fix it: checks over a view of the machine, one
//! topic a file. No check changes anything.
//!
//! [`host`] has the checks of a VM host, which `agent doctor` prints; [`guest`] those of a guest, which
//! `guest-tools probe` prints.
//!
//! A check knows only its `Machine`, which is this machine or a recorded one.

mod devices;
mod finding;
pub mod guest;
mod hint;
pub mod host;
mod machine;
mod modules;
mod probes;
mod run;
mod service;
#[allow(unsafe_code, reason = "nix has no ioctl of AF_VSOCK")]
mod sys;
#[cfg(test)]
mod testing;

pub use finding::{Finding, Verdict};
pub use hint::{Hint, Step, StepError};
pub use run::{Run, RunError};
