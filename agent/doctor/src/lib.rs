//! Why a guest cannot be served over AF_VSOCK here, and how to fix it: checks over a view of the
//! machine, one topic a file, none of which changes anything.
//!
//! `agent doctor` prints what they find; an error of a `--vsock` listener takes its hint from here.
//! A check knows only its `Machine`, which is this one or a recorded one.

mod container;
mod denial;
mod device;
mod finding;
mod hint;
mod kernel;
mod limits;
mod loading;
mod machine;
mod namespace;
mod probes;
mod programs;
mod run;
mod service;
mod socket;
#[allow(unsafe_code, reason = "nix has no ioctl of AF_VSOCK")]
mod sys;
mod transport;
mod unit;
mod ways;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod trees;

pub use device::hint_of_device;
pub use finding::{Finding, Verdict};
pub use hint::{Hint, Step, StepError};
pub use machine::Machine;
pub use run::{Run, RunError};
pub use socket::hint_of_bind;
pub use ways::Way;

type Check = fn(&Machine) -> Vec<Finding>;

/// In the order in which they are read: what stands before may explain what comes behind.
const CHECKS: &[Check] = &[
    kernel::check,
    device::check,
    transport::check,
    socket::check,
    unit::check,
    limits::check,
    programs::check,
    denial::check,
    namespace::check,
];

/// All that was found.
#[derive(Debug)]
pub struct Report {
    pub findings: Vec<Finding>,
    pub ways: Vec<Way>,
}

impl Report {
    /// Whether a guest could be served over the kernel's vsock now.
    pub fn served(&self) -> bool {
        self.findings.iter().all(|finding| finding.verdict != Verdict::Fault)
    }
}

pub fn examine(machine: &Machine) -> Report {
    let findings: Vec<_> = CHECKS.iter().flat_map(|check| check(machine)).collect();
    let ways = ways::ways(machine, &findings);
    Report { findings, ways }
}
