//! `agent completions SHELL`: what a shell needs to complete the words of the command line.

use std::{fs, path::PathBuf};

use clap::{Arg, ArgMatches, builder::PossibleValuesParser, value_parser};
use clap_complete::{Generator, Shell};

use super::{Entry, Outcome, print, whole};
use crate::{layer, plugin};

pub(super) const ENTRY: Entry = Entry { word: "completions", command, run };

const EXAMPLES: &str = "\
Examples:
  agent completions bash > ~/.local/share/bash-completion/completions/agent
  agent completions fish > ~/.config/fish/completions/agent.fish
  agent completions --dir DIR          for every shell, in the files that they look for";

/// Those that packages ship.
const SHIPPED: [Shell; 3] = [Shell::Bash, Shell::Fish, Shell::Zsh];

fn command() -> clap::Command {
    clap::Command::new(ENTRY.word)
        .about("Prints a shell's completions of this command line")
        .after_help(EXAMPLES)
        .arg(
            Arg::new("shell")
                .value_name("SHELL")
                .value_parser(value_parser!(Shell))
                .required_unless_present("dir")
                .help("The shell"),
        )
        .arg(
            Arg::new("dir")
                .long("dir")
                .value_name("DIR")
                .value_parser(value_parser!(PathBuf))
                .conflicts_with("shell")
                .help("Write those of bash, fish and zsh into this directory"),
        )
}

fn run(matches: &ArgMatches) -> Outcome {
    if let Some(shell) = matches.get_one::<Shell>("shell") {
        print(&text(*shell))?;
    } else if let Some(dir) = matches.get_one::<PathBuf>("dir") {
        for shell in SHIPPED {
            let path = dir.join(shell.file_name("agent"));
            fs::write(&path, text(shell))
                .map_err(|error| format!("--dir: cannot write {}: {error}", path.display()))?;
        }
    }
    Ok(0)
}

fn text(shell: Shell) -> String {
    let plugins = PossibleValuesParser::new(plugin::BUILT_IN.iter().map(|plugin| plugin.name));
    let filters = PossibleValuesParser::new(layer::BUILT_IN.iter().map(|filter| filter.name));
    let mut command = whole()
        // `mut_arg` puts it behind all others.
        .mut_arg("plugin", |arg| arg.index(1).value_parser(plugins))
        .mut_arg("params", |arg| arg.index(2))
        .mut_arg("filter", |arg| arg.value_parser(filters));
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, "agent", &mut text);
    // clap's help has texts of ours and nothing else.
    String::from_utf8_lossy(&text).into_owned()
}
