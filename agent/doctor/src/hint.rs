//! How to fix a finding: advice for a person, and steps that a program can apply.

use std::{
    fmt, fs, io,
    path::Path,
    process::{ExitStatus, Output},
    time::Duration,
};

use thiserror::Error;

use crate::run::{Run, RunError};

/// How long a step may take: systemd gives a unit 90 s to stop.
const TIME_TO_RUN: Duration = Duration::from_mins(2);
/// Most characters of a program's error message that are kept.
const SHOWN: usize = 500;

/// A command, or a file with one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A program and its words.
    Run(&'static [&'static str]),
    /// A file that gets this line. A file with other lines is left alone.
    Write { path: &'static str, line: &'static str },
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hint {
    /// What to do beside the steps, or when and why to apply them. May be empty.
    pub advice: String,
    /// Steps in their order. May be empty.
    pub steps: Vec<Step>,
    /// Whether `--fix` may apply the steps: they cut off no guest that is served now.
    pub safe: bool,
    /// An alternative to all of it.
    pub instead: Option<&'static str>,
}

impl Hint {
    pub(crate) fn advice(advice: impl Into<String>) -> Self {
        Self { advice: advice.into(), ..Self::default() }
    }

    pub(crate) fn safe(steps: Vec<Step>) -> Self {
        Self { steps, safe: true, ..Self::default() }
    }

    pub(crate) fn unsafe_steps(advice: impl Into<String>, steps: Vec<Step>) -> Self {
        Self { advice: advice.into(), steps, ..Self::default() }
    }

    pub(crate) fn and(mut self, advice: impl Into<String>) -> Self {
        self.advice = advice.into();
        self
    }

    pub(crate) fn or(mut self, instead: &'static str) -> Self {
        self.instead = Some(instead);
        self
    }
}

impl From<&str> for Hint {
    fn from(advice: &str) -> Self {
        Self::advice(advice)
    }
}

impl From<String> for Hint {
    fn from(advice: String) -> Self {
        Self::advice(advice)
    }
}

/// On one line: the steps in quotes, then the advice, then the alternative.
impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.steps.iter().enumerate() {
            let then = if i == 0 { "" } else { ", then " };
            write!(f, "{then}\"{step}\"")?;
        }
        match (self.steps.is_empty(), self.advice.is_empty()) {
            (_, true) => {}
            (true, _) => f.write_str(&self.advice)?,
            (false, _) => write!(f, ": {}", self.advice)?,
        }
        self.instead.map_or(Ok(()), |instead| write!(f, "; or {instead}"))
    }
}

/// As a command for a root shell.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run(words) => f.write_str(&words.join(" ")),
            Self::Write { path, line } => write!(f, "echo '{line}' > {path}"),
        }
    }
}

/// Why a step failed.
#[derive(Debug, Error)]
pub enum StepError {
    /// The program did not start.
    #[error("{program} does not run")]
    Start { program: &'static str, source: io::Error },
    /// The program started, and was ended.
    #[error("{step}")]
    Ended { step: Step, source: Box<dyn std::error::Error + Send + Sync> },
    /// The program failed; `said` is the first line of its stderr.
    #[error("{step}: {status} {said}")]
    Failed { step: Step, status: ExitStatus, said: String },
    /// The file could not be written, or says something else already.
    #[error("cannot write {path}")]
    Write { path: &'static str, source: io::Error },
}

impl Step {
    /// Applies the step to this machine. `run` runs its program, if it has one.
    ///
    /// # Errors
    ///
    /// [`StepError`] where the program does not run or fails, or the file cannot be written.
    pub fn apply(&self, run: &dyn Run) -> Result<(), StepError> {
        match *self {
            Self::Run([program, words @ ..]) => {
                let Output { status, stderr, .. } =
                    run.run(program, words, TIME_TO_RUN).map_err(|error| match error {
                        RunError::Start(source) => StepError::Start { program, source },
                        RunError::Ended(source) => StepError::Ended { step: self.clone(), source },
                    })?;
                if status.success() {
                    return Ok(());
                }
                let said = String::from_utf8_lossy(&stderr);
                let said = said.lines().next().unwrap_or_default().chars().take(SHOWN).collect();
                Err(StepError::Failed { step: self.clone(), status, said })
            }
            Self::Run([]) => Ok(()),
            Self::Write { path, line } => {
                write(Path::new(path), line).map_err(|source| StepError::Write { path, source })
            }
        }
    }
}

/// Writes a line to a file, and keeps what an administrator has written there.
fn write(path: &Path, line: &str) -> io::Result<()> {
    if let Ok(text) = fs::read_to_string(path) {
        if text.lines().any(|written| written == line) {
            return Ok(());
        }
        let other =
            text.lines().any(|line| !matches!(line.trim().chars().next(), None | Some('#')));
        if other {
            let why = "it is there already and says something else: add the line by hand";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
        }
    }
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(path, format!("{line}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Unbounded;

    #[test]
    fn a_hint_is_printed_as_it_is_applied() {
        let hint = Hint::safe(vec![
            Step::Run(&["modprobe", "vhost_vsock"]),
            Step::Write { path: "/etc/modules-load.d/v.conf", line: "vhost_vsock" },
        ]);
        assert_eq!(
            hint.to_string(),
            "\"modprobe vhost_vsock\", then \"echo 'vhost_vsock' > /etc/modules-load.d/v.conf\""
        );
        assert_eq!(hint.and("as root").to_string().split(": ").last(), Some("as root"));
        assert_eq!(Hint::advice("reboot").to_string(), "reboot");
        assert_eq!(Hint::advice("reboot").or("wait").to_string(), "reboot; or wait");
    }

    #[test]
    fn a_step_succeeds_or_says_why_not() {
        let failed = |step: Step| step.apply(&Unbounded).unwrap_err();
        Step::Run(&["true"]).apply(&Unbounded).unwrap();
        let error = failed(Step::Run(&["sh", "-c", "echo why >&2; exit 3"]));
        assert!(error.to_string().ends_with("exit status: 3 why"), "{error}");
        let error = failed(Step::Run(&["/none/such"]));
        assert_eq!(error.to_string(), "/none/such does not run");
        let error = failed(Step::Write { path: "/proc/none/such", line: "x" });
        assert_eq!(error.to_string(), "cannot write /proc/none/such");
    }

    #[test]
    fn a_file_with_other_lines_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rules.d/99-x.rules");
        let text = || fs::read_to_string(&path).unwrap();
        write(&path, "a").unwrap();
        assert_eq!(text(), "a\n");
        fs::write(&path, "b\na\n").unwrap();
        write(&path, "a").unwrap();
        let error = write(&path, "c").unwrap_err().to_string();
        assert!(error.contains("add the line by hand"), "{error}");
        assert_eq!(text(), "b\na\n");
        fs::write(&path, "# nothing\n\n").unwrap();
        write(&path, "c").unwrap();
        assert_eq!(text(), "c\n");
    }
}
