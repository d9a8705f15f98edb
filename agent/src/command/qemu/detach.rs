//! `agent qemu detach`: removes a vsock device from a running machine.

use std::error::Error;

use clap::{Arg, ArgMatches, Command};
use qemu::{
    text::list,
    vsock::{self, Device},
};

use super::{
    DEVICE_KEYS, Outcome, Part, connect, device_json, device_words, duration, failed, json_option,
    of_qmp, parse_timeout, qmp_option, say, wait_for,
};

pub(super) const PART: Part = Part { word: "detach", command, run };

fn command(command: Command) -> Command {
    let examples = format!(
        "\
Examples:
  agent qemu detach --qmp vm.qmp
  agent qemu detach --qmp vm.qmp --id vsock0 --timeout 5s

The guest has to give the device back; QEMU asks it, and the command waits until it has.

With --json, one object, the device as it was:
{DEVICE_KEYS}"
    );
    command
        .about("Takes a vsock device out of a machine, and waits until it is out")
        .after_help(examples)
        .arg(qmp_option())
        .arg(
            Arg::new("id")
                .long("id")
                .value_name("ID")
                .help("QEMU's name of the device, or its path [default: the only one there is]"),
        )
        .arg(
            Arg::new("timeout")
                .long("timeout")
                .value_name("TIME")
                .default_value("30s")
                .value_parser(parse_timeout)
                .help("How long the guest may take"),
        )
        .arg(json_option())
}

fn run(matches: &ArgMatches) -> Outcome {
    wait_for(async {
        let mut client = connect(matches).await?;
        let devices = vsock::list(&mut client).await.map_err(|error| of_qmp(&error))?;
        let id = matches.get_one::<String>("id").map(String::as_str);
        let device = choose(&devices, id)?;
        let unplugged = vsock::unplug(&mut client, device, duration(matches, "timeout")).await;
        unplugged.map_err(|error| failed(&error, error.hint()))?;
        let words = format!("detached {}", device_words(device));
        say(matches, &device_json(device), &words)?;
        Ok(0)
    })
}

fn choose<'a>(devices: &'a [Device], id: Option<&str>) -> Result<&'a Device, Box<dyn Error>> {
    let is = |device: &&Device| {
        id.is_some_and(|id| device.id.as_ref().is_some_and(|own| *own == *id) || device.path == *id)
    };
    match (devices, id) {
        ([], _) => Err("the machine has no vsock device; 'agent qemu attach' gives it one".into()),
        ([only], None) => Ok(only),
        (_, None) => {
            let list = list(devices);
            Err(format!("the machine has more than one vsock device: {list}; name one with --id")
                .into())
        }
        (_, Some(id)) => devices.iter().find(is).ok_or_else(|| {
            let list = list(devices);
            format!("--id {id}: no vsock device of the machine has this name; it has {list}").into()
        }),
    }
}
