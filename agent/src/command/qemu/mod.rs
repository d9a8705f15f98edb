//! `agent qemu ...`: what a virtual machine of QEMU needs for a disk over vsock. Each command has one file.
//!
//! Each command connects to one QMP socket, does one thing, and prints the result on stdout: in words or, with
//! `--json`, as one JSON object. The keys of the object are in its `--help` and are stable.

mod args;
mod attach;
mod detach;
mod list;
mod watch;

use std::{error::Error, fmt, path::PathBuf, time::Duration};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use human::chain;
use qemu::{
    cid::Range,
    qmp::{self, Client, Limits},
    text::Text,
    vsock::{Backend, Device},
};
use serde_json::{Value, json};
use tokio::runtime::Builder;
use vsock_cid::GuestCid;

use super::{Entry, Outcome, print, print_json};
use crate::units::parse_duration;

pub(super) const ENTRY: Entry = Entry { word: "qemu", command, run };

/// A command of `agent qemu`.
struct Part {
    word: &'static str,
    command: fn(Command) -> Command,
    run: fn(&ArgMatches) -> Outcome,
}

const PARTS: &[Part] = &[attach::PART, detach::PART, list::PART, args::PART, watch::PART];

/// The default id of a device.
const ID: &str = "vsock0";

fn command() -> Command {
    let parts = PARTS.iter().map(|part| (part.command)(Command::new(part.word)));
    Command::new(ENTRY.word)
        .about("Gives virtual machines of QEMU their vsock devices, by QMP")
        .after_help(
            "\
Examples:
  qemu-system-x86_64 -qmp unix:vm.qmp,server=on,wait=off ...
  agent qemu attach --qmp vm.qmp
  agent qemu attach --help             more, and what --json prints",
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

/// A library's error as text: its causes and the hint.
#[derive(Debug)]
struct Failed(String);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Failed {}

fn failed(error: &(dyn Error + 'static), hint: Option<String>) -> Box<dyn Error> {
    let mut line = chain(error).to_string();
    if let Some(hint) = hint {
        line = format!("{line}; {hint}");
    }
    Box::new(Failed(line))
}

fn of_qmp(error: &qmp::Error) -> Box<dyn Error> {
    failed(error, error.hint())
}

/// Runs a future that waits for QEMU.
fn wait_for(work: impl Future<Output = Outcome>) -> Outcome {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| format!("cannot start the runtime: {error}"))?.block_on(work)
}

async fn connect(matches: &ArgMatches) -> Result<Client, Box<dyn Error>> {
    let socket = matches.get_one::<PathBuf>("qmp").ok_or("--qmp is missing")?;
    Client::connect(socket, Limits::default()).await.map_err(|error| of_qmp(&error))
}

fn qmp_option() -> Arg {
    Arg::new("qmp")
        .long("qmp")
        .value_name("SOCKET")
        .value_parser(value_parser!(PathBuf))
        .required(true)
        .help("The Unix socket of QEMU's -qmp")
}

fn json_option() -> Arg {
    Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print one JSON object")
}

fn cid_option() -> Arg {
    Arg::new("cid")
        .long("cid")
        .value_name("auto|CID|CID-CID")
        .default_value("auto")
        .value_parser(|text: &str| text.parse::<Range>())
        .help("The guest's CID, or a range from which one is chosen at random")
}

fn id_option() -> Arg {
    Arg::new("id").long("id").value_name("ID").default_value(ID).help("QEMU's name of the device")
}

fn cids(matches: &ArgMatches) -> Range {
    matches.get_one("cid").copied().unwrap_or_default()
}

fn id(matches: &ArgMatches) -> &str {
    matches.get_one::<String>("id").map_or(ID, String::as_str)
}

fn duration(matches: &ArgMatches, name: &str) -> Duration {
    matches.get_one(name).copied().unwrap_or_default()
}

fn parse_timeout(text: &str) -> Result<Duration, crate::units::DurationError> {
    parse_duration(text)
}

/// Prints JSON with `--json`, otherwise words.
fn say(matches: &ArgMatches, object: &Value, words: &str) -> Result<(), Box<dyn Error>> {
    if matches.get_flag("json") { print_json(object) } else { print(&format!("{words}\n")) }
}

/// The part of the answers that describes a device.
fn device_json(device: &Device) -> Value {
    json!({
        "id": device.id.as_ref().map(Text::as_str),
        "path": device.path.as_str(),
        "driver": device.driver.as_str(),
        "backend": device.backend.to_string(),
        "cid": device.cid.map(GuestCid::get),
    })
}

fn device_words(device: &Device) -> String {
    let name = device.id.as_ref().unwrap_or(&device.path);
    let cid = match (device.cid, device.backend) {
        (Some(cid), _) => format!("CID {cid}"),
        (None, Backend::VhostUser) => "CID known to its vhost-user process".into(),
        (None, Backend::Kernel) => "CID unknown".into(),
    };
    format!("{name}: {}, {cid}", device.driver)
}

/// The keys of a device, for the `--help` of each command that prints it.
const DEVICE_KEYS: &str = "  id        QEMU's name of the device, or null
  path      its path in QEMU's tree of objects
  driver    QEMU's model, such as \"vhost-vsock-pci\"
  backend   \"kernel\" or \"vhost-user\"
  cid       the guest's CID, or null where QEMU does not know it";
