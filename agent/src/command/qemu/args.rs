//! `agent qemu args`: the words that give a machine its vsock device when it starts.

use std::{error::Error, path::PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use qemu::{
    args::{Memory, Sharing, VhostUser, kernel},
    cid,
    vsock::Bus,
};
use serde_json::json;

use super::{Outcome, Part, cid_option, cids, failed, id, id_option, json_option, say};

pub(super) const PART: Part = Part { word: "args", command, run };

const EXAMPLES: &str = "\
Examples:
  agent qemu args --cid 42
  qemu-system-x86_64 -machine q35 $(agent qemu args --cid 42) ...
  agent qemu args --vhost-user /run/vm.vsock --memory 512M

Without --vhost-user the device is the kernel's (/dev/vhost-vsock). A CID that is chosen here is not
kept for the machine: until it has started, another one may take it.

With --json, one object:
  arguments   QEMU's arguments, an array of strings
  cid         the guest's CID, or null with --vhost-user, whose process chooses it";

fn command(command: Command) -> Command {
    command
        .about("Prints the part of QEMU's command line for a machine's vsock device")
        .after_help(EXAMPLES)
        .arg(cid_option().conflicts_with("vhost-user"))
        .arg(
            Arg::new("machine")
                .long("machine")
                .value_name("TYPE")
                .default_value("q35")
                .help("The machine's type, QEMU's -machine"),
        )
        .arg(
            Arg::new("bus")
                .long("bus")
                .value_name("BUS")
                .value_parser(["pci", "ccw", "mmio"])
                .help("Where the device goes [default: what that machine has]"),
        )
        .arg(id_option())
        .arg(
            Arg::new("vhost-user")
                .long("vhost-user")
                .value_name("SOCKET")
                .value_parser(value_parser!(PathBuf))
                .requires("memory")
                .help("The socket of the process that carries the packets, instead of the kernel"),
        )
        .arg(
            Arg::new("memory")
                .long("memory")
                .value_name("SIZE")
                .value_parser(|text: &str| text.parse::<Memory>())
                .requires("vhost-user")
                .help("The guest's memory, which that process shares"),
        )
        .arg(
            Arg::new("numa")
                .long("numa")
                .action(ArgAction::SetTrue)
                .requires("vhost-user")
                .help("Give the memory to a NUMA node, for QEMU before 5.0"),
        )
        .arg(json_option())
}

fn run(matches: &ArgMatches) -> Outcome {
    let (arguments, cid) = arguments(matches)?;
    let words: Vec<String> = arguments.iter().map(|word| quoted(word)).collect();
    say(matches, &json!({ "arguments": arguments, "cid": cid }), &words.join(" "))?;
    Ok(0)
}

fn arguments(matches: &ArgMatches) -> Result<(Vec<String>, Option<u32>), Box<dyn Error>> {
    let machine = matches.get_one::<String>("machine").map_or("q35", String::as_str);
    let bus = match matches.get_one::<String>("bus").map(String::as_str) {
        Some("pci") => Bus::Pci,
        Some("ccw") => Bus::Ccw,
        Some("mmio") => Bus::Mmio,
        _ => Bus::of(machine),
    };
    let id = id(matches);
    let socket = matches.get_one::<PathBuf>("vhost-user");
    let Some((socket, memory)) = socket.zip(matches.get_one::<Memory>("memory")) else {
        let cid = cid::draw(cids(matches)).map_err(|error| {
            let hint = error.hint().map(Into::into);
            failed(&error, hint)
        })?;
        return Ok((kernel(bus, id, cid).into(), Some(cid.get())));
    };
    let sharing = if matches.get_flag("numa") { Sharing::Numa } else { Sharing::Machine };
    let socket = socket.clone();
    let device = VhostUser { bus, id: id.into(), socket, memory: memory.clone(), sharing };
    Ok((device.arguments(), None))
}

/// Quotes a word for a shell.
fn quoted(word: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_=,./:+@%".contains(letter);
    if !word.is_empty() && word.chars().all(plain) {
        return word.into();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}
