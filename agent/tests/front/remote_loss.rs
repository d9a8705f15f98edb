//! The plugin `nbd`: a flush covers every connection of an export that promises this (multi-conn), even if
//! the remote server of some of them has died.

use std::{
    io::{Read, Write},
    process::{Command, Stdio},
};

use crate::{
    BINARY,
    remote::{Far, proxy, uri},
};

/// `a` writes, is answered and runs `then`. The server dies and restarts, empty. Then `rest` runs.
fn after_a_death(words: &[&str], then: &str, rest: &str) {
    let mut far = Far::start_at(BINARY, &["memory", "1M"], tempfile::tempdir().unwrap());
    let socket = format!("socket={}", far.socket.display());
    let proxied = proxy(&[&[socket.as_str()], words].concat());
    let script = format!(
        "import nbd, sys\n\
         def connect():\n    h = nbd.NBD(); h.connect_uri(sys.argv[1]); return h\n\
         def fails(ask):\n    try: ask()\n    except nbd.Error: return\n    sys.exit('it was answered')\n\
         before = connect(); a = connect(); assert a.can_multi_conn()\n\
         a.pwrite(b'precious', 0); {then}\n\
         print('written', flush=True); sys.stdin.readline()\n{rest}"
    );
    let mut client = Command::new("/usr/bin/python3");
    let client = client.args(["-c", &script, &uri(&proxied)]);
    let mut client = client.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = [0; 8];
    client.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    far.die_and_come_again(BINARY, &["memory", "1M"]);
    client.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert!(client.wait().unwrap().success(), "{words:?}: {rest}");
}

#[test]
fn a_flush_on_a_new_connection_tells_what_an_old_one_has_lost() {
    for words in [&[][..], &["shared=true"]] {
        // Each connection is told once, and can then continue with its own writes.
        after_a_death(
            words,
            "",
            "for b in (connect(), connect()):\n\
             \x20   assert b.pread(8, 0) == bytes(8)\n\
             \x20   fails(b.flush); b.pwrite(b'again', 512); b.flush()\n\
             fails(a.flush); fails(a.flush)",
        );
    }
}

#[test]
fn a_client_that_came_before_the_writer_left_hears_of_the_loss() {
    after_a_death(&[], "", "b = connect(); a.shutdown(); fails(b.flush); b.flush()");
}

#[test]
fn a_client_that_came_after_a_loss_was_told_does_not_hear_of_it() {
    // While the writer is there, and when it has left.
    after_a_death(
        &[],
        "",
        "fails(a.flush); b = connect(); b.flush(); c = connect(); a.shutdown(); b.flush(); c.flush(); fails(before.flush)",
    );
}

#[test]
fn no_loss_is_told_after_a_durable_write() {
    for durable in ["a.flush()", "a.pwrite(b'x', 0, nbd.CMD_FLAG_FUA); before.flush(); a.flush()"] {
        let rest = "b = connect(); b.flush(); fails(before.flush); fails(a.flush); b.flush()";
        after_a_death(&[], durable, rest);
    }
}

/// Runs `script` with the agent in front of a remote server whose flushes fail while the file `fails`
/// exists. Its directory is sys.argv[2].
fn with_flushes_that_fail(words: &[&str], script: &str) {
    let dir = tempfile::tempdir().unwrap();
    let log = format!("logfile={}/log", dir.path().display());
    let file = format!("error-flush-file={}/fails", dir.path().display());
    let far = Far::start_at(
        BINARY,
        &["--filter=log", "--filter=error", "memory", "1M", &log, &file, "error-flush-rate=100%"],
        tempfile::tempdir().unwrap(),
    );
    let socket = format!("socket={}", far.socket.display());
    let proxied = proxy(&[&[socket.as_str()], words].concat());
    let start = "import nbd, os, sys, time\n\
        def connect():\n    h = nbd.NBD(); h.connect_uri(sys.argv[1]); return h\n\
        def fails(ask):\n    try: ask()\n    except nbd.Error: return\n    sys.exit('it was answered')\n\
        def fail(yes):\n    name = sys.argv[2] + '/fails'\n    open(name, 'w') if yes else os.remove(name)\n\
        def flushes(): return open(sys.argv[2] + '/log').read().count(' Flush ')\n\
        def wait_for(n):\n    while flushes() < n: time.sleep(.01)\n";
    let client = Command::new("/usr/bin/python3")
        .args(["-c", &format!("{start}{script}"), &uri(&proxied)])
        .arg(dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&client.stderr).into_owned();
    assert!(client.status.success(), "{words:?}: {script}\n{said}");
}

#[test]
fn a_failed_flush_of_the_far_server_is_told_to_all_connected_clients() {
    for words in [&[][..], &["shared=true"]] {
        with_flushes_that_fail(
            words,
            "a = connect(); b = connect(); a.pwrite(b'x', 0)\n\
             fail(True); fails(a.flush); fail(False)\n\
             fails(b.flush); fails(a.flush); fails(b.flush)\n\
             c = connect(); c.pwrite(b'y', 0); c.flush(); c.flush()",
        );
    }
}

#[test]
fn unflushed_writes_of_a_client_that_left_are_flushed_or_told_to_the_next() {
    with_flushes_that_fail(
        &[],
        "a = connect(); a.pwrite(b'x', 0); a.shutdown(); wait_for(1)\n\
         b = connect(); b.flush(); b.pwrite(b'y', 0)\n\
         fail(True); n = flushes(); b.shutdown(); wait_for(n + 1); time.sleep(.2); fail(False)\n\
         c = connect(); d = connect()\n\
         fails(c.flush); c.flush(); fails(d.flush); d.flush()\n\
         connect().flush()",
    );
}
