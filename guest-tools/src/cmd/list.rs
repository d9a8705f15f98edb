//! `list`: prints the exports of a server, each as `info` does.

use clap::Args;
use nbd::wire::is_plain;
use nbd_client::Connector;

use super::{
    CommandError,
    print::{print, print_json},
    show,
};
use crate::target::Target;

const EXAMPLES: &str = "\
Examples:
  guest-tools list                             what this guest's host has for it
  guest-tools list nbd+vsock://2:10810 --json
  guest-tools list --names | head -1

Keys of --json: those of info --json, with every export in exports; one that the server lists and
does not open has an error, and nothing but its name and uri besides. With --names it is a list of
names.";

/// What was said. The URI's export does not count.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct List {
    #[command(flatten)]
    target: Target,
    /// Print names alone, one a line
    #[arg(long)]
    names: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(words: &List, connector: &Connector) -> Result<(), CommandError> {
    let uri = &words.target.uri;
    let server = connector.list(uri)?;
    let names = server.exports.iter().map(|export| export.name.as_str());
    match (words.names, words.json) {
        (true, true) => print_json(&names.collect()),

        (true, false) => print(&names.map(one_line).collect::<String>()),
        (false, true) => print_json(&show::json(&server, uri)),
        (false, false) => print(&show::text(&server, uri)),
    }
}

/// Escapes control characters, so that a name with a line end cannot look like two names, nor like
/// another one.
fn one_line(name: &str) -> String {
    let escape = |c: char| if is_plain(c) { c.into() } else { c.escape_default().to_string() };
    name.chars().map(escape).chain(["\n".to_owned()]).collect()
}
