//! Commands that the program runs instead of serving, by its first word: `agent WORD ...`. Each command has one file.
//!
//! `main` looks for the word before it reads anything else. A plugin or a file of such a name is served as `./WORD`.
//! Called as `nbdkit`, the program has no commands.

mod completions;
mod doctor;
mod libvirt;
mod man;
mod qemu;
mod supervise;

use std::{
    error::Error,
    ffi::OsString,
    io::{self, Write},
    path::Path,
};

use clap::ArgMatches;
use serde_json::Value;

use crate::text;

/// An exit status, or an error of one line that includes the hint.
pub(crate) type Outcome = Result<u8, Box<dyn Error>>;

/// A command.
#[derive(Debug)]
pub(crate) struct Entry {
    pub word: &'static str,
    /// Its options, its help, and `about`: one line for people.
    command: fn() -> clap::Command,
    run: fn(&ArgMatches) -> Outcome,
}

/// In alphabetical order.
pub(crate) const ALL: &[Entry] =
    &[completions::ENTRY, doctor::ENTRY, libvirt::ENTRY, man::ENTRY, qemu::ENTRY, supervise::ENTRY];

/// The command that the command line asks for. Its first word is the program's name.
pub(crate) fn find(words: &[OsString]) -> Option<&'static Entry> {
    let (name, word) = (words.first()?, words.get(1)?);
    if Path::new(name).file_name().is_some_and(|name| name == "nbdkit") {
        return None;
    }
    ALL.iter().find(|entry| word == entry.word)
}

impl Entry {
    /// Runs the command. A command line that clap refuses is an error, and clap's answer (`--help`) is printed.
    pub(crate) fn run(&self, words: Vec<OsString>) -> Outcome {
        match self.command().try_get_matches_from(words.into_iter().skip(1)) {
            Ok(matches) => (self.run)(&matches),
            Err(answer) if !answer.use_stderr() => {
                print_as_it_is(&answer.to_string())?;
                Ok(0)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn command(&self) -> clap::Command {
        (self.command)().name(self.word).bin_name(format!("agent {}", self.word))
    }
}

/// Writes lines of text to stdout. Control characters are escaped, because the text contains names and messages of
/// other programs.
fn print(text: &str) -> Result<(), Box<dyn Error>> {
    print_as_it_is(&text::lines(text))
}

/// Writes one JSON value to stdout, on one line.
fn print_json(value: &Value) -> Result<(), Box<dyn Error>> {
    print_as_it_is(&format!("{}\n", text::json(value)))
}

/// Writes text to stdout unchanged: the agent's own, or the user's that must be kept byte for byte. A closed pipe is
/// not an error, but a full disk is.
fn print_as_it_is(text: &str) -> Result<(), Box<dyn Error>> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(format!("cannot write to stdout: {error}").into())
        }
        _ => Ok(()),
    }
}

/// The definitions of every command line: the one that serves, and below it those of the commands.
fn whole() -> clap::Command {
    let commands = ALL.iter().map(Entry::command);
    crate::cli::command().subcommands(commands).disable_help_subcommand(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_hold_and_each_word_is_in_the_help() {
        whole().debug_assert();
        let help = crate::cli::command().render_help().to_string();
        for entry in ALL {
            assert!(help.contains(&format!("\n  agent {}", entry.word)), "{}", entry.word);
            assert!(entry.command().get_about().is_some(), "{}", entry.word);
        }
    }

    #[test]
    fn commands_are_found_as_the_first_word_and_not_under_the_name_nbdkit() {
        let find = |words: &[&str]| {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            find(&words).map(|entry| entry.word)
        };
        assert_eq!(find(&["/usr/bin/agent", "man"]), Some("man"));
        assert_eq!(find(&["agent", "completions", "bash"]), Some("completions"));
        for none in [&["agent"][..], &["agent", "-v", "man"], &["agent", "./man"]] {
            assert_eq!(find(none), None, "{none:?}");
        }
        assert_eq!(find(&["/usr/sbin/nbdkit", "man"]), None);
    }
}
