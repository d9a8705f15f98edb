//! `agent libvirt attach`: adds a vsock device to a domain of libvirt.

use clap::{Arg, ArgAction, ArgMatches, Command};
use libvirt::{CidChoice, EditError, Existing};
use serde_json::json;
use vsock_cid::GuestCid;

use super::{
    Outcome, Part, cid, cid_json, cid_option, edit, json_option, model_option, say,
    virsh::{self, connect_option, domain_argument, timeout_option},
    vsock, warn_of_auto,
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
  cid        the guest's CID; with auto the one that a running domain got, else null";

fn command(command: Command) -> Command {
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
    };
    command
        .about("Attaches a vsock device to a domain, by virsh")
        .after_help(EXAMPLES)
        .arg(domain_argument())
        .arg(cid_option())
        .arg(model_option("virtio; a device that is there may have any"))
        .arg(flag("live", "The domain that runs"))
        .arg(flag("config", "The domain as it is kept, for its next start"))
        .arg(connect_option())
        .arg(timeout_option())
        .arg(json_option())
}

fn run(matches: &ArgMatches) -> Outcome {
    let domain = virsh::domain(matches);
    let (cid, vsock) = (cid(matches), vsock(matches));
    warn_of_auto(cid == CidChoice::Auto);
    let (live, config) = (matches.get_flag("live"), matches.get_flag("config"));
    // Checks each configuration that shall have the device for one that is already there.
    let (mut needed, mut running) = (Vec::new(), None);
    for (wanted, flag) in [
        // Without a flag virsh lets the driver decide, and QEMU's driver refuses a domain that does not run.
        (live || !config, if live { "--live" } else { "--current" }),
        (config, "--config"),
    ] {
        if !wanted {
            continue;
        }
        let xml = dump(matches, flag)?;
        let edited = libvirt::edit(&xml, vsock, Existing::Keep);
        let edited = edited.map_err(|error| match error {
            EditError::Other(..) => format!(
                "{}; 'agent libvirt edit --replace' and 'virsh define' change it",
                edit::failed(domain, &error)
            ),
            _ => edit::failed(domain, &error),
        })?;
        let runs = flag != "--config" && libvirt::runs(&xml).unwrap_or_default();
        // `--live` for a domain that does not run: virsh refuses it.
        if edited != xml || (flag == "--live" && !runs) {
            needed.push(flag);
        }
        if runs {
            running = Some(flag);
        }
    }
    if !needed.is_empty() {
        // In one call, so that libvirt changes both or neither.
        let words = ["attach-device", "--domain", domain, "--file", "/dev/stdin"];
        let words: Vec<&str> = words.into_iter().chain(needed.iter().copied()).collect();
        virsh::run(matches, &words, &format!("{vsock}\n"))?;
    }
    let given = match (cid, running) {
        (CidChoice::Auto, Some(flag)) => chosen(matches, flag)?,
        _ => cid_json(cid),
    };
    let attached = !needed.is_empty();
    let words = if attached { "attached" } else { "the device is there already" };
    let object = json!({ "domain": domain, "attached": attached, "cid": given });
    let given = given.map_or_else(String::new, |cid| format!(", CID {cid}"));
    say(matches, &object, &format!("{domain}: {words}{given}"))
}

/// The domain's XML for this flag of virsh.
fn dump(matches: &ArgMatches, flag: &str) -> Result<String, String> {
    let words = ["dumpxml", "--domain", virsh::domain(matches), "--inactive"];
    virsh::run(matches, if flag == "--config" { &words } else { &words[..3] }, "")
}

/// The CID that libvirt chose for the running domain, read afterwards.
fn chosen(matches: &ArgMatches, flag: &str) -> Result<Option<u32>, String> {
    let device = libvirt::device(&dump(matches, flag)?);
    let device = device.map_err(|error| edit::failed(virsh::domain(matches), &error))?;
    Ok(device.and_then(|device| device.cid).map(GuestCid::get))
}
