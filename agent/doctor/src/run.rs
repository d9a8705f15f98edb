//! The programs that the doctor asks. The caller runs them: it knows how to bound their time and
//! their output, and how to end them when it is ended itself.

use std::{
    error::Error,
    io,
    process::{ExitStatus, Output},
    time::Duration,
};

use thiserror::Error;

/// How long a program may take that is only asked.
const TIME_TO_ANSWER: Duration = Duration::from_secs(5);
/// Most characters of a program's error message that are kept.
const SHOWN: usize = 500;

/// Runs programs for the doctor.
pub trait Run {
    /// Runs `program` with `words` in the locale C and without standard input, for at most `time`,
    /// and returns its output. What the program leaves running is ended.
    ///
    /// # Errors
    ///
    /// [`RunError`] when there is no output. An exit status that is not 0 is no error.
    fn run(&self, program: &str, words: &[&str], time: Duration) -> Result<Output, RunError>;
}

/// Why a program has no output.
#[derive(Debug, Error)]
pub enum RunError {
    /// The program did not start: it is not there or may not be executed.
    #[error(transparent)]
    Start(io::Error),
    /// The program started, and was ended before its output was complete.
    #[error(transparent)]
    Ended(Box<dyn Error + Send + Sync>),
}

/// A program that was asked, and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) program: String,
    pub(crate) answer: Result<String, NoAnswer>,
}

/// Why a program gave no answer, in its own words where it had any.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub(crate) struct NoAnswer(pub(crate) String);

/// Asks a program. `None`: there is no such program.
pub(crate) fn ask(run: &dyn Run, program: &str, words: &[&str]) -> Option<Asked> {
    let answer = match run.run(program, words, TIME_TO_ANSWER) {
        Ok(Output { status, stdout, .. }) if status.success() => {
            Ok(String::from_utf8_lossy(&stdout).into_owned())
        }
        Ok(Output { status, stderr, .. }) => Err(failed(status, &stderr)),
        Err(RunError::Start(error)) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => Err(NoAnswer(error.to_string())),
    };
    Some(Asked { program: program.into(), answer })
}

/// The line of stderr that says why. Warnings of a library may stand before it.
fn failed(status: ExitStatus, stderr: &[u8]) -> NoAnswer {
    let said = String::from_utf8_lossy(stderr);
    let mut lines = said.lines().filter(|line| !line.trim().is_empty());
    let why = lines.clone().find(|line| line.starts_with("error:")).or_else(|| lines.next());
    NoAnswer(why.map_or_else(|| status.to_string(), |why| why.chars().take(SHOWN).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Unbounded;

    #[test]
    fn a_failed_program_answers_with_its_error_line() {
        let answer = |script| ask(&Unbounded, "sh", &["-c", script]).unwrap().answer;
        assert_eq!(answer("echo yes").unwrap(), "yes\n");
        assert_eq!(answer("echo; echo why >&2; exit 1").unwrap_err().0, "why");
        let warned = "echo '(x:1): GLib-WARNING' >&2; echo 'error: why' >&2; exit 1";
        assert_eq!(answer(warned).unwrap_err().0, "error: why");
        assert_eq!(answer("exit 3").unwrap_err().0, "exit status: 3");
    }

    #[test]
    fn a_program_that_is_not_there_is_not_asked() {
        assert_eq!(ask(&Unbounded, "/none/such", &[]), None);
    }
}
