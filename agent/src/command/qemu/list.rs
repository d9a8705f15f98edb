//! `agent qemu list`: which vsock devices a machine has.

use clap::{ArgMatches, Command};
use qemu::{
    text::Text,
    vsock::{self, Machine},
};
use serde_json::json;

use super::{
    DEVICE_KEYS, Outcome, Part, connect, device_json, device_words, json_option, of_qmp, print,
    print_json, qmp_option, wait_for,
};

pub(super) const PART: Part = Part { word: "list", command, run };

fn command(command: Command) -> Command {
    let examples = format!(
        "\
Examples:
  agent qemu list --qmp vm.qmp
  agent qemu list --qmp vm.qmp --json | jq -r '.devices[].cid'

With --json, one object:
  machine   QEMU's type of machine, such as \"pc-q35-10.0\"
  name      what -name says, or null
  devices   its vsock devices, each an object:
{DEVICE_KEYS}"
    );
    command
        .about("Shows every vsock device of a machine")
        .after_help(examples)
        .arg(qmp_option())
        .arg(json_option())
}

fn run(matches: &ArgMatches) -> Outcome {
    wait_for(async {
        let mut client = connect(matches).await?;
        let asked = async {
            let machine = Machine::ask(&mut client).await?;
            Ok((machine, vsock::list(&mut client).await?))
        };
        let (machine, devices) = asked.await.map_err(|error| of_qmp(&error))?;
        if matches.get_flag("json") {
            let devices: Vec<_> = devices.iter().map(device_json).collect();
            let Machine { name, given, .. } = machine;
            let object = json!({
                "machine": name.as_str(),
                "name": given.as_ref().map(Text::as_str),
                "devices": devices,
            });
            print_json(&object)?;
        } else if devices.is_empty() {
            print(&format!("no vsock device in {}\n", machine.name))?;
        } else {
            for device in devices {
                print(&format!("{}\n", device_words(&device)))?;
            }
        }
        Ok(0)
    })
}
