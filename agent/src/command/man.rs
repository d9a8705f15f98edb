//! `agent man`: the manual's pages, made from the definitions that parse the command line.

use std::{fs, io, path::PathBuf};

use clap::{Arg, ArgMatches, value_parser};
use clap_mangen::{
    Man,
    roff::{Inline, Roff, bold, italic, roman},
};

use super::{Entry, Outcome, print_as_it_is, whole};
use crate::{filter, params::Key, plugin};

pub(super) const ENTRY: Entry = Entry { word: "man", command, run };

const EXAMPLES: &str = "\
Examples:
  agent man | man -l -                 this program's page
  agent man man                        the page of this command
  agent man --dir /usr/local/share/man/man1";

fn command() -> clap::Command {
    clap::Command::new(ENTRY.word)
        .about("Prints the pages of the manual")
        .long_about(
            "Prints a page of the manual as roff, for man(1): that of the program, or that of the \
             command that is named. The pages are made from the definitions by which the command \
             line is read, so they are those of this very program.",
        )
        .after_help(EXAMPLES)
        .arg(
            Arg::new("page")
                .value_name("COMMAND")
                .num_args(0..)
                .help("The command whose page it is, such as 'man'"),
        )
        .arg(
            Arg::new("dir")
                .long("dir")
                .value_name("DIR")
                .value_parser(value_parser!(PathBuf))
                .conflicts_with("page")
                .help("Write every page into this directory"),
        )
}

fn run(matches: &ArgMatches) -> Outcome {
    let pages = pages().map_err(|error| format!("cannot make the pages: {error}"))?;
    if let Some(dir) = matches.get_one::<PathBuf>("dir") {
        for (name, text) in pages {
            let path = dir.join(format!("{name}.1"));
            fs::write(&path, text)
                .map_err(|error| format!("--dir: cannot write {}: {error}", path.display()))?;
        }
        return Ok(0);
    }
    let words = matches.get_many::<String>("page").into_iter().flatten();
    let wanted = words.fold("agent".to_owned(), |name, word| format!("{name}-{word}"));
    let Some((_, text)) = pages.iter().find(|(name, _)| *name == wanted) else {
        let known: Vec<_> = pages.iter().map(|(name, _)| name.as_str()).collect();
        return Err(format!("there is no page {wanted}; there are {}", known.join(", ")).into());
    };
    print_as_it_is(text)?;
    Ok(0)
}

/// Every page with its name, the program's own first.
fn pages() -> io::Result<Vec<(String, String)>> {
    let mut whole = whole();
    whole.build();
    let mut pages = vec![("agent".to_owned(), main_page(&whole)?)];
    for command in whole.get_subcommands() {
        add("agent", command, &mut pages)?;
    }
    Ok(pages)
}

fn add(above: &str, command: &clap::Command, pages: &mut Vec<(String, String)>) -> io::Result<()> {
    let name = format!("{above}-{}", command.get_name());
    let mut page = title(&name);
    // The text at the end of `agent WORD --help` is examples, in lines of their own.
    let plain = command.clone().after_help("").after_long_help("");
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    // The page's name has hyphens, the program's words do not.
    let man = Man::new(plain.clone().display_name(&name).about(lower(&about)));
    man.render_name_section(&mut page)?;
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"]);
    let usage = plain.clone().render_usage().to_string();
    roff.text([roman(usage.trim_start_matches("Usage: "))]);
    roff.to_writer(&mut page)?;
    let man = Man::new(plain);
    man.render_description_section(&mut page)?;
    if command.get_arguments().next().is_some() {
        man.render_options_section(&mut page)?;
    }
    if command.get_subcommands().next().is_some() {
        man.render_subcommands_section(&mut page)?;
    }
    let mut roff = Roff::new();
    if let Some(examples) = command.get_after_help() {
        verbatim(&mut roff, "EXAMPLES", &examples.to_string());
    }
    see_also(&mut roff, &["agent"]);
    roff.to_writer(&mut page)?;
    pages.push((name.clone(), text(&page)));
    command.get_subcommands().try_for_each(|below| add(&name, below, pages))
}

/// The header has no date: the pages in the tree change only with the command line. Lines are not
/// justified, because some values are longer than a line.
fn title(name: &str) -> Vec<u8> {
    format!(".TH {name} 1 \"\" \"agent {}\" \"\"\n.ad l\n", env!("CARGO_PKG_VERSION")).into_bytes()
}

