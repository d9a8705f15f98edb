//! The plugin `nbd` inside TLS: agent against agent.

use std::{fs, process::Command, thread};

use nix::sys::signal::Signal;
use support::{
    agent::Agent,
    certificates::{Ca, named},
    process::{fails_with, succeeds},
    random::Random,
};

use crate::{
    BINARY,
    client::{Guest, agent, size, uri, word},
};

/// An agent on `{}/s` that serves another agent's disk, and logs its sessions.
fn remote(words: &[&str]) -> Agent {
    Agent::start_with(Command::new(BINARY), "-v -U {}/s nbd", words)
}

fn through(remote: &Agent) -> String {
    format!("nbd+unix:///?socket={}", remote.path("s").display())
}

fn socket(far: &Agent) -> String {
    format!("socket={}", far.path("socket").display())
}

fn trust(far: &Agent) -> String {
    format!("tls-certificates={}", far.path("trust").display())
}

/// The line of the log about a disk that cannot be opened.
fn refused(words: &[&str]) -> String {
    let remote = remote(words);
    size(&through(&remote)).unwrap_err();
    remote.wait_for_line("export not opened").pop().unwrap()
}

#[test]
fn bytes_go_both_ways_inside_tls() {
    let (far, _ca) = agent("--tls=require memory 8M");
    let disk = Random::new(1).bytes(8 << 20);
    let image = word(&far, "image");
    fs::write(&image, &disk).unwrap();
    for words in [
        vec![uri(&far, "nbds", "trust").replace("//localhost/", "///")],
        vec![socket(&far), trust(&far), "tls=require".into(), "shared=true".into()],
    ] {
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let mut remote = remote(&words);
        succeeds("nbdcopy", "libnbd-bin", &[&image, &through(&remote)]);
        let back = word(&far, "back");
        succeeds("nbdcopy", "libnbd-bin", &["--connections=1", &through(&remote), &back]);
        assert!(fs::read(&back).unwrap() == disk, "{words:?}");
        far.wait_for_line("inside TLS");
        remote.end();
    }
}

#[test]
fn another_ca_and_another_name_are_refused() {
    let (far, _ca) = agent("--tls=require memory 1M");
    let stranger = tempfile::tempdir().unwrap();
    Ca::new("another CA").trusted_in(stranger.path());
    let other = format!("tls-certificates={}", stranger.path().display());
    let (socket, trust) = (socket(&far), trust(&far));
    for words in [
        [&*socket, &*other, "tls=require"],
        [&*socket, &*other, "tls=on"],
        [&*socket, &*trust, "tls-hostname=elsewhere"],
    ] {
        let line = refused(&words);
        assert!(line.contains("the TLS handshake failed"), "{words:?}: {line}");
    }
    for words in [
        vec![&*socket, &*trust, "tls-hostname=localhost"],
        vec![&*socket, &*other, "tls-verify=false"],
        vec![&*socket, "tls-verify=false", "tls=require"],
    ] {
        assert_eq!(size(&through(&remote(&words))), Ok(1 << 20), "{words:?}");
    }
}

#[test]
fn a_server_without_tls_is_used_only_where_that_is_allowed() {
    let (far, _ca) = agent("--tls=off memory 1M");
    let (socket, trust) = (socket(&far), trust(&far));
    let line = refused(&[&socket, &trust, "tls=require"]);
    assert!(line.contains("was refused by the server"), "{line}");
    // nbdkit's default, once another TLS key is given.
    for words in [vec![&*socket, &*trust, "tls=on"], vec![&*socket, &*trust]] {
        let through = remote(&words);
        assert_eq!(size(&self::through(&through)), Ok(1 << 20), "{words:?}");
    }
}

#[test]
fn the_client_shows_its_certificate() {
    let (far, ca) = agent("--tls-verify-peer memory 1M");
    ca.client_in(&far.path("client"), named("client"));
    let own = format!("tls-certificates={}", far.path("client").display());
    let socket = socket(&far);
    assert_eq!(size(&through(&remote(&[&socket, &own, "tls=require"]))), Ok(1 << 20));
    let remote = remote(&[&socket, &trust(&far), "tls=require"]);
    size(&through(&remote)).unwrap_err();
}

