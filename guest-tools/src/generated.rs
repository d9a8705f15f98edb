//! The manual pages and the shell completions, generated from the definitions that parse the command
//! line. They are in `guest-tools/man` and `guest-tools/completions`, for packages to ship. Only
//! tests generate them, so the binary does not contain the generators. After a change of the command
//! line run:
//!
//! ```text
//! GUEST_TOOLS_GENERATE=1 cargo test -p guest-tools generated
//! ```

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
};

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};

use crate::cli::Cli;

/// Every page, by its file name.
fn pages() -> BTreeMap<String, String> {
    let mut whole = Cli::command().disable_help_subcommand(true);
    whole.build();
    let mut pages: BTreeMap<_, _> = [page("guest-tools", &whole)].into();
    for command in whole.get_subcommands() {
        pages.extend([page(&format!("guest-tools-{}", command.get_name()), command)]);
    }
    pages
}

fn page(name: &str, command: &Command) -> (String, String) {
    // Without a date, so that the page changes only with the command line.
    let version = env!("CARGO_PKG_VERSION");
    let mut page =
        format!(".TH {name} 1 \"\" \"guest-tools {version}\" \"\"\n.ad l\n").into_bytes();
    // The text after the help has lines of its own. The page's name has hyphens.
    let plain = command.clone().after_help("").after_long_help("");
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let about = about.trim_end_matches('.');
    let about =
        about.get(..1).unwrap_or_default().to_lowercase() + about.get(1..).unwrap_or_default();
    let man = Man::new(plain.clone().display_name(name).about(about));
    man.render_name_section(&mut page).unwrap();
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"]);
    let usage = plain.clone().render_usage().to_string();
    roff.text([roman(usage.trim_start_matches("Usage: "))]);
    roff.to_writer(&mut page).unwrap();
    let man = Man::new(plain);
    man.render_description_section(&mut page).unwrap();
    man.render_options_section(&mut page).unwrap();
    let mut roff = Roff::new();
    if command.has_subcommands() {
        roff.control("SH", ["COMMANDS"]);
        for below in command.get_subcommands() {
            roff.control("TP", []);
            roff.text([bold(format!("guest-tools {}", below.get_name()))]);
            roff.text([roman(below.get_about().map(ToString::to_string).unwrap_or_default())]);
        }
    }
    if let Some(text) = command.get_after_help() {
        roff.control("SH", ["EXAMPLES AND OUTPUT"]);
        roff.control("nf", []);
        for line in text.to_string().lines() {
            roff.text([roman(line)]);
        }
        roff.control("fi", []);
    }
    roff.control("SH", ["SEE ALSO"]);
    let others = ["guest-tools", "agent", "nbdinfo", "nbdcopy", "nbddump", "socat"];
    let others = others.into_iter().filter(|other| *other != name);
    let others: Vec<_> = others.map(|other| format!("{other}(1)")).collect();
    roff.text([roman(others.join(", ") + ", vsock(7)")]);
    roff.to_writer(&mut page).unwrap();
    (format!("{name}.1"), String::from_utf8(page).unwrap())
}

fn completions() -> BTreeMap<String, String> {
    let make = |shell: Shell| {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "guest-tools", &mut text);
        let name = Path::new("").join(clap_complete::Generator::file_name(&shell, "guest-tools"));
        (name.display().to_string(), String::from_utf8(text).unwrap())
    };
    [Shell::Bash, Shell::Fish, Shell::Zsh].map(make).into()
}

fn kept(folder: &str, due: &BTreeMap<String, String>) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let files = || -> Vec<PathBuf> {
        let files = fs::read_dir(&dir).into_iter().flatten();
        files.map(|file| file.unwrap().path()).collect()
    };
    if env::var_os("GUEST_TOOLS_GENERATE").is_some() {
        for file in files() {
            fs::remove_file(file).unwrap();
        }
        fs::create_dir_all(&dir).unwrap();
        for (name, text) in due {
            fs::write(dir.join(name), text).unwrap();
        }
    }
    let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    let found =
        files().iter().map(|file| (name(file), fs::read_to_string(file).unwrap())).collect();
    assert!(
        *due == found,
        "the command line has changed: run 'GUEST_TOOLS_GENERATE=1 cargo test -p guest-tools \
         generated' and commit guest-tools/{folder}"
    );
}

#[test]
fn manual_and_completions_are_those_of_this_command_line() {
    kept("man", &pages());
    kept("completions", &completions());
}

#[test]
fn every_command_has_examples_that_are_taken() {
    let mut whole = Cli::command().disable_help_subcommand(true);
    whole.build();
    for command in whole.get_subcommands() {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(help.contains("Examples:\n"), "{} has no examples", command.get_name());
        // The command line up to where a shell ends it. Its explanation follows after two blanks.
        let lines = help.lines().filter_map(|line| line.strip_prefix("  guest-tools "));
        for line in lines {
            let line = line.split("  ").next().unwrap_or_default();
            let line = line.split([';', '|', '<', '>']).next().unwrap_or_default();
            let line = line.split("&&").next().unwrap_or_default();
            let words = ["guest-tools"].into_iter().chain(line.split_whitespace());
            if let Err(error) = Cli::command().try_get_matches_from(words) {
                panic!("{line}: {error}");
            }
        }
    }
}
