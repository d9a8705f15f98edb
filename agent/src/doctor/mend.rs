//! What mends a finding: advice for a person, and steps that can be run as they are printed.

use std::{fmt, fs, path::Path, process::Command};

/// One command, or one file with one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Run(&'static [&'static str]),
    Write { path: &'static str, line: &'static str },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mend {
    /// What no command does, or when and why.
    pub(crate) advice: String,
    pub(crate) steps: Vec<Step>,
    /// Whether `--fix` may run the steps: nothing that works now stops working.
    pub(crate) safe: bool,
}

impl Mend {
    pub(super) fn advice(advice: impl Into<String>) -> Self {
        Self { advice: advice.into(), steps: Vec::new(), safe: false }
    }

    pub(super) fn safe(steps: Vec<Step>) -> Self {
        Self { advice: String::new(), steps, safe: true }
    }

    pub(super) fn unsafe_steps(advice: impl Into<String>, steps: Vec<Step>) -> Self {
        Self { advice: advice.into(), steps, safe: false }
    }

    pub(super) fn and(mut self, advice: impl Into<String>) -> Self {
        self.advice = advice.into();
        self
    }
}

/// On one line: the commands in quotes, and the advice behind them.
impl fmt::Display for Mend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.steps.iter().enumerate() {
            let then = if i == 0 { "" } else { ", then " };
            write!(f, "{then}\"{step}\"")?;
        }
        match (self.steps.is_empty(), self.advice.is_empty()) {
            (_, true) => Ok(()),
            (true, _) => f.write_str(&self.advice),
            (false, _) => write!(f, ": {}", self.advice),
        }
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
                let output = Command::new(program).args(words).output();
                let output = output.map_err(|error| format!("{program} does not run: {error}"))?;
                if output.status.success() {
                    return Ok(());
                }
                let said = String::from_utf8_lossy(&output.stderr);
                let said = said.lines().next().unwrap_or_default();
                Err(format!("{self}: {} {said}", output.status))
            }
            Self::Run([]) => Ok(()),
            Self::Write { path, line } => write(Path::new(path), line)
                .map_err(|error| format!("cannot write {path}: {error}")),
        }
    }
}

fn write(path: &Path, line: &str) -> std::io::Result<()> {
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
        let mend = Mend::safe(vec![
            Step::Run(&["modprobe", "vhost_vsock"]),
            Step::Write { path: "/etc/modules-load.d/v.conf", line: "vhost_vsock" },
        ]);
        assert_eq!(
            mend.to_string(),
            "\"modprobe vhost_vsock\", then \"echo 'vhost_vsock' > /etc/modules-load.d/v.conf\""
        );
        assert_eq!(mend.and("as root").to_string().split(": ").last(), Some("as root"));
        assert_eq!(Mend::advice("reboot").to_string(), "reboot");
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
}
