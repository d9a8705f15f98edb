//! What the program does instead of serving, by its first word: `agent WORD ...`, one file a word.
//!
//! `main` asks for the word before it reads anything else. A plugin or a file of such a name is
//! served as `./WORD`; called as `nbdkit`, the program has none of these.

mod completions;
mod doctor;
mod libvirt;
mod man;
mod qemu;

use std::{
    error::Error,
    ffi::OsString,
    io::{self, Write},
    path::Path,
};

use clap::ArgMatches;
use serde_json::Value;

use crate::text;

/// An exit status, or why it could not be done: one line, which says the hint.
pub type Outcome = Result<u8, Box<dyn Error>>;

/// One of them.
#[derive(Debug)]
pub struct Entry {
    pub word: &'static str,
    /// Its options, its help, and under `about` one line for people.
    command: fn() -> clap::Command,
    run: fn(&ArgMatches) -> Outcome,
}

/// In the order of their words.
pub const ALL: &[Entry] =
    &[completions::ENTRY, doctor::ENTRY, libvirt::ENTRY, man::ENTRY, qemu::ENTRY];

/// The one that the command line (the program's name first) asks for.
pub fn find(words: &[OsString]) -> Option<&'static Entry> {
    let (name, word) = (words.first()?, words.get(1)?);
    if Path::new(name).file_name().is_some_and(|name| name == "nbdkit") {
        return None;
    }
    ALL.iter().find(|entry| word == entry.word)
}

impl Entry {
    /// Does it. What clap refuses is an error, what it answers (`--help`) is printed.
    pub fn run(&self, words: Vec<OsString>) -> Outcome {
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

/// Writes lines of words to stdout. What is not to be printed in them is escaped: names and texts of
/// other programs are among them.
fn print(text: &str) -> Result<(), Box<dyn Error>> {
    print_as_it_is(&text::lines(text))
}

/// Writes one JSON value to stdout, on one line.
fn print_json(value: &Value) -> Result<(), Box<dyn Error>> {
    print_as_it_is(&format!("{}\n", text::json(value)))
}

/// Writes to stdout what is our own, or the user's and wanted byte for byte. A reader that has read enough
/// is no mistake; a full disk is.
fn print_as_it_is(text: &str) -> Result<(), Box<dyn Error>> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(format!("cannot write to stdout: {error}").into())
        }
        _ => Ok(()),
    }
}

/// Every command line that there is: the one that serves, and under it each word's.
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
    fn a_word_counts_where_it_is_the_first_and_the_name_is_our_own() {
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
