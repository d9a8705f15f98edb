//! How to fix a finding: advice for a person, and steps that can be run as they are printed.

use std::{fmt, fs, path::Path, process::Command, time::Duration};

use crate::child::{ChildError, Job};

/// How long a step may take: systemd gives a unit 90 s to stop.
const PATIENCE: Duration = Duration::from_mins(2);

/// One command, or one file with one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Run(&'static [&'static str]),
    Write { path: &'static str, line: &'static str },
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Hint {
    /// What no command does, or when and why.
    pub(crate) advice: String,
    pub(crate) steps: Vec<Step>,
    /// Whether `--fix` may run the steps: no guest that is served now is cut off.
    pub(crate) safe: bool,
    /// What does without all that.
    pub(crate) instead: Option<&'static str>,
}

impl Hint {
    pub(super) fn advice(advice: impl Into<String>) -> Self {
        Self { advice: advice.into(), ..Self::default() }
    }

    pub(super) fn safe(steps: Vec<Step>) -> Self {
        Self { steps, safe: true, ..Self::default() }
    }

    pub(super) fn unsafe_steps(advice: impl Into<String>, steps: Vec<Step>) -> Self {
        Self { advice: advice.into(), steps, ..Self::default() }
    }

    pub(super) fn and(mut self, advice: impl Into<String>) -> Self {
        self.advice = advice.into();
        self
    }

    pub(super) fn or(mut self, instead: &'static str) -> Self {
        self.instead = Some(instead);
        self
    }
}

/// On one line: the commands in quotes, and the advice behind them.
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

/// As a root shell takes it.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run(words) => f.write_str(&words.join(" ")),
            Self::Write { path, line } => write!(f, "echo '{line}' > {path}"),
        }
    }
}

impl Step {
    /// Does it, here.
    pub(crate) fn take(&self) -> Result<(), String> {
        match self {
            Self::Run([program, words @ ..]) => {
                let mut command = Command::new(program);
                command.args(words);
                let job = Job::new(command).within(PATIENCE).interruptible(false);
                let answer = job.answer().map_err(|error| match error {
                    ChildError::Start(error) => format!("{program} does not run: {error}"),
                    error => format!("{self}: {error}"),
                })?;
                if answer.status.success() {
                    return Ok(());
                }
                let said = String::from_utf8_lossy(&answer.stderr);
                let said: String =
                    said.lines().next().unwrap_or_default().chars().take(500).collect();
                Err(format!("{self}: {} {said}", answer.status))
            }
            Self::Run([]) => Ok(()),
            Self::Write { path, line } => write(Path::new(path), line)
                .map_err(|error| format!("cannot write {path}: {error}")),
        }
    }
}

/// What an administrator has written there stays.
fn write(path: &Path, line: &str) -> std::io::Result<()> {
    if let Ok(text) = fs::read_to_string(path) {
        if text.lines().any(|written| written == line) {
            return Ok(());
        }
        let other =
            text.lines().any(|line| !matches!(line.trim().chars().next(), None | Some('#')));
        if other {
            let why = "it is there already and says something else: add the line by hand";
            return Err(std::io::Error::new(std::io::ErrorKind::AlreadyExists, why));
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

    #[test]
    fn a_mend_is_printed_as_it_is_run() {
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
    fn steps_do_what_they_say_or_tell_why_not() {
        assert_eq!(Step::Run(&["true"]).take(), Ok(()));
        let error = Step::Run(&["sh", "-c", "echo why >&2; exit 3"]).take().unwrap_err();
        assert!(error.ends_with("exit status: 3 why"), "{error}");
        let error = Step::Run(&["/none/such"]).take().unwrap_err();
        assert!(error.starts_with("/none/such does not run"), "{error}");
        let error = Step::Write { path: "/proc/none/such", line: "x" }.take().unwrap_err();
        assert!(error.starts_with("cannot write /proc/none/such"), "{error}");
    }
    #[test]
    fn a_file_that_says_something_else_stays() {
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
