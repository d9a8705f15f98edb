//! `agent qemu attach`: adds a vsock device to a running machine.

use clap::{Arg, ArgMatches, Command, value_parser};
use nbd::wire::DEFAULT_PORT;
use qemu::{
    text::Text,
    vsock::{self, Device, Plugged},
};
use serde_json::{Value, json};

use super::{
    DEVICE_KEYS, Outcome, Part, cid_option, cids, connect, device_json, device_words, failed, id,
    id_option, json_option, qmp_option, say, wait_for,
};
use crate::machines::hint_of_plug;

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
            Arg::new("port").long("port").value_name("PORT").value_parser(value_parser!(u32)).help(
                format!("The agent's port, for the guest's command [default: {DEFAULT_PORT}]"),
            ),
        )
        .arg(json_option())
}

fn run(matches: &ArgMatches) -> Outcome {
    wait_for(async {
        let mut client = connect(matches).await?;
        let plugged = vsock::plug(&mut client, cids(matches), id(matches)).await;
        let Plugged { machine, device, .. } =
            plugged.map_err(|error| failed(&error, hint_of_plug(&error)))?;
        let port = matches.get_one("port").copied().unwrap_or_else(|| DEFAULT_PORT.into());
        let (object, words) = told(&machine.name, &device, port);
        say(matches, &object, &words)?;
        Ok(0)
    })
}

/// The answer as an object and in words.
fn told(machine: &Text, device: &Device, port: u32) -> (Value, String) {
    let uri = format!("nbd+vsock://2:{port}/");
    let guest = format!("guest-tools info {uri}");
    let words = format!("{} in {machine}\nin the guest: {guest}", device_words(device));
    let mut object = device_json(device);
    object["machine"] = json!(machine.as_str());
    object["uri"] = json!(uri);
    object["guest"] = json!(guest);
    (object, words)
}

#[cfg(test)]
mod tests {
    use qemu::vsock::Backend;

    use vsock_cid::GuestCid;

    use super::*;

    /// The keys are an interface for other programs.
    #[test]
    fn the_answer_has_all_that_the_help_names() {
        let device = Device {
            id: Some("vsock0".into()),
            path: "/machine/peripheral/vsock0".into(),
            driver: "vhost-vsock-pci".into(),
            backend: Backend::Kernel,
            cid: GuestCid::of(42),
        };
        let (object, words) = told(&"pc-q35-10.0".into(), &device, 10810);
        let expected = json!({
            "id": "vsock0",
            "path": "/machine/peripheral/vsock0",
            "driver": "vhost-vsock-pci",
            "backend": "kernel",
            "cid": 42,
            "machine": "pc-q35-10.0",
            "uri": "nbd+vsock://2:10810/",
            "guest": "guest-tools info nbd+vsock://2:10810/",
        });
        assert_eq!(object, expected);
        assert_eq!(
            words,
            "vsock0: vhost-vsock-pci, CID 42 in pc-q35-10.0\n\
             in the guest: guest-tools info nbd+vsock://2:10810/"
        );
        let help = command(Command::new("attach")).render_help().to_string();
        for key in object.as_object().expect("an object").keys() {
            assert!(help.contains(&format!("\n  {key} ")), "{key}");
        }
    }
}