fn main_page(whole: &clap::Command) -> io::Result<String> {
    let serving = crate::cli::command().after_help("");
    let about = serving.get_about().map(ToString::to_string).unwrap_or_default();
    let man = Man::new(serving.clone().about(lower(&about)));
    let mut page = title("agent");
    man.render_name_section(&mut page)?;
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"]);
    roff.text([
        bold("agent"),
        roman(" [OPTIONS] "),
        italic("PLUGIN"),
        roman(" ["),
        italic("KEY"),
        roman("="),
        italic("VALUE"),
        roman(" | "),
        italic("VALUE"),
        roman("]..."),
    ]);
    roff.control("br", []);
    roff.text([bold("agent"), roman(" "), italic("COMMAND"), roman(" ...")]);
    roff.control("SH", ["DESCRIPTION"]);
    for (i, paragraph) in DESCRIPTION.iter().enumerate() {
        if i > 0 {
            roff.control("PP", []);
        }
        roff.text([roman(*paragraph)]);
    }
    roff.to_writer(&mut page)?;
    man.render_options_section(&mut page)?;
    let mut roff = Roff::new();
    roff.control("SH", ["PLUGINS"]);
    roff.text([roman("What is served. The key in brackets may be left out before its value.")]);
    for plugin in plugin::BUILT_IN {
        part(&mut roff, plugin.name, plugin.about, plugin.keys, plugin.main);
    }
    roff.control("SH", ["FILTERS"]);
    roff.text([
        roman("What "),
        bold("--filter"),
        roman(" puts around it; their parameters stand among the plugin's."),
    ]);
    for filter in filter::built_in() {
        part(&mut roff, filter.name, filter.about, filter.keys, None);
    }
    roff.control("SH", ["COMMANDS"]);
    for command in whole.get_subcommands() {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        tagged(&mut roff, [bold(format!("agent {}", command.get_name()))], &about);
    }
    for (title, items) in SECTIONS {
        roff.control("SH", [*title]);
        for (tag, what) in *items {
            tagged(&mut roff, [bold(*tag)], what);
        }
    }
    roff.control("SH", ["EXAMPLES"]);
    for (i, (what, line)) in LINES.iter().enumerate() {
        if i > 0 {
            roff.control("PP", []);
        }
        roff.text([roman(format!("{what}:"))]);
        roff.control("PP", []);
        roff.control("RS", ["4"]);
        roff.control("nf", []);
        roff.text([roman(*line)]);
        roff.control("fi", []);
        roff.control("RE", []);
    }
    let mut others: Vec<_> =
        whole.get_subcommands().map(|command| format!("agent-{}", command.get_name())).collect();
    others.extend(["nbdkit", "nbdkit-service", "nbdsh", "nbdinfo", "nbdcopy"].map(str::to_owned));
    let others: Vec<_> = others.iter().map(String::as_str).collect();
    see_also(&mut roff, &others);
    roff.to_writer(&mut page)?;
    Ok(text(&page))
}

/// A plugin or a filter with its keys.
fn part(roff: &mut Roff, name: &str, about: &str, keys: &[Key], main: Option<&str>) {
    roff.control("SS", [name]);
    roff.text([roman(format!("{about}."))]);
    for key in keys {
        let (open, close) = if main == Some(key.name) { ("[", "=]") } else { ("", "=") };
        let tag = [roman(open), bold(key.name), roman(close), italic(key.value)];
        let many = if key.many { " (may be given again)" } else { "" };
        tagged(roff, tag, &format!("{}{many}.", key.about));
    }
}

fn tagged<const N: usize>(roff: &mut Roff, tag: [Inline; N], what: &str) {
    roff.control("TP", []);
    roff.text(tag);
    roff.text([roman(what)]);
}

/// The text after the options in `--help`, with its line breaks.
fn verbatim(roff: &mut Roff, title: &str, lines: &str) {
    roff.control("SH", [title]);
    roff.control("nf", []);
    for line in lines.lines().filter(|line| *line != "Examples:") {
        roff.text([roman(line)]);
    }
    roff.control("fi", []);
}

fn see_also(roff: &mut Roff, pages: &[&str]) {
    roff.control("SH", ["SEE ALSO"]);
    let mut inlines = Vec::new();
    for (i, page) in pages.iter().enumerate() {
        let comma = if i == 0 { "" } else { ", " };
        inlines.extend([roman(comma), bold(*page), roman("(1)")]);
    }
    roff.text(inlines);
}

