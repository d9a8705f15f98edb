//! Clients of the plugin `nbd` that wait for the other server. No thread waits with them, and when a client
//! leaves, the connection that is being made for it ends.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    thread,
    time::Duration,
};

use support::{
    DEADLINE,
    agent::Agent,
    client::greeted,
    process::count,
    until,
    wire::{CLIENT_FLAGS, OPT_EXPORT_NAME, option},
};

use crate::{
    BINARY,
    remote::{Far, proxy},
};

const CROWD: usize = 100;

/// A client that has asked for the default export.
fn asked(agent: &Agent) -> UnixStream {
    let mut stream = greeted(&agent.path("s"));
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(&[&CLIENT_FLAGS[..], &option(OPT_EXPORT_NAME, b"")].concat()).unwrap();
    stream
}

#[test]
fn clients_that_wait_for_a_silent_server_have_no_threads_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let far = dir.path().join("far");
    let listener = UnixListener::bind(&far).unwrap();
    listener.set_nonblocking(true).unwrap();
    let mut agent = proxy(&[&format!("socket={}", far.display())]);
    let (threads, descriptors) = (count(agent.id(), "task"), count(agent.id(), "fd"));
    let waiting: Vec<_> = (0..CROWD).map(|_| asked(&agent)).collect();
    until("each has a connection", || count(agent.id(), "fd") >= descriptors + 2 * CROWD - 10);
    assert!(count(agent.id(), "task") <= threads + 2);
    // Some connect and receive nothing.
    let accepted: Vec<_> = std::iter::from_fn(|| listener.accept().ok()).take(CROWD / 2).collect();
    drop(waiting);
    until("they are closed", || count(agent.id(), "fd") <= descriptors);
    drop(accepted);
    agent.end();
}

#[test]
fn a_server_that_accepts_slowly_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let far = Far::start(BINARY, &["memory", "1M"]);
    let path = dir.path().join("slow");
    let listener = UnixListener::bind(&path).unwrap();
    // The backlog has room for one or two that wait.
    nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(1).unwrap()).unwrap();
    let mut agent = proxy(&[&format!("socket={}", path.display())]);
    let mut waiting: Vec<_> = (0..8).map(|_| asked(&agent)).collect();
    // No event shows that the agent waits for room to connect.
    thread::sleep(Duration::from_millis(200));
    let socket = far.socket.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut from, mut to) = (stream.unwrap(), UnixStream::connect(&socket).unwrap());
            let (mut back, mut forth) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            thread::spawn(move || std::io::copy(&mut to, &mut back));
            thread::spawn(move || std::io::copy(&mut from, &mut forth));
        }
    });
    for stream in &mut waiting {
        let mut reply = [0; 10];
        stream.read_exact(&mut reply).unwrap();
        assert_eq!(reply[..8], (1_u64 << 20).to_be_bytes());
    }
    agent.end();
}

#[test]
fn clients_that_share_a_connection_wait_for_a_new_one_together() {
    let dir = tempfile::tempdir().unwrap();
    let far = dir.path().join("far");
    let mut server = Far::start_at(BINARY, &["memory", "1M"], dir);
    let mut agent = proxy(&[&format!("socket={}", far.display()), "shared=true"]);
    let mut first = asked(&agent);
    first.read_exact(&mut [0; 10]).unwrap();
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    fs::remove_file(&far).ok();
    agent.wait_for_line("the far server's connection broke");
    let listener = UnixListener::bind(&far).unwrap();
    let threads = count(agent.id(), "task");
    let waiting: Vec<_> = (0..CROWD).map(|_| asked(&agent)).collect();
    // One client connects for all. If it does not succeed, the next one tries.
    for _ in 0..3 {
        drop(listener.accept().unwrap());
    }
    assert!(count(agent.id(), "task") <= threads + 2);
    drop(waiting);
    agent.end();
}
