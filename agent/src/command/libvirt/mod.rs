//! `agent libvirt ...`: what a domain of libvirt needs for a disk over vsock. Each command has one
//! file.
//!
//! The crate `libvirt` reads and writes XML. virsh(1) changes the domains.

mod attach;
mod cid;
mod edit;
mod virsh;
mod xml;

use clap::{Arg, ArgAction, ArgMatches, Command};
use libvirt::{CidChoice, Model, Vsock};
use serde_json::Value;
use thiserror::Error;
use vsock_cid::CidError;

use super::{Entry, Outcome, print, print_as_it_is, print_json};

pub(super) const ENTRY: Entry = Entry { word: "libvirt", command, run };

/// A command of `agent libvirt`.
struct Part {
    word: &'static str,
    command: fn(Command) -> Command,
    run: fn(&ArgMatches) -> Outcome,
}

const PARTS: &[Part] = &[xml::PART, edit::PART, attach::PART, cid::PART];

fn command() -> Command {
    let parts = PARTS.iter().map(|part| (part.command)(Command::new(part.word)));
    Command::new(ENTRY.word)
        .about("Gives domains of libvirt their vsock devices")
        .after_help(
            "\
Examples:
  virsh dumpxml guest7 | agent libvirt edit - --cid 7 > guest7.xml && virsh define guest7.xml
  agent libvirt attach guest7 --cid 7 --live --config
  agent libvirt edit --help            more, and what --json prints",
        )
        .subcommand_required(true)
        .disable_help_subcommand(true)
        .subcommands(parts)
}

fn run(matches: &ArgMatches) -> Outcome {
    let Some((word, matches)) = matches.subcommand() else { return Ok(0) };
    let part = PARTS.iter().find(|part| part.word == word);
    part.map_or(Ok(0), |part| (part.run)(matches))
}

fn cid_option() -> Arg {
    Arg::new("cid")
        .long("cid")
        .value_name("auto|CID")
        .default_value("auto")
        .value_parser(parse_cid)
        .help("The guest's CID, 3 to 4294967294; auto: libvirt chooses at each start")
}

/// A text that is neither a guest's CID nor `auto`.
#[derive(Debug, Error)]
#[error("{0}, or 'auto'")]
struct NoChoice(CidError);

fn parse_cid(text: &str) -> Result<CidChoice, NoChoice> {
    if text == "auto" {
        return Ok(CidChoice::Auto);
    }
    text.parse().map(CidChoice::Fixed).map_err(NoChoice)
}

fn json_option() -> Arg {
    Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print one JSON object")
}

fn model_option(default: &'static str) -> Arg {
    Arg::new("model")
        .long("model")
        .value_name("MODEL")
        .value_parser(Model::ALL.map(Model::name))
        .help(format!("The device's model [default: {default}]"))
}

/// The device described by `--cid` and `--model`.
fn vsock(matches: &ArgMatches) -> Vsock {
    let model = matches.get_one::<String>("model").and_then(|name| Model::of(name));
    Vsock { cid: Some(cid(matches)), model }
}

fn cid(matches: &ArgMatches) -> CidChoice {
    matches.get_one("cid").copied().unwrap_or(CidChoice::Auto)
}

/// Explains what an automatic CID means to a user who asks for one.
fn warn_of_auto(auto: bool) {
    if auto {
        eprintln!(
            "agent: warning: with auto libvirt gives the guest the lowest CID that is free at its start: \
             the next guest may get the same one, so it is no identity to let a guest in by; --cid N is"
        );
    }
}

/// Prints JSON with `--json`, otherwise words.
fn say(matches: &ArgMatches, object: &Value, words: &str) -> Outcome {
    if matches.get_flag("json") {
        print_json(object)?;
    } else {
        print(&format!("{words}\n"))?;
    }
    Ok(0)
}

/// The CID as a number, or null if libvirt chooses.
fn cid_json(cid: CidChoice) -> Option<u32> {
    match cid {
        CidChoice::Auto => None,
        CidChoice::Fixed(cid) => Some(cid.get()),
    }
}
