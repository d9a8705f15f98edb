//! Why a guest cannot be served over AF_VSOCK here, and how to fix it: checks over a view of the
//! machine, one topic a file, none of which changes anything.
//!
//! `agent doctor` prints what they find; an error of a `--vsock` listener takes its hint from here.
//! A check knows only its `Machine`, which is this one or a recorded one.

mod container;
mod denial;
mod device;
mod hint;
mod kernel;
mod limits;
mod loading;
mod machine;
mod namespace;
mod probes;
mod programs;
mod socket;
mod transport;
mod unit;
mod ways;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod trees;

pub(crate) use device::hint_of_device;
pub(crate) use hint::Hint;
#[cfg(test)]
pub(crate) use hint::Step;
pub(crate) use machine::Machine;
pub(crate) use socket::hint_of_bind;
pub(crate) use ways::Way;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// As it should be, or of no matter.
    Ok,
    /// A guest can be served, but something should be known or fixed.
    Warning,
    /// No guest can be served like this.
    Fault,
}

impl Verdict {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Fault => "fault",
        }
    }
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    /// A word that stays, for programs.
    pub(crate) id: &'static str,
    pub(crate) verdict: Verdict,
    pub(crate) checked: String,
    pub(crate) evidence: String,
    pub(crate) meaning: String,
    pub(crate) hint: Option<Hint>,
}

impl Finding {
    fn new(id: &'static str, verdict: Verdict, checked: &str, evidence: impl Into<String>) -> Self {
        let (checked, evidence) = (checked.to_owned(), evidence.into());
        Self { id, verdict, checked, evidence, meaning: String::new(), hint: None }
    }

    fn meaning(mut self, meaning: impl Into<String>) -> Self {
        self.meaning = meaning.into();
        self
    }

    fn hint(mut self, hint: Hint) -> Self {
        self.hint = Some(hint);
        self
    }
}

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
pub(crate) struct Report {
    pub(crate) findings: Vec<Finding>,
    pub(crate) ways: Vec<Way>,
}

impl Report {
    /// Whether a guest could be served over the kernel's vsock now.
    pub(crate) fn served(&self) -> bool {
        self.findings.iter().all(|finding| finding.verdict != Verdict::Fault)
    }
}

pub(crate) fn examine(machine: &Machine) -> Report {
    let findings: Vec<_> = CHECKS.iter().flat_map(|check| check(machine)).collect();
    let ways = ways::ways(machine, &findings);
    Report { findings, ways }
}
