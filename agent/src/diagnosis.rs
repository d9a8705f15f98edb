//! The agent's part in the checks of `doctor`: it runs the programs that they ask for.

use std::{
    process::{Command, Output},
    time::Duration,
};

use doctor::{
    Run, RunError,
    host::{self, Report},
};

use crate::child::{ChildError, Job, Printed};

/// Checks this machine for an agent on vsock port `port`. Waits for the programs that the checks
/// run.
pub(crate) fn examine(port: u32) -> Report {
    host::examine(port, &Programs)
}

/// How to fix a `/dev/vhost-vsock` that failed to open with `errno`. Waits for the programs that
/// the checks run.
pub(crate) fn hint_of_device(errno: i32) -> Option<String> {
    host::hint_of_device(errno, &Programs)
}

/// Runs programs as children of the agent, and bounds their output.
#[derive(Debug)]
pub(crate) struct Programs;

impl Run for Programs {
    fn run(&self, program: &str, words: &[&str], time: Duration) -> Result<Output, RunError> {
        let mut command = Command::new(program);
        command.args(words).env("LC_ALL", "C");
        match Job::new(command).within(time).interruptible(false).answer() {
            Ok(Printed { status, stdout, stderr }) => Ok(Output { status, stdout, stderr }),
            Err(ChildError::Start(error)) => Err(RunError::Start(error)),
            Err(error) => Err(RunError::Ended(error.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &str) -> Result<Output, RunError> {
        Programs.run("sh", &["-c", script], Duration::from_secs(5))
    }

    #[test]
    fn a_program_is_run_for_its_output_and_its_status() {
        let output = run("echo yes; echo why >&2; exit 1").unwrap();
        assert_eq!((&*output.stdout, &*output.stderr), (&b"yes\n"[..], &b"why\n"[..]));
        assert_eq!(output.status.code(), Some(1));
        // More than a pipe holds, on both stdout and stderr.
        let flood = run("yes | head -c 300000; yes | head -c 300000 >&2").unwrap();
        assert_eq!(flood.stdout.len(), 300_000);
    }

    #[test]
    fn processes_that_a_program_leaves_running_are_not_waited_for() {
        assert_eq!(run("sleep 1000 & echo yes").unwrap().stdout, b"yes\n");
    }

    #[test]
    fn a_program_that_prints_without_end_is_ended() {
        let error = run("yes").unwrap_err();
        assert!(matches!(error, RunError::Ended(_)), "{error}");
        assert!(error.to_string().contains("prints more than"), "{error}");
    }

    #[test]
    fn a_program_that_is_not_there_does_not_start() {
        let error = Programs.run("/none/such", &[], Duration::from_secs(5)).unwrap_err();
        assert!(matches!(error, RunError::Start(_)), "{error}");
    }
}
