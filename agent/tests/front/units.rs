//! The units of the package: what is served without a configuration, and what is logged about it.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use support::agent::Agent;

use crate::BINARY;

fn unit(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(name);
    fs::read_to_string(path).unwrap()
}

/// The value of a setting that occurs once.
fn setting<'a>(unit: &'a str, key: &str) -> &'a str {
    let mut values = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let value = values.next().unwrap_or_else(|| panic!("no {key}"));
    assert_eq!(values.next(), None, "{key} stands there twice");
    value
}

/// The agent's arguments without a configuration.
fn default_args(unit: &str) -> &str {
    setting(unit, "Environment=\"AGENT_ARGS").trim_end_matches('"')
}

/// What the service prints before it starts the agent with these arguments.
fn said_before(unit: &str, args: &str) -> String {
    let command = setting(unit, "ExecStartPre");
    let script = command.strip_prefix("/bin/sh -c '").and_then(|it| it.strip_suffix('\''));
    // systemd replaces `$$` by `$`, and leaves everything else in single quotes unchanged.
    let script = script.expect("one word for the shell").replace("$$", "$");
    let output =
        Command::new("/bin/sh").args(["-c", &script]).env("AGENT_ARGS", args).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn without_configuration_every_image_can_be_read_and_none_be_written() {
    let unit = unit("agent.service");
    let args = default_args(&unit).replace("/var/lib/agent", "{}/images");
    let images = |directory: &Path| {
        fs::create_dir(directory.join("images")).unwrap();
        fs::write(directory.join("images/disk"), [7; 4096]).unwrap();
    };
    let agent = Agent::start_by_in(Command::new(BINARY), images, &format!("-U {{}}/s {args}"));
    let uri = format!("nbd+unix:///disk?socket={}", agent.path("s").display());
    let status = Command::new("nbdinfo").args(["--is", "read-only", &uri]).status().unwrap();
    assert!(status.success(), "guests may write");
    let copy = Command::new("nbdcopy").args([&uri, "-"]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(copy.stdout, [7; 4096]);
}

#[test]
fn the_journal_says_what_is_served_until_something_is_configured() {
    let unit = unit("agent.service");
    let said = said_before(&unit, default_args(&unit));
    // A warning, as a syslog(3) number.
    let said = said.strip_prefix("<4>").expect("a priority");
    assert_eq!(said.lines().count(), 1, "{said}");
    for part in ["not configured", "every guest may read", "write none", "/etc/default/agent"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let (_, line) = said.split_once("AGENT_ARGS=").expect("the line that changes it");
    assert_eq!(said_before(&unit, line.trim()), "", "then it is configured");
    // The agent accepts the line.
    let line = line.trim().replace("/var/lib/agent", "{}");
    let disk = |directory: &Path| fs::write(directory.join("disk.img"), [7; 4096]).unwrap();
    let mut agent = Agent::start_by_in(Command::new(BINARY), disk, &format!("-U {{}}/s {line}"));
    agent.end();
}

#[test]
fn the_units_bound_what_the_agent_may_take() {
    for name in ["agent.service", "agent@.service"] {
        let unit = unit(name);
        assert!(setting(&unit, "MemoryMax").ends_with('%'), "{name}");
        assert!(setting(&unit, "TasksMax").parse::<u32>().unwrap() >= 256, "{name}");
    }
}
