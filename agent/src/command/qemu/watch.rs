//! `agent qemu watch`: prints the events of a machine, one line of JSON per event.

use std::{
    error::Error as _,
    io::{self, Write},
};

use clap::{ArgMatches, Command};
use qemu::qmp::{Event, Heard};
use serde_json::{Value, json};

use super::{Outcome, Part, connect, qmp_option, wait_for};
use crate::{sys::poll::Reader, text};

pub(super) const PART: Part = Part { word: "watch", command, run };

const EXAMPLES: &str = "\
Examples:
  agent qemu watch --qmp vm.qmp
  agent qemu watch --qmp vm.qmp | jq -c 'select(.event == \"SHUTDOWN\")'

Ends with the machine, and when nobody reads its lines any more. Each line is an object, of one of these kinds:
  watching       the first: the socket; from here on no event is missed
  event          QEMU's name of it, with
    seconds, microseconds   when, by the host's clock, or null
    data                    what QEMU says of it, an object, or null
  lost           so many events came faster than this could print them
  end            the last: why no more come";

fn command(command: Command) -> Command {
    command
        .about("Prints the events of a machine as lines of JSON, to its end")
        .after_help(EXAMPLES)
        .arg(qmp_option())
}

fn run(matches: &ArgMatches) -> Outcome {
    wait_for(async {
        let mut client = connect(matches).await?;
        let mut said = line(&json!({ "watching": client.socket().to_string_lossy() }));
        let reader = Reader::of(io::stdout());
        while said.is_ok() {
            let heard = tokio::select! {
                heard = client.event() => heard,
                // QEMU serves one client at this socket, so the place is released when nobody
                // reads.
                () = reader.gone() => return Ok(0),
            };
            said = match heard {
                Ok(Heard::Event(event)) => line(&event_json(&event)),
                Ok(Heard::Lost(count)) => line(&json!({ "lost": count })),
                Err(error) => {
                    let why = error.source().map(ToString::to_string);
                    line(&json!({ "end": why })).ok();
                    // The end of the machine is the regular end of this command.
                    return if error.is_end() { Ok(0) } else { Err(super::of_qmp(&error)) };
                }
            };
        }
        // Nobody reads stdout any more.
        Ok(0)
    })
}

fn event_json(event: &Event) -> Value {
    json!({
        "event": event.name.as_str(),
        "seconds": event.timestamp.map(|at| at.seconds),
        "microseconds": event.timestamp.map(|at| at.microseconds),
        "data": event.parse::<Value>().filter(|_| event.data.is_some()),
    })
}

fn line(object: &Value) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{}", text::json(object))?;
    stdout.flush()
}