#[test]
fn retry_waits_for_a_server_that_starts_again_inside_tls() {
    for shared in ["shared=false", "shared=true"] {
        let (mut far, _ca) = agent("--tls=require memory 1M");
        let remote = remote(&[&socket(&far), &trust(&far), "tls=require", "retry=60", shared]);
        let mut guest = Guest::connect(&through(&remote));
        assert!(guest.is_in(), "{shared}");
        far.end();
        remote.wait_for_line("the far server's connection broke");
        let address = through(&remote);
        let waiting = thread::spawn(move || size(&address));
        // The plugin dials as soon as it has this option, and in vain: the server is not there yet.
        remote.wait_for_line("client: NBD_OPT_GO");
        // The server has another size now, which is a fact of the new link.
        let place = far.dir.path().display();
        let words =
            "-v -U {place}/socket --tls-certificates {place}/server --tls=require memory 2M"
                .replace("{place}", &place.to_string());
        let again = Agent::start_by(Command::new(BINARY), &words);
        assert_eq!(waiting.join().unwrap(), Ok(2 << 20), "{shared}");
        again.wait_for_line("inside TLS");
        assert!(!guest.is_in(), "{shared}: a broken link is not repaired");
    }
}

#[test]
fn certificates_are_read_again_at_hup_for_new_links() {
    const READ_AGAIN: &str = "/trust read again; open connections go on";
    const KEPT: &str = "/trust stay as they were read before";
    let (far, _old) = agent("--tls=require memory 1M");
    let remote = remote(&[&socket(&far), &trust(&far), "tls=require"]);
    let hang_up = |agent: &Agent, line: &str| {
        agent.signal(Signal::SIGHUP);
        agent.wait_for_line(line).pop().unwrap()
    };
    let mut guest = Guest::connect(&through(&remote));
    let new = Ca::new("the new CA");
    new.server_in(&far.path("server"));
    hang_up(&far, "read again");
    size(&through(&remote)).unwrap_err();
    // Files that cannot be used change nothing. A pipe would block the agent.
    let ca = far.path("trust/ca-cert.pem");
    fs::remove_file(&ca).unwrap();
    hang_up(&remote, KEPT);
    nix::unistd::mkfifo(&ca, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let line = hang_up(&remote, KEPT);
    assert!(line.contains("ERROR") && line.contains("is not a regular file"), "{line}");
    fs::remove_file(&ca).unwrap();
    new.trusted_in(&far.path("trust"));
    size(&through(&remote)).unwrap_err();
    hang_up(&remote, READ_AGAIN);
    assert_eq!(size(&through(&remote)), Ok(1 << 20));
    assert!(guest.is_in(), "its link continues");
}

#[test]
fn the_host_of_tcp_is_looked_up_and_is_the_name_that_is_checked() {
    let ca = Ca::new("the CA");
    let mut far = Agent::start_by_in(
        Command::new(BINARY),
        |directory| {
            ca.server_in(&directory.join("server"));
            ca.trusted_in(&directory.join("trust"));
        },
        "-v -i 127.0.0.1 -p 0 --tls=require --tls-certificates {}/server --print-uri memory 1M",
    );
    let mut said = String::new();
    std::io::BufRead::read_line(&mut far.stdout(), &mut said).unwrap();
    let port: u16 =
        said.rsplit(':').next().unwrap().trim_end().trim_end_matches('/').parse().unwrap();
    let (port, trust) = (format!("port={port}"), trust(&far));
    for host in ["hostname=localhost", "hostname=127.0.0.1"] {
        let remote = remote(&[host, &port, &trust, "tls=require"]);
        assert_eq!(size(&through(&remote)), Ok(1 << 20), "{host}");
    }
    // 127.1 is an address only to getaddrinfo(3).
    let remote = remote(&["hostname=127.1", &port, &trust, "tls-hostname=localhost"]);
    assert_eq!(size(&through(&remote)), Ok(1 << 20));
    let (_, said) = fails_with(BINARY, "-U - nbd hostname=no-such-host.invalid shared=true");
    assert!(said.contains("cannot look up the address of \"no-such-host.invalid\""), "{said}");
}
