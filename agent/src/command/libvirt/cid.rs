//! `agent libvirt cid`: the CID that a running domain has.

use clap::{ArgMatches, Command};
use libvirt::Cid;
use serde_json::json;

use super::{
    Outcome, Part, cid_json, edit, json_option, say,
    virsh::{self, connect_option, domain_argument},
};

pub(super) const PART: Part = Part { word: "cid", command, run };

const EXAMPLES: &str = "\
Examples:
  agent libvirt cid guest7
  agent --vsock --allow-cid $(agent libvirt cid guest7) file /dev/vg/guest7

A domain that does not run has the CID that it is kept with, and none with auto.

With --json, one object:
  domain   its name, as it was given
  cid      the CID";

fn command(command: Command) -> Command {
    command
        .about("Prints the CID that a domain really has")
        .after_help(EXAMPLES)
        .arg(domain_argument())
        .arg(connect_option())
        .arg(json_option())
}

fn run(matches: &ArgMatches) -> Outcome {
    let domain = virsh::domain(matches);
    let xml = virsh::run(matches, &["dumpxml", "--domain", domain], "")?;
    match libvirt::cid(&xml).map_err(|error| edit::failed(domain, &error))? {
        Some(cid @ Cid::Fixed(number)) => {
            say(matches, &json!({ "domain": domain, "cid": cid_json(cid) }), &number.to_string())
        }
        Some(Cid::Auto) => {
            Err(format!("{domain} has no CID until it is started: its vsock device says auto")
                .into())
        }
        None => {
            let mend = "'agent libvirt attach' gives it one";
            Err(format!("{domain} has no vsock device; {mend}").into())
        }
    }
}
