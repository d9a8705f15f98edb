//! Why a test, or the demo, failed, as a text for people.

use std::{error::Error, fmt};

use human::chain;

/// The result of an operation of this library.
pub type Outcome<T> = Result<T, Failure>;

/// What was tried, why it failed, and what was observed.
pub struct Failure(String);

impl Failure {
    pub fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }

    /// An error of another library, with what was tried.
    pub fn of(tried: &str, error: &(dyn Error + 'static)) -> Self {
        Self(format!("{tried}: {}", chain(error)))
    }
}

impl From<images::Error> for Failure {
    fn from(error: images::Error) -> Self {
        Self::of("no image", &error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The plain text, because the test harness prints a failed test's error with `{:?}`.
impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Error for Failure {}
