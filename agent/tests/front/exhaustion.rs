//! Without a free descriptor the listener waits and survives. Without a free thread the agent fails to
//! start, or works with the threads that it has.

use std::{
    fs,
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use support::{
    DEADLINE,
    agent::Agent,
    client::{greeted, opened, receive_greeting},
    wire::request,
};

use crate::BINARY;

#[test]
fn without_descriptors_the_listener_waits_and_sessions_go_on() {
    const ROOM: usize = 10;
    let mut agent = Agent::start(BINARY, "-U {}/s memory 1G");
    let mut first = greeted(&agent.path("s"));
    // The agent expected more descriptors, otherwise it would admit fewer clients.
    let open = fs::read_dir(format!("/proc/{}/fd", agent.id())).unwrap().count();
    let (pid, limit) = (agent.id().to_string(), open + ROOM);
    let lowered = Command::new("prlimit")
        .args(["--pid", &pid, &format!("--nofile={limit}:{limit}")])
        .status();
    assert!(lowered.unwrap().success());

    let mut crowd: Vec<UnixStream> =
        (0..2 * ROOM).map(|_| UnixStream::connect(agent.path("s")).unwrap()).collect();
    let lines = agent.wait_for_line("cannot accept");
    assert!(lines.last().unwrap().contains("Too many open files"), "{lines:#?}");
    assert_eq!(opened(&mut first), 1 << 30, "an open session goes on");

    // The last client was not accepted yet. It is accepted when the others make room.
    let mut last = crowd.pop().unwrap();
    drop(crowd);
    receive_greeting(&mut last);
    assert_eq!(opened(&mut last), 1 << 30);
    let lines = agent.wait_for_line("accepts again");
    assert!(!lines.iter().any(|line| line.contains("cannot accept")), "said once an episode");
    agent.end();
}

/// An agent with a user of its own and at most `processes` threads. `None` if it did not start, which it
/// has to report in one plain line.
fn with_threads(dir: &Path, processes: usize) -> Option<std::process::Child> {
    let socket = dir.join("socket");
    fs::remove_file(&socket).ok();
    let mut agent = Command::new("setpriv")
        .args(["--reuid=61234", "--clear-groups", "prlimit", &format!("--nproc={processes}")])
        .arg(dir.join("agent"))
        .arg("-U")
        .arg(&socket)
        .args(["--log=stderr", "file"])
        .arg(dir.join("disk"))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let start = Instant::now();
    loop {
        if let Some(status) = agent.try_wait().unwrap() {
            let mut said = String::new();
            agent.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            assert_eq!(status.code(), Some(1), "{said}");
            assert!(said.contains("agent: error: cannot start"), "{said}");
            assert!(said.contains("ulimit -u"), "a hint: {said}");
            assert!(!said.contains("bug"), "{said}");
            return None;
        }
        // The engine's threads start before the greeting is sent.
        if UnixStream::connect(&socket).is_ok_and(|mut client| {
            client.set_read_timeout(Some(DEADLINE)).unwrap();
            client.read_exact(&mut [0; 18]).is_ok()
        }) {
            return Some(agent);
        }
        assert!(start.elapsed() < DEADLINE, "neither started nor failed");
        std::thread::yield_now();
    }
}

#[test]
fn with_too_few_threads_it_says_so_and_with_just_enough_it_serves() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("not tried: only root can start an agent of another user");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    // Another user may have no access to the directory of the build.
    fs::copy(BINARY, dir.path().join("agent")).unwrap();
    fs::write(dir.path().join("disk"), vec![0; 1 << 20]).unwrap();
    fs::set_permissions(dir.path().join("disk"), fs::Permissions::from_mode(0o666)).unwrap();
    let most = 16 + 2 * std::thread::available_parallelism().unwrap().get();
    let started = (1..most).find_map(|processes| with_threads(dir.path(), processes));
    let mut agent = started.expect("with a few threads it starts");
    // Many requests that wait for the disk. The one thread that could be started executes them.
    let mut client = greeted(&dir.path().join("socket"));
    assert_eq!(opened(&mut client), 1 << 20);
    for at in 0..64_u64 {
        let write = [request(1, 7, at * 4096, 4096), vec![7; 4096]].concat();
        client.write_all(&write).unwrap();
    }
    let mut replies = vec![0; 64 * 16];
    client.read_exact(&mut replies).unwrap();
    assert!(replies.chunks(16).all(|reply| reply[4..8] == [0; 4]), "all succeed");
    agent.kill().unwrap();
    let mut said = String::new();
    agent.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    agent.wait().unwrap();
    assert!(!said.contains("bug"), "{said}");
}
