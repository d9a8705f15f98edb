//! `agent completions SHELL`: a shell's script that completes the command line.

use std::{fs, path::PathBuf};

use clap::{Arg, ArgMatches, builder::PossibleValuesParser, value_parser};
use clap_complete::{Generator, Shell};

use super::{ALL, Entry, Outcome, print_as_it_is, whole};
use crate::{filter, params::Key, plugin};

pub(super) const ENTRY: Entry = Entry { word: "completions", command, run };

const EXAMPLES: &str = "\
Examples:
  agent completions bash > ~/.local/share/bash-completion/completions/agent
  agent completions fish > ~/.config/fish/completions/agent.fish
  agent completions --dir DIR          for every shell, in the files that they look for";

/// The shells whose scripts packages ship.
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
        print_as_it_is(&text(*shell))?;
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
    match shell {
        Shell::Bash => bash(),
        Shell::Fish => fish(),
        Shell::Zsh => zsh(),
        _ => generated(shell, with_values(whole()), "agent"),
    }
}

fn generated(shell: Shell, mut command: clap::Command, name: &str) -> String {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut text);
    // clap's help contains only this program's own texts.
    String::from_utf8_lossy(&text).into_owned()
}

/// Adds the values of options and of the plugin that `cli` checks without clap.
fn with_values(command: clap::Command) -> clap::Command {
    let plugins = plugin::BUILT_IN.iter().map(|plugin| plugin.name);
    let filters: Vec<_> = filter::built_in().iter().map(|filter| filter.name).collect();
    // Where the commands have no definitions of their own, their words are values like the plugins.
    let own = command.get_subcommands().next().is_none();
    let plugins: Vec<_> = plugins.chain(commands().filter(|_| own)).collect();
    command
        .mut_subcommands(with_pages)
        // `mut_arg` moves the argument behind all others.
        .mut_arg("plugin", |arg| arg.index(1).value_parser(PossibleValuesParser::new(plugins)))
        .mut_arg("params", |arg| arg.index(2))
        .mut_arg("filter", |arg| arg.value_parser(PossibleValuesParser::new(filters)))
        .mut_arg("tls", |arg| arg.value_parser(["off", "on", "require"]))
        .mut_arg("log", |arg| arg.value_parser(["stderr", "json", "syslog", "journald", "null"]))
}

/// Adds the names that the command `man` checks without clap. A page may have several words.
fn with_pages(command: clap::Command) -> clap::Command {
    let pages = || PossibleValuesParser::new(commands());
    command.mut_args(|arg| if arg.get_id() == "page" { arg.value_parser(pages()) } else { arg })
}

fn commands() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|entry| entry.word)
}

/// clap's script, followed by code that completes the words that clap does not know.
fn bash() -> String {
    let serving = crate::cli::command();
    let options = serving.get_arguments().filter(|arg| arg.get_action().takes_values());
    let options = options.flat_map(|arg| {
        let long = arg.get_long().map(|long| format!("--{long}"));
        [arg.get_short().map(|short| format!("-{short}")), long].into_iter().flatten()
    });
    let options: Vec<_> = options.collect();
    let plugins: Vec<_> = plugin::BUILT_IN.iter().map(|plugin| plugin.name).collect();
    // These plugins take a path as the parameter without a key.
    let of_files = plugin::BUILT_IN.iter().filter(|plugin| {
        plugin.keys.iter().any(|key| plugin.main == Some(key.name) && key.value == "PATH")
    });
    let of_files: Vec<_> = of_files.map(|plugin| plugin.name).collect();
    let words = include_str!("completions/words.bash")
        .replace("@OPTIONS@", &options.join(" "))
        .replace("@COMMANDS@", &commands().collect::<Vec<_>>().join(" "))
        .replace("@PLUGINS@", &plugins.join(" "))
        .replace("@OF_FILES@", &of_files.join(" "));
    let clap = generated(Shell::Bash, with_values(whole()), "agent");
    clap.replace("complete -F _agent ", "complete -F _agent_words ") + &words + &parameters()
}

/// clap's script for serving, preceded by a script for each command, which completes lines that
/// begin with its word. In a single script clap would look for the command after the plugin.
fn zsh() -> String {
    let serving = generated(Shell::Zsh, with_values(crate::cli::command()), "agent");
    let (head, body) = serving.split_once("_agent() {\n").unwrap_or_default();
    let mut text = head.to_owned();
    for entry in ALL {
        let script =
            generated(Shell::Zsh, with_pages(entry.command()), &format!("agent-{}", entry.word));
        // Without its `#compdef` line and the lines that call it.
        let script = script.split_once("autoload -U is-at-least\n").unwrap_or_default().1;
        text += script.split("if [ \"$funcstack[1]\"").next().unwrap_or_default().trim_start();
    }
    text += &parameters();
    text += include_str!("completions/words.zsh");
    text += "_agent() {\n    if ((CURRENT > 2 && $+functions[_agent-$words[2]])); then\n        \
             shift words\n        ((CURRENT--))\n        _agent-$words[1]\n        return\n    fi\n";
    for line in body.lines() {
        text += if line.starts_with("'*::params") { "'*:parameter:_agent_words' \\" } else { line };
        text.push('\n');
    }
    text
}

