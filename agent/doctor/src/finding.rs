//! The result of a check.

use std::fmt;

use crate::hint::Hint;

/// How serious a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// All is right, or the point does not matter here.
    Ok,
    /// A connection can work, but something should be known or fixed.
    Warning,
    /// No connection can work until this is fixed.
    Fault,
}

impl Verdict {
    /// The verdict as a word for programs: "ok", "warning" or "fault".
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Fault => "fault",
        }
    }
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// A word for programs, which does not change between versions.
    pub id: &'static str,
    /// How serious it is.
    pub verdict: Verdict,
    /// What was checked; empty where the id says it.
    pub checked: String,
    /// What was seen.
    pub evidence: String,
    /// What follows from the evidence.
    pub meaning: String,
    /// How to fix it.
    pub hint: Option<Hint>,
}

impl Finding {
    /// A finding whose id says what was checked. It has no meaning and no hint yet.
    pub fn bare(id: &'static str, verdict: Verdict, evidence: impl Into<String>) -> Self {
        Self::new(id, verdict, "", evidence)
    }

    pub(crate) fn new(
        id: &'static str,
        verdict: Verdict,
        checked: &str,
        evidence: impl Into<String>,
    ) -> Self {
        let (checked, evidence) = (checked.to_owned(), evidence.into());
        Self { id, verdict, checked, evidence, meaning: String::new(), hint: None }
    }

    /// Sets what follows from the evidence.
    pub fn meaning(mut self, meaning: impl Into<String>) -> Self {
        self.meaning = meaning.into();
        self
    }

    /// Sets how to fix it.
    pub fn hint(mut self, hint: impl Into<Hint>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// In two or three lines: the verdict with its evidence, the meaning and the hint.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, verdict, checked, evidence, meaning, hint } = self;
        write!(f, "{:8} {id}: ", verdict.word())?;
        if !checked.is_empty() {
            write!(f, "{checked}: ")?;
        }
        writeln!(f, "{evidence}")?;
        if !meaning.is_empty() {
            writeln!(f, "         {meaning}")?;
        }
        hint.as_ref().map_or(Ok(()), |hint| writeln!(f, "         hint: {hint}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_printed_in_lines() {
        let finding = Finding::bare("cid", Verdict::Fault, "none").meaning("a").hint("b");
        assert_eq!(finding.to_string(), "fault    cid: none\n         a\n         hint: b\n");
        let finding = Finding::new("cid", Verdict::Ok, "the CID", "3");
        assert_eq!(finding.to_string(), "ok       cid: the CID: 3\n");
    }
}
