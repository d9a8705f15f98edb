//! `agent libvirt attach`: a vsock device into a domain that libvirt has.

use clap::{Arg, ArgAction, ArgMatches, Command};
use libvirt::{EditError, Existing};
use serde_json::json;

use super::{
    Outcome, Part, cid_json, cid_option, edit, json_option, say,
    virsh::{self, connect_option, domain_argument},
    vsock,
};

pub(super) const PART: Part = Part { word: "attach", command, run };

const EXAMPLES: &str = "\
Examples:
  agent libvirt attach guest7 --cid 7 --live --config
  agent libvirt attach guest7 --connect qemu:///session --cid 7 --config

Without --live and --config it is done to what runs, or else to what is kept (virsh's --current). A domain
that has the device already stays as it is.

With --json, one object:
  domain     its name, as it was given
  attached   false if the device was there already
  cid        the guest's CID, or null with auto";

fn command(command: Command) -> Command {
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
    };
    command
        .about("Attaches a vsock device to a domain, by virsh")
        .after_help(EXAMPLES)
        .arg(domain_argument())
        .arg(cid_option())
        .arg(flag("live", "The domain that runs"))
        .arg(flag("config", "The domain as it is kept, for its next start"))
        .arg(connect_option())
        .arg(json_option())
}

fn run(matches: &ArgMatches) -> Outcome {
    let domain = virsh::domain(matches);
    let vsock = vsock(matches);
    let (live, config) = (matches.get_flag("live"), matches.get_flag("config"));
    // What is there already is asked of each that is to have it.
    let mut needed = Vec::new();
    for (wanted, flag, more) in [
        // Without a word virsh has the driver decide, and QEMU's refuses a domain that does not run.
        (live || !config, if live { "--live" } else { "--current" }, None),
        (config, "--config", Some("--inactive")),
    ] {
        if !wanted {
            continue;
        }
        let words = ["dumpxml", "--domain", domain];
        let words: Vec<&str> = words.into_iter().chain(more).collect();
        let xml = virsh::run(matches, &words, "")?;
        let edited = libvirt::edit(&xml, vsock, Existing::Keep);
        let edited = edited.map_err(|error| match error {
            EditError::Other(..) => format!(
                "{}; 'agent libvirt edit --replace' and 'virsh define' change it",
                edit::failed(domain, &error)
            ),
            _ => edit::failed(domain, &error),
        });
        // What is to run and does not is virsh's to refuse.
        let stopped = flag == "--live" && !libvirt::runs(&xml).unwrap_or_default();
        if edited? != xml || stopped {
            needed.push(flag);
        }
    }
    for flag in &needed {
        let words = ["attach-device", "--domain", domain, "--file", "/dev/stdin"];
        let words: Vec<&str> = words.into_iter().chain([*flag]).collect();
        virsh::run(matches, &words, &format!("{vsock}\n"))?;
    }
    let attached = !needed.is_empty();
    let words = if attached { "attached" } else { "the device is there already" };
    let object = json!({ "domain": domain, "attached": attached, "cid": cid_json(vsock.cid) });
    say(matches, &object, &format!("{domain}: {words}"))
}