/// clap's script. The options for serving also apply after a plugin. The plugins and the
/// parameters, which clap leaves out, are added.
fn fish() -> String {
    let commands: Vec<_> = commands().collect();
    let mut text = String::new();
    for line in generated(Shell::Fish, with_values(whole()), "agent").lines() {
        let of_serving = line.contains("\"__fish_agent_needs_command\" -s ")
            || line.contains("\"__fish_agent_needs_command\" -l ");
        text += &if of_serving { line.replace("needs_command", "serves") } else { line.to_owned() };
        text.push('\n');
    }
    text += &include_str!("completions/words.fish").replace("@COMMANDS@", &commands.join(" "));
    let mut complete = |when: String, what: &str, about: &str| {
        let about = about.replace('\'', "\\'");
        let parts = ["complete -c agent -n \"", &when, "\" -a \"", what, "\" -d '", &about, "'\n"];
        text.extend(parts);
    };
    for plugin in plugin::BUILT_IN {
        complete("__fish_agent_needs_command".to_owned(), plugin.name, plugin.about);
        for (key, word) in plugin.keys.iter().flat_map(key_words) {
            complete(format!("__fish_agent_using_subcommand {}", plugin.name), &word, key.about);
        }
    }
    for entry in ALL {
        let command = with_pages(entry.command());
        for value in command.get_positionals().flat_map(Arg::get_possible_values) {
            let about = value.get_help().map(ToString::to_string).unwrap_or_default();
            complete(
                format!("__fish_agent_using_subcommand {}", entry.word),
                value.get_name(),
                &about,
            );
        }
    }
    for filter in filter::built_in() {
        for (key, word) in filter.keys.iter().flat_map(key_words) {
            complete(format!("__fish_agent_has_filter {}", filter.name), &word, key.about);
        }
    }
    text
}

/// A function of bash and zsh that prints the parameters of a plugin or a filter.
fn parameters() -> String {
    let plugins = plugin::BUILT_IN.iter().map(|plugin| ("plugin", plugin.name, plugin.keys));
    let filters = filter::built_in().into_iter().map(|filter| ("filter", filter.name, filter.keys));
    let mut cases = String::new();
    for (kind, name, keys) in plugins.chain(filters) {
        let words: Vec<_> = keys.iter().flat_map(key_words).map(|(_, word)| word).collect();
        if !words.is_empty() {
            let words = words.join(" ");
            cases.extend(["        \"", kind, " ", name, "\") echo \"", &words, "\" ;;\n"]);
        }
    }
    include_str!("completions/parameters.sh").replace("@PARAMETERS@", &cases)
}

/// `KEY=`, or `KEY=VALUE` for each value if the key is a choice of words.
fn key_words(key: &Key) -> impl Iterator<Item = (&Key, String)> {
    let values = key.value.split('|');
    let is_word = |value: &str| value.chars().all(|c| c.is_ascii_lowercase() || c == '-');
    let values: Vec<_> = if values.clone().all(is_word) { values.collect() } else { vec![""] };
    values.into_iter().map(move |value| (key, format!("{}={value}", key.name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If clap changes the form of its scripts, this program's scripts must not silently lose a
    /// part.
    #[test]
    fn the_parts_of_scripts_are_put_together() {
        let zsh = zsh();
        assert!(zsh.starts_with("#compdef agent\n"), "{zsh}");
        for part in ["_agent() {", "_agent-man() {", "'*:parameter:_agent_words' \\", "--vsock["] {
            assert_eq!(zsh.matches(part).count(), 1, "{part} in {zsh}");
        }
        assert_eq!(zsh.matches("compdef _agent").count(), 1, "{zsh}");
        assert!(bash().contains("\n    complete -F _agent_words -o"));
        let fish = fish();
        for part in [
            "__fish_agent_serves\" -s p -l port",
            "__fish_agent_needs_command\" -a \"memory\"",
            "__fish_agent_using_subcommand memory\" -a \"size=\"",
            "__fish_agent_has_filter cow\" -a \"cow-block-size=\"",
            "__fish_agent_using_subcommand completions\" -a \"fish\"",
        ] {
            assert_eq!(fish.matches(part).count(), 1, "{part} in {fish}");
        }
    }

    #[test]
    fn a_choice_of_words_is_completed_and_a_placeholder_is_not() {
        let words = |value| {
            let key = Key::once("k", value, "");
            key_words(&key).map(|(_, word)| word).collect::<Vec<_>>()
        };
        assert_eq!(words("on|off"), ["k=on", "k=off"]);
        for value in ["SIZE", "BOOL|/PATH", "N%|0..1|N:M"] {
            assert_eq!(words(value), ["k="], "{value}");
        }
    }
}
