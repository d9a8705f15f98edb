//! `agent libvirt edit`: inserts the element into the XML of a whole domain.

use std::{
    fs::File,
    io::{self, Read},
};

use clap::{Arg, ArgAction, ArgMatches, Command, parser::ValueSource};
use libvirt::{EditError, Existing};
use serde_json::json;
use vsock_cid::GuestCid;

use super::{
    Outcome, Part, cid_option, json_option, model_option, print_as_it_is, print_json, vsock,
    warn_of_auto,
};

pub(super) const PART: Part = Part { word: "edit", command, run };

/// Maximum size of the input in bytes. The crate `libvirt` has a lower limit, with its own message.
const MOST: u64 = 64 << 20;

const EXAMPLES: &str = "\
Examples:
  agent libvirt edit guest7.xml --cid 7 > edited.xml
  virsh dumpxml guest7 --inactive | agent libvirt edit - --cid 7 | virsh define /dev/stdin

Everything else stays byte for byte as it was, and to do it again changes nothing. --replace with --model
and without --cid leaves a device its CID.

With --json, one object:
  xml       the domain's XML, a string
  changed   false if it is as it was
  model     the model of its vsock device
  cid       the CID that the domain says, or null with auto";

fn command(command: Command) -> Command {
    command
        .about("Puts a vsock device into a domain's XML, and prints all of it")
        .after_help(EXAMPLES)
        .arg(
            Arg::new("domain")
                .value_name("DOMAIN.xml")
                .default_value("-")
                .help("The domain's XML; '-' is standard input"),
        )
        .arg(cid_option())
        .arg(
            Arg::new("replace")
                .long("replace")
                .action(ArgAction::SetTrue)
                .help("Give a device that is there this CID, and this model"),
        )
        .arg(model_option("virtio; that of a device that is there stays"))
        .arg(json_option())
}

fn run(matches: &ArgMatches) -> Outcome {
    let name = matches.get_one::<String>("domain").map_or("-", String::as_str);
    let read = |from: &mut dyn Read| {
        let mut bytes = Vec::new();
        from.take(MOST).read_to_end(&mut bytes).map(|_| bytes)
    };
    let bytes = if name == "-" {
        read(&mut io::stdin().lock())
    } else {
        File::open(name).and_then(|mut file| read(&mut file))
    };
    let shown = if name == "-" { "standard input" } else { name };
    let bytes = bytes.map_err(|error| format!("cannot read {shown}: {error}"))?;
    let text = libvirt::text(bytes).map_err(|error| failed(shown, &error.into()))?;
    let replace = matches.get_flag("replace");
    let existing = if replace { Existing::Change } else { Existing::Keep };
    let mut wanted = vsock(matches);
    let said = matches.value_source("cid") == Some(ValueSource::CommandLine);
    if replace && wanted.model.is_some() && !said {
        wanted.cid = None;
    }
    let edited = libvirt::edit(&text, wanted, existing).map_err(|error| match error {
        EditError::Other(..) | EditError::Cid(..) => {
            let hint = if replace { "--cid" } else { "--replace" };
            format!("{}; {hint} changes it", failed(shown, &error))
        }
        _ => failed(shown, &error),
    })?;
    let device = libvirt::device(&edited).map_err(|error| failed(shown, &error))?;
    let device =
        device.ok_or_else(|| format!("{shown}: its vsock device cannot be found again"))?;
    warn_of_auto(device.auto);
    if !matches.get_flag("json") {
        print_as_it_is(&edited)?;
        return Ok(0);
    }
    let object = json!({
        "changed": edited != text,
        "cid": device.cid.filter(|_| !device.auto).map(GuestCid::get),
        "model": device.model,
        "xml": edited,
    });
    print_json(&object)?;
    Ok(0)
}

/// The error in a domain, and where it is.
pub(super) fn failed(what: &str, error: &EditError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{what}: {error}: {cause}"),
        None => format!("{what}: {error}"),
    }
}
