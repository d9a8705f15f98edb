//! `status`: prints the attached devices and the state of their connections.

use clap::Args;
use human::print_size;
use serde_json::Value;

use super::{
    CommandError,
    print::{print, print_json, quoted},
};
use crate::attach::{AttachError, Device, attached};

const EXAMPLES: &str = "\
Examples:
  guest-tools status
  guest-tools status /dev/nbd0 --json

States: connected; reconnecting (the kernel's requests wait); failed (the dead timeout is over, and
requests fail until the server is back); unattended (no relay of this program's is behind it).

Keys of --json, a list: device, uri, state, since (seconds), size, connections, read_only, reconnects,
repeated (requests asked for again), replayed (acknowledged changes done again), under_way, unflushed
(bytes kept), last_error, pid.";

/// What was said.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Status {
    /// The device; default: all that are attached
    #[arg(value_name = "DEVICE", value_parser = Device::parse)]
    device: Option<Device>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(words: &Status) -> Result<(), CommandError> {
    let mut all = attached();
    if let Some(device) = words.device {
        all.retain(|disk| disk.device == device);
        if all.is_empty() {
            return Err(AttachError::NotAttached(device).into());
        }
    }
    if words.json {
        return print_json(&Value::Array(all.into_iter().map(|disk| disk.state).collect()));
    }
    print(&all.iter().map(|disk| text(&disk.state)).collect::<String>())
}

fn text(state: &Value) -> String {
    let word = |key: &str| state.get(key).and_then(Value::as_str).unwrap_or("?");
    let number = |key: &str| state.get(key).and_then(Value::as_u64);
    let since = number("since").map(|seconds| format!(" for {seconds} s")).unwrap_or_default();
    let head = format!("{}: {}, {}{since}", word("device"), word("uri"), word("state"));
    let mut facts: Vec<_> = number("size").map(print_size).into_iter().collect();
    if state.get("read_only").and_then(Value::as_bool) == Some(true) {
        facts.push("read-only".to_owned());
    }
    for (key, one, many) in [
        ("connections", "connection", "connections"),
        ("reconnects", "reconnect", "reconnects"),
        ("under_way", "request under way", "requests under way"),
    ] {
        if let Some(count) = number(key) {
            facts.push(format!("{count} {}", if count == 1 { one } else { many }));
        }
    }
    let error = state.get("last_error").and_then(Value::as_str).map(quoted);
    let error = error.filter(|_| word("state") != "connected");
    let lines = [Some(head), (!facts.is_empty()).then(|| facts.join(", ")), error];
    lines.into_iter().flatten().collect::<Vec<_>>().join("\n\t") + "\n"
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_device_is_told_in_two_lines_and_its_trouble_in_a_third() {
        let mut state = json!({
            "device": "/dev/nbd0", "uri": "nbd+vsock://2/", "state": "connected", "since": 7,
            "size": 1024, "connections": 1, "read_only": true, "reconnects": 2, "under_way": 0,
            "last_error": "it was away",
        });
        let short = "/dev/nbd0: nbd+vsock://2/, connected for 7 s\n\t1024 bytes (1.0 KiB), read-only, \
                     1 connection, 2 reconnects, 0 requests under way\n";
        assert_eq!(text(&state), short);
        state["state"] = "failed".into();
        assert!(text(&state).ends_with("\n\t\"it was away\"\n"));
        assert_eq!(
            text(&json!({ "device": "/dev/nbd1", "state": "unattended" })),
            "/dev/nbd1: ?, unattended\n"
        );
    }
}
