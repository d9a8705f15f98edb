use std::{fs, process::Command};

use super::*;
use crate::peer::Peer;

/// Longer than any test takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
const NEVER: Duration = Duration::from_hours(1);

fn admit(door: &Door) -> Result<Pass, Denied> {
    door.admit(&Caller::new(&Peer::Pipe, &|| None))
}

fn door(events: Vec<Event>, poll: Duration) -> (Door, Stop) {
    let stop = Stop::default();
    (Door(Watch::start(events, poll, stop.clone()).unwrap()), stop)
}

async fn asked(stop: &Stop) -> String {
    tokio::time::timeout(PATIENCE, stop.asked()).await.expect("it is asked to stop")
}

/// `None`: the agent is not asked to stop.
async fn asked_now(stop: &Stop) -> Option<String> {
    tokio::time::timeout(Duration::ZERO, stop.asked()).await.ok()
}

fn parse(words: &[(&str, &str)]) -> Result<Vec<Event>, String> {
    let words: Vec<_> =
        words.iter().map(|(key, value)| (Some((*key).into()), (*value).into())).collect();
    let params = Params::of_filter("exitwhen", ENTRY.keys, &mut words.iter().collect()).unwrap();
    poll_time(&params).map_err(|error| error.to_string())?;
    events(&params).map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_file_that_is_created_keeps_new_clients_out_and_old_ones_in() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("stop");
    let (door, stop) = door(vec![Event::Created(path.clone())], NEVER);
    let client = admit(&door).unwrap();
    fs::write(&path, "").unwrap();
    let denied = admit(&door).unwrap_err();
    assert!(denied.rule.contains("exit-when-file-created="), "{denied}");
    assert_eq!(asked_now(&stop).await, None, "one is still there");
    drop(client);
    assert!(asked(&stop).await.contains("exit-when-file-created="));
}

#[tokio::test]
async fn a_file_is_checked_when_a_client_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("stays");
    fs::write(&path, "").unwrap();
    let (door, stop) = door(vec![Event::Deleted(path.clone())], NEVER);
    drop(admit(&door).unwrap());
    assert_eq!(asked_now(&stop).await, None);
    let client = admit(&door).unwrap();
    fs::remove_file(&path).unwrap();
    drop(client);
    assert!(asked(&stop).await.contains("exit-when-file-deleted="));
}

#[tokio::test]
async fn an_idle_agent_checks_at_each_poll() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("stop");
    let (_door, stop) = door(vec![Event::Created(path.clone())], Duration::from_millis(10));
    fs::write(&path, "").unwrap();
    asked(&stop).await;
}

#[tokio::test]
async fn an_event_before_the_start_ends_the_agent_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (door, stop) = door(vec![Event::Created(dir.path().into())], NEVER);
    assert!(asked_now(&stop).await.is_some());
    admit(&door).unwrap_err();
}

#[tokio::test]
async fn the_ends_of_a_process_and_of_a_pipe_need_no_polling() {
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    let events = parse(&[("exit-when-process-exits", &child.id().to_string())]).unwrap();
    let (exits, stop) = door(events, NEVER);
    admit(&exits).unwrap();
    child.kill().unwrap();
    assert!(asked(&stop).await.contains("exit-when-process-exits="));
    child.wait().unwrap();

    let (end, writer) = nix::unistd::pipe().unwrap();
    nix::unistd::write(&writer, b"not read").unwrap();
    let (closed, stop) = door(vec![Event::Closed { fd: 7, end }], NEVER);
    admit(&closed).unwrap();
    drop(writer);
    assert_eq!(asked(&stop).await, "exit-when-pipe-closed=7 (filter exitwhen)");
}

#[tokio::test]
async fn a_script_is_asked_when_a_client_comes_or_goes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("stop");
    let command = format!("test ! -e {} || exit 88", path.display());
    let (door, stop) = door(vec![Event::Script(command)], NEVER);
    let client = admit(&door).unwrap();
    fs::write(&path, "").unwrap();
    drop(client);
    assert!(asked(&stop).await.contains("exit-when-script="));
}

#[test]
fn only_the_exit_status_88_of_a_script_is_an_event() {
    let says = |command: &str| Event::Script(command.into()).is_script_that_has_happened();
    assert!(says("exit 88"));
    for command in ["true", "exit 1", "exit 89", "exit 255", "kill -9 $$", "/nonexistent/command"] {
        assert!(!says(command), "{command}");
    }
}

#[test]
fn wrong_values_are_named() {
    for (words, part) in [
        (("exit-when-poll", "0"), "exit-when-poll=0"),
        (("exit-when-poll", "x"), "exit-when-poll=x"),
        (("exit-when-pipe-closed", "x"), "exit-when-pipe-closed=x"),
        (("exit-when-pipe-closed", "1000000"), "exit-when-pipe-closed=1000000"),
        (("exit-when-process-exits", "-1"), "exit-when-process-exits=-1"),
        (("exit-when-process-exits", "4294967295"), "exit-when-process-exits=4294967295"),
    ] {
        let error = parse(&[words]).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
    assert!(parse(&[("exit-when-poll", "1")]).unwrap().is_empty());
}
