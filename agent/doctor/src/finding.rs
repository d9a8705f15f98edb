//! What a check found: its verdict, its evidence, its meaning and its hint.

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
    pub fn word(self) -> &'static str {
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
    pub checked: String,
    pub evidence: String,
    pub meaning: String,
    pub hint: Option<Hint>,
}

impl Finding {
    pub(crate) fn new(
        id: &'static str,
        verdict: Verdict,
        checked: &str,
        evidence: impl Into<String>,
    ) -> Self {
        let (checked, evidence) = (checked.to_owned(), evidence.into());
        Self { id, verdict, checked, evidence, meaning: String::new(), hint: None }
    }

    pub(crate) fn meaning(mut self, meaning: impl Into<String>) -> Self {
        self.meaning = meaning.into();
        self
    }

    pub(crate) fn hint(mut self, hint: Hint) -> Self {
        self.hint = Some(hint);
        self
    }
}
