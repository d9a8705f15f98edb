//! `agent qemu attach`: a vsock device for a machine that runs.

use clap::{Arg, ArgMatches, Command, value_parser};
use qemu::vsock::{self, Plugged};
use serde_json::json;

use super::{
    DEVICE_KEYS, Outcome, Part, cid_option, cids, connect, device_json, device_words, failed, id,
    id_option, json_option, qmp_option, say, wait_for,
};

pub(super) const PART: Part = Part { word: "attach", command, run };

fn command(command: Command) -> Command {
    let examples = format!(
        "\
Examples:
  agent qemu attach --qmp vm.qmp
  agent qemu attach --qmp vm.qmp --cid 42 --id disks --json

The CID is claimed from the kernel before QEMU hears of it, so that no other machine can take it. A
machine of type q35 needs a pcie-root-port that is free and has an id. A machine that has a vsock
device already is left as it is.

With --json, one object:
{DEVICE_KEYS}
  machine   QEMU's type of machine, such as \"pc-q35-10.0\"
  uri       where the guest finds the agent
  guest     a command for the guest"
    );
    command
        .about("Puts a vsock device into a machine that runs")
        .after_help(examples)
        .arg(qmp_option())
        .arg(cid_option())
        .arg(id_option())
        .arg(
            Arg::new("port")
                .long("port")
                .value_name("PORT")
                .default_value("10809")
                .value_parser(value_parser!(u32))
                .help("The agent's port, for the guest's command"),
        )
        .arg(json_option())
}

fn run(matches: &ArgMatches) -> Outcome {
    wait_for(async {
        let mut client = connect(matches).await?;
        let plugged = vsock::plug(&mut client, cids(matches), id(matches)).await;
        let Plugged { machine, device, .. } =
            plugged.map_err(|error| failed(&error, error.mend()))?;
        let port = matches.get_one("port").copied().unwrap_or(10809_u32);
        let uri = format!("nbd+vsock://2:{port}/");
        let guest = format!("guest-tools info {uri}");
        let words = format!("{} in {}\nin the guest: {guest}", device_words(&device), machine.name);
        let mut object = device_json(&device);
        object["machine"] = json!(machine.name);
        object["uri"] = json!(uri);
        object["guest"] = json!(guest);
        say(matches, &object, &words)?;
        Ok(0)
    })
}
