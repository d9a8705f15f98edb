//! The plugin `nbd`: a flush speaks for every connection of an export that says so, even where the far
//! server of some of them has died.

use std::{
    io::{Read, Write},
    process::{Command, Stdio},
};

use crate::{
    agent::BINARY,
    proxy::{Far, proxy, uri},
};

/// `a` writes, is answered and does `then`; the server dies and comes again, empty; then `rest` runs.
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
        // Each connection hears of it once, and can then go on with what it writes itself.
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
fn who_comes_while_it_is_there_hears_of_the_loss_when_it_is_gone() {
    after_a_death(&[], "", "b = connect(); a.shutdown(); fails(b.flush); b.flush()");
}

#[test]
fn nothing_is_told_of_what_was_durable() {
    for durable in ["a.flush()", "a.pwrite(b'x', 0, nbd.CMD_FLAG_FUA); before.flush(); a.flush()"] {
        let rest = "b = connect(); b.flush(); fails(before.flush); fails(a.flush); b.flush()";
        after_a_death(&[], durable, rest);
    }
}