fn lower(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

/// Removes blanks at the ends of lines, which clap leaves in some.
fn text(page: &[u8]) -> String {
    let page = String::from_utf8_lossy(page);
    page.lines().flat_map(|line| [line.trim_end(), "\n"]).collect()
}

const DESCRIPTION: &[&str] = &[
    "The agent is an NBD server for the host of virtual machines. A guest without a network card \
     opens AF_VSOCK to CID 2, port 10809, and has a disk. It listens on AF_VSOCK, TCP and Unix \
     sockets, on those that systemd hands it, or serves one client on stdin and stdout.",
    "Its options, plugins and filters are those of nbdkit(1), with the same meaning, so that it \
     takes the place of nbdkit in a unit file, an inetd line or a script. Called by the name nbdkit \
     it goes into the background as nbdkit does.",
    "Without -p, -i, -U, --vsock and --listen it listens on TCP port 10809 of all addresses, with \
     --run on a private Unix socket. Started by a systemd socket unit (LISTEN_FDS) it serves on \
     that unit's sockets.",
    "What was acknowledged and flushed is never lost, and nothing is served to anybody whom the \
     rules (--allow, --allow-cid, the filter ip) do not name, where there are any.",
];

/// What each example is for, and its command line.
const LINES: &[(&str, &str)] = &[
    ("A sparse memory disk for every guest of this machine", "agent --vsock memory 1G"),
    (
        "The same disk in such a guest, by libnbd",
        "nbdsh -c 'h.connect_vsock(2, 10809)' -c 'print(h.get_size())'",
    ),
    (
        "A block device for the guest with CID 7 alone",
        "agent --vsock --allow-cid 7 file /dev/vg/guest7",
    ),
    (
        "Two listeners at once, and a directory whose files are the exports",
        "agent --listen vsock:10809 --listen unix:/run/images.sock -r file dir=/srv/images",
    ),
    (
        "Writes that are gone when the agent ends",
        "agent -U /run/scratch.sock --filter=cow file disk.img",
    ),
    ("One command with a disk", "agent memory 1G --run 'nbdinfo \"$uri\"'"),
    (
        "TCP, for clients with a certificate",
        "agent --tls=require --tls-verify-peer --tls-certificates=/etc/pki/nbdkit file disk.img",
    ),
    ("What a filter and a plugin take", "agent --filter=rate file --help"),
];

type Section = (&'static str, &'static [(&'static str, &'static str)]);

const SECTIONS: &[Section] = &[
    (
        "SIGNALS",
        &[
            (
                "TERM, INT, QUIT",
                "What is in flight is finished and flushed, then it ends; a second one ends it at once.",
            ),
            (
                "HUP",
                "The log file is opened again, and the files of --access-file, --tls-certificates, --tls-psk and the \
                 plugin nbd's tls-certificates are read again; those that are wrong change nothing. Nobody is dropped.",
            ),
            ("USR1", "The filter stats writes what it has counted."),
        ],
    ),
    (
        "ENVIRONMENT",
        &[
            (
                "LISTEN_FDS, LISTEN_PID, LISTEN_FDNAMES",
                "Sockets that are handed over: sd_listen_fds(3).",
            ),
            (
                "FDSTORE",
                "The number of descriptors that the service manager keeps for the next start. Unless it is 0, listening sockets and the devices of VMs are kept.",
            ),
            (
                "NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID",
                "The socket for READY, RELOADING, STATUS, STOPPING and WATCHDOG messages to the service manager: sd_notify(3).",
            ),
            ("TMPDIR", "Where overlays (/var/tmp without it) and private sockets (/tmp) are made."),
        ],
    ),
    (
        "EXIT STATUS",
        &[
            ("0", "It has served, or answered."),
            (
                "1",
                "Something was wrong; one line on stderr says what and how to fix it. Nothing was started.",
            ),
            ("other", "With --run, the command's."),
        ],
    ),
    (
        "FILES",
        &[
            (
                "/etc/default/agent, /etc/default/agent-NAME",
                "AGENT_ARGS of agent.service and of agent@NAME.service.",
            ),
            (
                "/var/lib/agent",
                "The disk that agent.service serves, read-only, unless its configuration names another.",
            ),
            (
                "/etc/pki/nbdkit, ~/.pki/nbdkit, ~/.config/pki/nbdkit",
                "Certificates, for root and for others, unless --tls-certificates says where.",
            ),
        ],
    ),
];

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_examples_are_command_lines() {
        let lines = LINES.iter().filter_map(|(_, line)| line.strip_prefix("agent "));
        for line in lines {
            let printf = format!("printf '%s\\n' agent {line}");
            let words = Command::new("bash").args(["-c", &printf]).output().unwrap();
            let words = String::from_utf8(words.stdout).unwrap();
            match crate::cli::plan(words.lines(), None) {
                Ok(_) => {}
                Err(stop) => assert!(stop.answer().is_some(), "{line}: {stop}"),
            }
        }
    }
}
