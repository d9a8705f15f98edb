use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use tokio::{sync::mpsc, time::timeout};
use vsock_cid::Cid;

use super::*;
use crate::tenant::{Key, Limits, Tenants};

const LONG: Duration = Duration::from_secs(30);

fn tenant() -> Arc<Tenant> {
    Tenants::default().get(Key::Pipe)
}

async fn run(text: &str) -> Ran {
    turn(&tenant()).await.run(command(text), ()).await.unwrap().0
}

/// Waits until `done`.
async fn until(done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < LONG, "it does not come to that");
        sleep(Duration::from_millis(5)).await;
    }
}

fn lives(pid: &str) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
    // A zombie does not count: only its parent has not waited for it yet.
    status.is_ok_and(|status| !status.contains(") Z "))
}

/// The process ids that a command has written, once there are `count` of them.
async fn ids(path: &Path, count: usize) -> Vec<String> {
    until(|| fs::read_to_string(path).is_ok_and(|text| text.lines().count() == count)).await;
    fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn the_output_and_status_of_a_command_are_returned() {
    let ran = run("echo one; echo two >&2; echo; exit 3").await;
    assert_eq!((&*ran.output, ran.status.code()), (&b"one\n\n"[..], Some(3)));
    assert_eq!(ran.why(), "exit status: 3: two");
    let ran = run("kill -9 $$").await;
    assert_eq!((ran.status.success(), ran.why().as_str()), (false, "signal: 9 (SIGKILL)"));
    for _ in 0..50 {
        assert_eq!(run("printf word").await.output, b"word");
    }
}

#[tokio::test]
async fn a_command_that_prints_much_is_read_and_a_part_is_kept() {
    let ran = run("head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2; echo last >&2").await;
    assert_eq!(ran.output.len(), output::MOST);
    assert!(ran.status.success() && ran.errors.ends_with(b"last\n"));
    assert_eq!(ran.errors.len(), output::MOST);
}

#[tokio::test]
async fn processes_left_by_a_command_are_ended_and_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    for status in [0, 1] {
        let path = dir.path().join(status.to_string());
        let text = format!("sleep 1000 & echo $! > {}; echo done; exit {status}", path.display());
        let begun = Instant::now();
        let ran = run(&text).await;
        assert_eq!((ran.status.code(), &*ran.output), (Some(status), &b"done\n"[..]));
        assert!(begun.elapsed() < LONG);
        let left = ids(&path, 1).await.remove(0);
        until(|| !lives(&left)).await;
    }
}

struct Held(mpsc::Sender<std::thread::ThreadId>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.try_send(std::thread::current().id()).ok();
    }
}

#[tokio::test]
async fn a_command_and_all_its_processes_end_when_its_caller_stops_waiting() {
    let dir = tempfile::tempdir().unwrap();
    for (n, trap) in ["", "trap '' TERM;"].into_iter().enumerate() {
        let path = dir.path().join(n.to_string());
        let text = format!(
            "{trap} (sleep 1000 & echo $! >> {0}; wait) & echo $! >> {0}; echo $$ >> {0}; wait",
            path.display()
        );
        let turn = turn(&tenant()).await;
        let (dropped, mut drops) = mpsc::channel(1);
        {
            let mut running = std::pin::pin!(turn.run(command(&text), Held(dropped)));
            let ids = tokio::select! {
                _ = &mut running => panic!("it has ended"),
                ids = ids(&path, 3) => ids,
            };
            assert!(ids.iter().all(|id| lives(id)));
            assert!(drops.try_recv().is_err());
        }
        let ids = ids(&path, 3).await;
        let thread = timeout(LONG, drops.recv()).await.unwrap().unwrap();
        assert_ne!(thread, std::thread::current().id(), "where it may block");
        assert!(!ids.iter().any(|id| lives(id)), "before what it held is dropped: {trap}");
        timeout(LONG, all_ended()).await.unwrap();
    }
}

#[tokio::test]
async fn a_command_that_cleans_up_gets_the_time_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let (ready, clean) = (dir.path().join("ready"), dir.path().join("clean"));
    let text = format!(
        "trap 'sleep 0.2; touch {}; exit' TERM; touch {}; while :; do sleep 0.01; done",
        clean.display(),
        ready.display()
    );
    let turn = turn(&tenant()).await;
    tokio::select! {
        _ = turn.run(command(&text), ()) => panic!("it has ended"),
        () = until(|| ready.exists()) => {}
    }
    until(|| clean.exists()).await;
}

#[tokio::test]
async fn the_number_of_commands_at_once_is_limited_per_tenant() {
    let tenants = Tenants::new(Limits { commands: 2, ..Limits::default() });
    let (first, other) = (tenants.get(Key::Cid(Cid::new(3))), tenants.get(Key::Cid(Cid::new(4))));
    let turns = [turn(&first).await, turn(&first).await];
    let soon = Duration::from_millis(50);
    assert!(timeout(soon, turn(&first)).await.is_err());
    let theirs = timeout(LONG, turn(&other)).await.unwrap();
    let waiting = tokio::spawn(async move { turn(&first).await });
    let [one, _two] = turns;
    let ran = one.run(command("true"), ()).await.unwrap().0;
    assert!(ran.status.success() && !waiting.is_finished(), "it may run another one");
    drop(one);
    timeout(LONG, waiting).await.unwrap().unwrap();
    drop(theirs);
}
