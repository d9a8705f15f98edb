//! `agent libvirt xml`: the element.

use clap::{Arg, ArgMatches, Command};
use serde_json::json;

use super::{Outcome, Part, cid_json, cid_option, json_option, say, vsock};

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
        .arg(
            Arg::new("model")
                .long("model")
                .value_name("MODEL")
                .default_value("virtio")
                .value_parser(["virtio"])
                .help("The device's model"),
        )
        .arg(json_option())
}

fn run(matches: &ArgMatches) -> Outcome {
    let vsock = vsock(matches);
    let element = vsock.to_string();
    say(matches, &json!({ "xml": element, "cid": cid_json(vsock.cid) }), &element)
}
