//! The checks of a VM host: why a guest cannot be served over AF_VSOCK here, and how to fix it.
//!
//! `agent doctor` prints what they find; an error of a `--vsock` listener takes its hint from here.
//! The checks change nothing.

mod container;
mod denial;
mod device;
mod kernel;
mod limits;
mod loading;
mod namespace;
mod programs;
mod socket;
mod transport;
#[cfg(test)]
mod trees;
mod unit;
mod ways;

pub use self::{device::hint_of_device, socket::hint_of_bind, ways::Way};
use crate::{Finding, Run, Verdict, machine::Machine, probes::Probes};

/// In the order in which they are read: an earlier finding may explain a later one.
const CHECKS: &[fn(&Machine) -> Vec<Finding>] = &[
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

/// The findings about a VM host, and what follows from them.
#[derive(Debug)]
pub struct Report {
    /// In the order of the checks; there may be several with one id.
    pub findings: Vec<Finding>,
    /// The ways in which a guest reaches an agent, that by the kernel's vsock first.
    pub ways: Vec<Way>,
}

impl Report {
    /// Whether a guest could be served over the kernel's vsock now.
    pub fn served(&self) -> bool {
        self.findings.iter().all(|finding| finding.verdict != Verdict::Fault)
    }
}

/// Checks this machine for an agent on vsock port `port`. `run` runs the programs that the checks
/// ask. Opens `/dev/vhost-vsock` and binds the port for a moment, for which the kernel may load its
/// vsock modules.
pub fn examine(port: u32, run: &dyn Run) -> Report {
    report(&Machine::here(Probes::of_host(port, run)))
}

fn report(machine: &Machine) -> Report {
    let findings: Vec<_> = CHECKS.iter().flat_map(|check| check(machine)).collect();
    let ways = ways::ways(machine, &findings);
    Report { findings, ways }
}
