//! A virsh that hangs, that prints without end, or that prints terminal escapes; and one that asks its user.

use std::{
    fs,
    io::Read,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use support::{
    DEADLINE,
    process::{assert_ends, pid_in},
};

use super::{BINARY, Virsh};

/// With a grandchild that ignores TERM, as a helper of virsh may.
const HANGS: &str = "#!/bin/sh\ncd \"${0%/*}\"\n(trap '' TERM; echo $$ > leader; sh -c 'echo $$ > pid; sleep 1000')\n";

#[test]
fn a_virsh_that_hangs_is_ended_with_all_that_it_started() {
    for (words, part) in [
        (&["cid", "guest"][..], "virsh dumpxml \"guest\": no answer in 500ms"),
        (&["attach", "guest", "--cid", "7", "--live"], "no answer in 500ms"),
    ] {
        let virsh = Virsh::running(HANGS);
        let start = Instant::now();
        let said = virsh.agent(&[words, &["--timeout", "500ms"]].concat()).unwrap_err();
        assert!(said.contains(part) && said.contains("--timeout"), "{said}");
        assert!(said.contains("does libvirtd or virtqemud hang?"), "{said}");
        assert!(start.elapsed() < DEADLINE, "{:?}", start.elapsed());
        for name in ["pid", "leader"] {
            assert_ends(pid_in(&virsh.path(name)));
        }
    }
}

#[test]
fn an_attach_that_was_cut_off_may_have_been_done() {
    let script = "#!/bin/sh\ncase \"$*\" in\n*dumpxml*) echo '<domain><devices/></domain>' ;;\n\
                  *) exec sleep 1000 ;;\nesac\n";
    let virsh = Virsh::running(script);
    let said = virsh.agent(&["attach", "guest", "--cid", "7", "--timeout", "1s"]).unwrap_err();
    assert!(said.contains("virsh attach-device \"guest\": no answer in 1s"), "{said}");
    assert!(said.contains("whether it was done is not known"), "{said}");
}

#[test]
fn a_virsh_that_prints_without_end_is_ended() {
    for (script, part) in [
        ("#!/bin/sh\nexec yes\n", "prints more than 67108864 bytes"),
        // The end of stderr is not needed: it is read until the deadline, and a part is kept.
        ("#!/bin/sh\nexec yes >&2\n", "no answer in 2s"),
    ] {
        let virsh = Virsh::running(script);
        let mut agent = virsh.command(&["cid", "guest", "--timeout", "2s"]);
        let mut agent = agent.stderr(Stdio::piped()).spawn().unwrap();
        let status = format!("/proc/{}/status", agent.id());
        let mut most = 0;
        while agent.try_wait().unwrap().is_none() {
            let text = fs::read_to_string(&status).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with("VmHWM")).unwrap_or("VmHWM: 0 kB");
            most = most.max(line.split_whitespace().nth(1).unwrap().parse().unwrap());
            thread::sleep(Duration::from_millis(20));
        }
        let mut said = String::new();
        agent.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(said.contains(part), "{said}");
        assert!(most < 300 << 10, "{most} KiB");
    }
}

#[test]
fn the_output_of_virsh_reaches_the_terminal_as_text() {
    let script = "#!/bin/sh\nprintf 'error: \\033[2J\\302\\233m\\007\\r no\\n\\342\\200\\256x\\n' >&2\n\
                  head -c 1000000 /dev/zero | tr '\\0' y >&2\nexit 1\n";
    let virsh = Virsh::running(script);
    let said = virsh.agent(&["cid", "guest"]).unwrap_err();
    let bad = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
    assert!(!said.contains(bad) && said.len() < 3000, "{} {said:?}", said.len());
    // A domain's XML may come from an untrusted source too.
    let script = "#!/bin/sh\nprintf '<domain><devices><vsock><cid address=\"\\302\\2332J\"/></vsock></devices></domain>'\n";
    let said = Virsh::running(script).agent(&["cid", "guest"]).unwrap_err();
    assert!(!said.contains(bad), "{said:?}");
}

/// ^C at the terminal, and a shell that is told to end.
#[test]
fn ending_the_agent_ends_virsh() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let virsh = Virsh::running(HANGS);
        let mut agent = virsh.command(&["cid", "guest"]).spawn().unwrap();
        let pid = pid_in(&virsh.path("pid"));
        kill(Pid::from_raw(agent.id().cast_signed()), signal).unwrap();
        let status = agent.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(signal as i32));
        assert_ends(pid);
    }
}

/// ssh itself asks for a password at the terminal, which only the foreground process group may read.
#[test]
fn virsh_may_ask_at_the_terminal() {
    let script = "#!/bin/sh\nread -r word < /dev/tty\necho \"error: you said $word\" >&2\nexit 1\n";
    let virsh = Virsh::running(script);
    // script(1) makes a terminal; Debian: bsdutils.
    let inner = format!(
        "{BINARY} libvirt cid guest --timeout 20s; read -r more < /dev/tty; echo got $more"
    );
    let mut shell = Command::new("script");
    shell.args(["-q", "-e", "-c", &inner, "/dev/null"]).env("PATH", virsh.search_path());
    let mut child = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"secret\nagain\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("you said secret"), "{said}");
    assert!(said.contains("got again"), "the shell has its terminal again: {said}");
}
