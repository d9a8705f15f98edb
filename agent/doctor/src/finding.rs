//! What a check found: its verdict, its evidence, its meaning and its hint.

use std::fmt;

use crate::hint::Hint;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be, or of no matter.
    Ok,
    /// A guest can be served, but something should be known or fixed.
    Warning,
    /// No guest can be served like this.
    Fault,
}

impl Verdict {
    /// The verdict in one word, which stays, for programs.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Fault => "fault",
        }
    }
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// A word that stays, for programs.
    pub id: &'static str,
    pub verdict: Verdict,
    /// What was looked at; empty where the id says it.
    pub checked: String,
    pub evidence: String,
    pub meaning: String,
    pub hint: Option<Hint>,
}

impl Finding {
    /// A finding whose id says what was looked at.
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

    /// Adds what follows from the evidence.
    pub fn meaning(mut self, meaning: impl Into<String>) -> Self {
        self.meaning = meaning.into();
        self
    }

    /// Adds what to do.
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
