//! Running a program, with errors that say which one.

use std::{
    env,
    ffi::OsStr,
    fmt, io,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
};

use thiserror::Error;

use crate::workspace;

/// Why a task failed.
#[derive(Debug, Error)]
pub(crate) enum Failure {
    /// The program could not be started.
    #[error("cannot run {command}: {source}")]
    NotStarted { command: Line, source: io::Error },
    /// The program ran and failed; its own messages say why.
    #[error("{command}: {status}")]
    Failed { command: Line, status: ExitStatus },
    /// A file or a folder could not be read or changed.
    #[error("cannot {verb} {}: {source}", .path.display())]
    File { verb: &'static str, path: PathBuf, source: io::Error },
    /// No guest test has the name that was given.
    #[error("there is no guest test '{name}'; there are: {}", .tests.join(", "))]
    NoSuchTest { name: String, tests: Vec<String> },
}

impl Failure {
    /// The error of `verb` on `path`.
    pub(crate) fn file(verb: &'static str, path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Self::File { verb, path: path.to_owned(), source }
    }
}

/// A command as one would type it.
#[derive(Debug)]
pub(crate) struct Line(String);

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `cargo WORDS...` in the root of the workspace, by the cargo that runs this program.
pub(crate) fn cargo<const N: usize>(words: [&str; N]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(words).current_dir(workspace());
    command
}

/// The program at `path` below the root of the workspace, run there.
pub(crate) fn program(path: &str) -> Command {
    let mut command = Command::new(workspace().join(path));
    command.current_dir(workspace());
    command
}

/// Prints `command` to stderr, runs it, and waits for its end.
///
/// # Errors
/// `NotStarted` if there is no such program, `Failed` if its exit status is not 0.
pub(crate) fn run(command: &mut Command) -> Result<(), Failure> {
    let shown = line(command);
    eprintln!("+ {shown}");
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure::Failed { command: shown, status }),
        Err(source) => Err(Failure::NotStarted { command: shown, source }),
    }
}

fn line(command: &Command) -> Line {
    let set = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
    let set = set.map(|(name, value)| format!("{}={}", name.display(), quoted(value)));
    let words = [command.get_program()].into_iter().chain(command.get_args()).map(quoted);
    Line(set.chain(words).collect::<Vec<_>>().join(" "))
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.into_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_printed_so_that_a_shell_takes_it() {
        let mut command = Command::new("cargo");
        command.args(["nextest", "-E", "binary(=a) & b", "it's"]).env("FLAGS", "-D warnings");
        let expected = r"FLAGS='-D warnings' cargo nextest -E 'binary(=a) & b' 'it'\''s'";
        assert_eq!(line(&command).to_string(), expected);
    }

    #[test]
    fn a_failure_names_the_command_and_its_status() {
        let error = run(&mut Command::new("false")).unwrap_err().to_string();
        assert_eq!(error, "false: exit status: 1");
        let error = run(&mut Command::new("/nonexistent/program")).unwrap_err().to_string();
        assert!(error.starts_with("cannot run /nonexistent/program: No such file"), "{error}");
    }
}
