//! Who may connect: `--filter=ip`, `--allow`, `--allow-cid` and `--access-file`, tested from
//! outside.

use std::{
    fs,
    io::{BufRead, Read},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixStream,
    process::Command,
    time::Duration,
};

use nix::{
    sys::signal::Signal,
    unistd::{getgid, getuid},
};
use support::{DEADLINE, agent::Agent, process::refused};

use crate::BINARY;

/// Whether a new connection receives a greeting. A refused connection is closed and receives
/// nothing.
pub(crate) fn is_let_in(mut stream: impl Read) -> bool {
    let mut first = [0; 8];
    match stream.read(&mut first) {
        Ok(0) => false,
        Ok(n) => {
            assert_eq!(first[..n], b"NBDMAGIC"[..n]);
            true
        }
        Err(error) => panic!("neither greeted nor closed: {error}"),
    }
}

pub(crate) fn knock(agent: &Agent) -> bool {
    let stream = UnixStream::connect(agent.path("s")).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    is_let_in(stream)
}

fn knock_at(port: u16) -> bool {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    is_let_in(stream)
}

/// The port in the second of the printed URIs.
fn port(agent: &mut Agent) -> u16 {
    let uri = agent.stdout().lines().nth(1).unwrap().unwrap();
    uri.rsplit_once(':').unwrap().1.parse().unwrap()
}

/// Replaces `{uid}`, `{gid}` and `{pid}` by those of this test.
fn ours(words: &str) -> String {
    words
        .replace("{uid}", &getuid().to_string())
        .replace("{gid}", &getgid().to_string())
        .replace("{pid}", &std::process::id().to_string())
}

/// Whether nbdkit, with these words, admits nbdinfo over a Unix socket and over TCP.
fn nbdkit(words: &str) -> (bool, bool) {
    let run = |listen: &[&str]| {
        let output = Command::new("nbdkit")
            .args(listen)
            .args(["--filter=ip", "null", "1M"])
            .args(words.split_whitespace())
            .args(["--run", r#"nbdinfo --size "$uri""#])
            .output()
            .expect("nbdkit is installed (apt-get install nbdkit libnbd-bin)");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() || stderr.contains("source address restriction"),
            "{words}: {stderr}"
        );
        output.status.success()
    };
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    (run(&["-U", "-"]), run(&["-i", "127.0.0.1", "-p", &free.to_string()]))
}

#[test]
fn the_ip_filter_says_what_nbdkits_says() {
    for (words, unix, tcp) in [
        ("", true, true),
        ("deny=all", false, false),
        ("allow=any deny=all", true, true),
        ("deny=ANY allow=all", true, true),
        ("allow=anyipv4 deny=all", false, true),
        ("allow=allipv6 deny=all", false, false),
        ("allow=anyunix deny=all", true, false),
        ("allow=anyvsock deny=all", false, false),
        ("deny=allunix", false, true),
        ("allow=127.0.0.1,::1 deny=all", false, true),
        ("deny=127.0.0.0/8", true, false),
        ("deny=127.0.0.2", true, true),
        ("deny=127.9.9.9/8", true, false),
        ("allow=127.0.0.2/31 deny=anyipv4", true, false),
        ("allow=127.0.0.0/31 deny=anyipv4", true, true),
        ("allow=uid:{uid} deny=all", true, false),
        ("allow=gid:{gid} deny=all", true, false),
        ("allow=gid:4000000000 deny=all", false, false),
        ("deny=uid:{uid}", false, true),
        ("allow=vsock-cid:3 deny=anyunix", false, true),
        ("allow=vsock-port:1 allow=anyipv4 deny=all", false, true),
        ("allow=anyipv4, deny=all", false, true),
        ("allow= deny=all", false, false),
    ] {
        let words = ours(words);
        // nbdkit 1.32.5, as Debian builds it, accepts no address at all ("don't know how to parse
        // rule: allow=127.0.0.1"). These expectations follow its manual.
        if !words.contains("127.") {
            assert_eq!(nbdkit(&words), (unix, tcp), "nbdkit {words}");
        }
        let mut agent = Agent::start(
            BINARY,
            &format!("--print-uri -U {{}}/s --listen tcp:127.0.0.1:0 --filter=ip null 1M {words}"),
        );
        let port = port(&mut agent);
        assert_eq!((knock(&agent), knock_at(port)), (unix, tcp), "agent {words}");
    }
}

#[test]
fn rules_that_nbdkit_cannot_read_are_read() {
    for (words, unix) in [
        // nbdkit: "vsock-cid:: could not parse number: 3,vsock-cid:4"
        ("allow=vsock-cid:3,vsock-cid:4 deny=all", false),
        ("allow=uid:{uid},vsock-cid:4 deny=all", true),
        ("allow=vsock-cid:3-9,uid:{uid} deny=all", true),
        ("allow=pid:1,pid:{pid} deny=all", true),
        ("allow=pid:{pid}-{pid} deny=all", true),
        ("allow=uid:0-4294967295 deny=all", true),
        ("deny=pid:1,gid:{gid},uid:7", false),
        ("deny=vsock-guest,vsock-local,vsock-hypervisor,vsock-sibling", true),
    ] {
        let agent = Agent::start(BINARY, &format!("-U {{}}/s --filter=ip null 1M {}", ours(words)));
        assert_eq!(knock(&agent), unix, "{words}");
    }
}

#[test]
fn a_client_that_no_rule_names_is_refused_and_logged_once() {
    for (words, let_in) in [
        ("--allow anyunix", true),
        ("--allow vsock-guest --allow uid:{uid}", true),
        ("--allow-cid 3,5-9 --allow pid:1,gid:{gid}", true),
        ("--allow-cid 3 --allow-cid 5-9", false),
        ("--allow vsock-local", false),
        // Both filters have to admit a client.
        ("--allow anyunix --filter=ip deny=uid:{uid}", false),
    ] {
        let mut agent = Agent::start(BINARY, &ours(&format!("-U {{}}/s memory 1M {words}")));
        assert_eq!(knock(&agent), let_in, "{words}");
        let lines = agent.end();
        let refusals: Vec<_> = lines.iter().filter(|line| line.contains("refused")).collect();
        assert_eq!(refusals.len(), usize::from(!let_in), "{lines:#?}");
        for line in refusals {
            let peer = ours("peer=unix:pid={pid},uid={uid},gid={gid}");
            let rule = if words.contains("deny") { "rule=deny=uid:" } else { "rule=not named by" };
            for part in [&peer, r#"export="-""#, rule] {
                assert!(line.contains(part), "no {part} in {line}");
            }
        }
    }
}

#[test]
fn the_access_file_is_read_again_at_hup_and_a_wrong_one_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let rules = dir.path().join("rules");
    let write = |text: &str| fs::write(&rules, ours(text)).unwrap();
    write("# the test itself\nallow uid:{uid}\n");
    let mut agent =
        Agent::start(BINARY, &format!("-U {{}}/s --access-file {} null 1M", rules.display()));
    let hup = |agent: &Agent, said: &str| {
        agent.signal(Signal::SIGHUP);
        agent.wait_for_line(said)
    };
    // The whole log is searched. A refusal names its rule's line too, and may be logged after the
    // client has seen it and gone on to the next HUP.
    for (text, said, let_in) in [
        ("deny pid:{pid}\nanyunix", "rules read again: 1 in", None),
        ("deny pid:{pid}\nallow anyunix, uid:0", "rules read again: 3 in", Some(false)),
        ("deny pid:{pid}\nallow anyunix, uid:root", "line 2: 'uid:root'", Some(false)),
        ("\n\nanyunix # all of them\ndeny any", "rules read again: 2 in", Some(true)),
        ("vsock-cid:x", "line 1: ", Some(true)),
        ("", "rules read again: 0 in", Some(false)),
    ] {
        write(text);
        let Some(let_in) = let_in else {
            // Until HUP the old rules apply.
            assert!(knock(&agent));
            continue;
        };
        let lines = hup(&agent, said);
        let stays = said.starts_with("line");
        let last = lines.last().unwrap();
        assert_eq!(last.contains("the access rules stay as they were"), stays, "{last}");
        assert_eq!(knock(&agent), let_in, "{text}");
    }
    fs::remove_file(&rules).unwrap();
    let lines = hup(&agent, "stay as they were");
    assert!(lines.last().unwrap().contains("No such file"), "{lines:#?}");
    agent.end();
}

