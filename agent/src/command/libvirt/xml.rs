//! `agent libvirt xml`: prints the element.

use clap::{ArgMatches, Command};
use libvirt::{CidChoice, Model};
use serde_json::json;

use super::{
    Outcome, Part, cid, cid_json, cid_option, json_option, model_option, say, vsock, warn_of_auto,
};

pub(super) const PART: Part = Part { word: "xml", command, run };

const EXAMPLES: &str = "\
Examples:
  agent libvirt xml --cid 7
  agent libvirt xml --cid 7 > vsock.xml && virsh attach-device guest7 vsock.xml --config

With --json, one object:
  xml   the element, a string
  cid   the guest's CID, or null with auto";

fn command(command: Command) -> Command {
    command
        .about("Prints the <vsock> element of a domain")
        .after_help(EXAMPLES)
        .arg(cid_option())
        .arg(model_option(Model::Virtio.name()))
        .arg(json_option())
}

fn run(matches: &ArgMatches) -> Outcome {
    let cid = cid(matches);
    warn_of_auto(cid == CidChoice::Auto);
    let element = vsock(matches).to_string();
    say(matches, &json!({ "xml": element, "cid": cid_json(cid) }), &element)
}
