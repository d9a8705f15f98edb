//! `agent libvirt cid`: the CID of a running domain, or the one in a domain's stored configuration.

use clap::{Arg, ArgAction, ArgMatches, Command};
use libvirt::Device;
use serde_json::json;

use super::{
    Outcome, Part, edit, json_option, say,
    virsh::{self, connect_option, domain_argument, timeout_option},
};

pub(super) const PART: Part = Part { word: "cid", command, run };

const EXAMPLES: &str = "\
Examples:
  agent libvirt cid guest7
  agent --vsock --allow-cid $(agent libvirt cid guest7) file /dev/vg/guest7
  agent libvirt cid guest7 --config

The first is the CID that the running guest really has, also where libvirt chose it. A domain that does not
run has none, which is an error; with --config it is the CID of its next start, and auto is an error then.

With --json, one object:
  domain   its name, as it was given
  cid      the CID
  of       live: of the domain that runs; config: of the domain as it is kept";

fn command(command: Command) -> Command {
    command
        .about("Prints the CID that a running domain really has")
        .after_help(EXAMPLES)
        .arg(domain_argument())
        .arg(
            Arg::new("config")
                .long("config")
                .action(ArgAction::SetTrue)
                .help("The domain as it is kept, for its next start"),
        )
        .arg(connect_option())
        .arg(timeout_option())
        .arg(json_option())
}

fn run(matches: &ArgMatches) -> Outcome {
    let domain = virsh::domain(matches);
    let config = matches.get_flag("config");
    let words = ["dumpxml", "--domain", domain, "--inactive"];
    let xml = virsh::run(matches, if config { &words } else { &words[..3] }, "")?;
    let device = libvirt::device(&xml).map_err(|error| edit::failed(domain, &error))?;
    let failed = |error| edit::failed(domain, &error);
    let runs = libvirt::runs(&xml).map_err(failed)?;
    let why = match device {
        None => "has no vsock device; 'agent libvirt attach' gives it one".to_owned(),
        Some(device) if !runs && !config => {
            format!("does not run, so it has no CID now; {}", kept(&device))
        }
        Some(Device { auto: true, .. }) if config => {
            "is kept with auto: libvirt chooses its CID at each start".to_owned()
        }
        Some(Device { cid: Some(cid), .. }) => {
            let of = if config { "config" } else { "live" };
            let object = json!({ "domain": domain, "cid": cid.get(), "of": of });
            return say(matches, &object, &cid.to_string());
        }
        Some(_) => "runs, and libvirt says no CID of its vsock device".to_owned(),
    };
    Err(format!("{domain} {why}").into())
}

/// What the stored configuration means for the next start.
fn kept(device: &Device) -> String {
    match device {
        Device { auto: true, .. } => "at its start libvirt chooses one".to_owned(),
        Device { cid: Some(cid), .. } => format!("it starts with CID {cid}, which --config prints"),
        Device { .. } => "its vsock device says none".to_owned(),
    }
}