#[test]
fn wrong_rules_are_one_line_and_nothing_is_started() {
    let dir = tempfile::tempdir().unwrap();
    let wrong = dir.path().join("wrong");
    fs::write(&wrong, "any\nuid:x\n").unwrap();
    let wrong = format!("--access-file {}", wrong.display());
    let socket = dir.path().join("s");
    for (words, part) in [
        ("null 1M --allow nobody", "--allow 'nobody'"),
        ("null 1M --allow uid:9-3", "'uid:9-3' needs a number or a range"),
        ("null 1M --allow any,,any", "empty entry"),
        ("null 1M --allow=", "the list is empty"),
        ("null 1M --allow-cid 2", "no guest's CID"),
        (
            "null 1M --allow dn:CN=me",
            "--allow: the rule dn:CN=me is about the certificates of clients",
        ),
        ("null 1M --access-file /nonexistent/rules", "--access-file /nonexistent/rules"),
        ("null 1M --access-file /dev/null", "not a regular file"),
        (&format!("null 1M {wrong}"), "line 2: 'uid:x' needs a number"),
        ("null 1M --filter=ip allow=10.0.0.0/33", "filter ip: allow=10.0.0.0/33"),
        (
            "null 1M --filter=ip deny=issuer-dn:*",
            "filter ip: the rule issuer-dn:* is about the certificates of clients",
        ),
        ("null 1M --limit many", "--limit"),
        ("null 1M --filter=limit limit=many", "filter limit: limit=many is not a number"),
    ] {
        let mut command = Command::new(BINARY);
        command.arg("-U").arg(&socket).args(words.split_whitespace());
        let stderr = refused(&mut command);
        assert!(stderr.contains(part), "{words}: {stderr}");
        assert!(!socket.exists(), "{words}");
    }
}

#[test]
fn a_refused_client_learns_it_at_once() {
    // A client that sends before the greeting, for far longer than the handshake may take.
    let agent = Agent::start(BINARY, "-U {}/s --timeout 1h --allow-cid 3 null 1M");
    let mut stream = UnixStream::connect(agent.path("s")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut got = Vec::new();
    assert_eq!(stream.read_to_end(&mut got).unwrap(), 0);
}
