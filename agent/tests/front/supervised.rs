//! `agent supervise`: what survives the death of the agent, and how the supervisor ends.

use std::{
    fs,
    io::Read,
    net::{TcpListener, TcpStream},
    os::{
        fd::AsFd,
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream},
    },
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use support::{
    agent::Agent,
    client::greeted,
    process::{assert_ends, fails, is_running},
    until,
};
use vsock_device::testing::{guest::Guest, nbd};

use crate::{BINARY, handed::Handed, vm::served};

/// A run after which the supervisor waits no longer before it starts the agent again.
const GOOD_RUN: Duration = Duration::from_secs(2);

/// A supervisor and its agent. Dropping it ends both.
struct Supervised {
    supervisor: Agent,
    manager: UnixDatagram,
}

impl Supervised {
    fn start(words: &str) -> Self {
        let mut command = Command::new(BINARY);
        command.args(["supervise", "--"]);
        let (supervisor, manager) = Agent::start_watched(command, |_| (), words, &[]);
        Self { supervisor, manager }
    }

    /// The agent's process, if it runs.
    fn find_agent(&self) -> Option<u32> {
        let id = self.supervisor.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    }

    fn agent(&self) -> u32 {
        self.find_agent().expect("the agent runs")
    }

    /// A variable of the agent.
    fn variable(&self, name: &str) -> String {
        let all = fs::read(format!("/proc/{}/environ", self.agent())).unwrap();
        let all = String::from_utf8(all).unwrap();
        let found = all.split('\0').find_map(|it| it.strip_prefix(name)?.strip_prefix('='));
        found.unwrap_or_default().to_owned()
    }

    /// Waits for a notification that starts with `start`.
    fn hears(&self, start: &str) {
        let mut bytes = [0; 512];
        loop {
            let len = self.manager.recv(&mut bytes).unwrap();
            if bytes[..len].starts_with(start.as_bytes()) {
                return;
            }
        }
    }

    fn kill_agent(&self) {
        kill(pid(self.agent()), Signal::SIGKILL).unwrap();
    }

    /// Kills the agent, and waits until the next one is ready.
    fn replace_agent(&self) {
        self.kill_agent();
        self.hears("STATUS=the agent (process ");
        self.hears("READY=1");
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        // The supervisor may have ended before, and another process may have its number.
        let words = fs::read(format!("/proc/{}/cmdline", self.supervisor.id())).unwrap_or_default();
        if !words.starts_with(BINARY.as_bytes()) {
            return;
        }
        // So that no agent is started meanwhile.
        kill(pid(self.supervisor.id()), Signal::SIGSTOP).ok();
        let agent = self.find_agent();
        self.supervisor.kill();
        if let Some(agent) = agent {
            kill(pid(agent), Signal::SIGKILL).ok();
        }
    }
}

fn pid(id: u32) -> Pid {
    Pid::from_raw(id.cast_signed())
}

#[test]
fn no_client_is_refused_while_the_agent_is_killed_ten_times() {
    // Free a moment ago. A port that the system chooses is not kept.
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let supervised = Supervised::start(&format!(
        "-U {{}}/socket --listen hybrid:{{}}/vm --listen tcp:{tcp} memory 1M",
    ));
    let (over, greetings) = (AtomicBool::new(false), AtomicU64::new(0));
    let loops = |connect: &(dyn Fn() -> std::io::Result<Box<dyn Read>> + Sync)| {
        while !over.load(Ordering::Relaxed) {
            let mut stream = connect().expect("no connect is refused");
            // A connection ends with the agent that has accepted it.
            if stream.read_exact(&mut [0; 18]).is_ok() {
                greetings.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    let unix = |path: &Path| UnixStream::connect(path).map(|it| Box::new(it) as Box<dyn Read>);
    let (one, two) = (supervised.supervisor.socket(), supervised.supervisor.path("vm_10809"));
    thread::scope(|scope| {
        scope.spawn(|| loops(&|| unix(&one)));
        scope.spawn(|| loops(&|| unix(&two)));
        scope.spawn(|| {
            loops(&|| TcpStream::connect(tcp).map(|it| Box::new(it) as _));
        });
        for round in 0..10 {
            if round % 4 == 3 {
                // The supervisor's waits would grow to seconds. No event tells of the time.
                thread::sleep(GOOD_RUN);
            }
            supervised.replace_agent();
            let before = greetings.load(Ordering::Relaxed);
            until("clients are served", || greetings.load(Ordering::Relaxed) > before + 10);
        }
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(supervised.variable("LISTEN_FDS"), "3");
}

#[test]
fn a_vhost_user_vm_keeps_its_device_when_the_agent_is_killed() {
    let supervised = Supervised::start("--listen vhost-user:{}/one memory 16M");
    let mut guest = Guest::boot(&supervised.supervisor.path("one"), 3).unwrap();
    for _ in 0..3 {
        let before = nbd::open(&mut guest).unwrap();
        supervised.replace_agent();
        guest.wait_for(|guest| guest.sockets[&before].reset).unwrap();
        guest.sockets.remove(&before);
        served::reads(&mut guest);
    }
    // The next VM on this path is kept as well, and nothing of the first one.
    drop(guest);
    let mut guest = Guest::boot(&supervised.supervisor.path("one"), 3).unwrap();
    served::reads(&mut guest);
    supervised.replace_agent();
    served::reads(&mut guest);
}

#[test]
fn term_ends_both_and_the_socket_is_taken_over_by_the_next() {
    let mut supervised = Supervised::start("-U {}/socket memory 1M");
    let (agent, socket) = (supervised.agent(), supervised.supervisor.socket());
    supervised.supervisor.end();
    assert_ends(agent);
    let refused = UnixStream::connect(&socket).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::ECONNREFUSED));
    let words = format!("-U {} memory 1M", socket.display());
    let next = Supervised::start(&words);
    greeted(&socket);
    drop(next);
}

#[test]
fn an_agent_without_its_supervisor_goes_on_and_says_so_once() {
    let mut supervised = Supervised::start("-U {}/socket memory 1M");
    let agent = supervised.agent();
    supervised.supervisor.kill();
    let lines = supervised.supervisor.wait_for_line("the supervisor (process ");
    assert!(lines.last().unwrap().contains("goes on"), "{lines:#?}");
    greeted(&supervised.supervisor.socket());
    kill(pid(agent), Signal::SIGTERM).unwrap();
    let (_, lines) = supervised.supervisor.wait();
    assert!(!lines.join("\n").contains("the supervisor (process "), "{lines:#?}");
    assert!(!is_running(agent));
}

#[test]
fn an_agent_that_fails_at_its_first_start_is_not_started_again() {
    let begun = Instant::now();
    for (words, part) in [
        (&["--", "no-such-plugin"][..], "no-such-plugin"),
        (&["--", "-U", "/nonexistent/socket", "null"], "mkdir -p /nonexistent"),
        (&["--", "--backg", "null"], "--background would take the agent away"),
        (&["null"], "unexpected argument 'null'"),
    ] {
        let (code, stderr) = fails(Command::new(BINARY).arg("supervise").args(words));
        assert_eq!(code, 1, "{stderr}");
        assert!(stderr.contains(part), "{words:?}: {stderr}");
    }
    let handed = Handed::one(UnixDatagram::unbound().unwrap());
    let (code, stderr) = fails(handed.launcher().args(["supervise", "--", "null"]));
    assert!(code == 1 && stderr.contains("LISTEN_FDS"), "{stderr}");
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[test]
fn notifications_of_another_process_change_nothing() {
    let supervised = Supervised::start("-U {}/socket memory 1M");
    let name = supervised.variable("NOTIFY_SOCKET");
    let to = SocketAddr::from_abstract_name(name.strip_prefix('@').unwrap()).unwrap();
    supervised.replace_agent();
    let kept = supervised.variable("LISTEN_FDNAMES");
    assert!(kept.starts_with("agent.kept.listen.unix%3A/"), "{kept}");
    let hostile = UnixDatagram::unbound().unwrap();
    for text in [format!("FDSTOREREMOVE=1\nFDNAME={kept}"), "MAINPID=1".into(), "\0".repeat(9000)] {
        hostile.send_to_addr(text.as_bytes(), &to).unwrap();
    }
    let (file, text) = (fs::File::open("/dev/null").unwrap(), b"FDSTORE=1\nFDNAME=agent.x");
    let files = [std::os::fd::AsRawFd::as_raw_fd(&file.as_fd())];
    let rights = [nix::sys::socket::ControlMessage::ScmRights(&files)];
    let text = [std::io::IoSlice::new(text)];
    let address = nix::sys::socket::UnixAddr::new_abstract(to.as_abstract_name().unwrap()).unwrap();
    let flags = nix::sys::socket::MsgFlags::empty();
    let socket = std::os::fd::AsRawFd::as_raw_fd(&hostile);
    nix::sys::socket::sendmsg(socket, &text, &rights, flags, Some(&address)).unwrap();
    // What the agent says later is received later.
    supervised.supervisor.signal(Signal::SIGHUP);
    supervised.hears("RELOADING=1");
    supervised.replace_agent();
    assert_eq!(supervised.variable("LISTEN_FDNAMES"), kept);
}

#[test]
fn a_full_store_is_logged_and_the_sockets_that_are_not_kept_are_opened_anew() {
    /// `store::MOST` of the supervisor.
    const MOST: usize = 1024;
    let words: Vec<_> = (0..MOST + 3).map(|i| format!("--listen unix:{{}}/{i}")).collect();
    let supervised = Supervised::start(&format!("{} memory 1M", words.join(" ")));
    supervised
        .supervisor
        .wait_for_line("is not kept: the store is full (1024 descriptors at most)");
    supervised.replace_agent();
    assert_eq!(supervised.variable("LISTEN_FDS"), MOST.to_string());
    for i in [0, MOST - 1, MOST, MOST + 2] {
        greeted(&supervised.supervisor.path(&i.to_string()));
    }
}

#[test]
fn a_kept_socket_whose_path_was_replaced_is_not_used() {
    let supervised = Supervised::start("-U {}/socket memory 1M");
    let path = supervised.supervisor.socket();
    fs::remove_file(&path).unwrap();
    let others = UnixListener::bind(&path).unwrap();
    supervised.kill_agent();
    supervised.supervisor.wait_for_line("is not used: it does not listen there any more");
    // The other process's socket is not replaced while it listens.
    supervised.supervisor.wait_for_line("another process listens there");
    drop(others);
    supervised.hears("READY=1");
    greeted(&path);
    supervised.replace_agent();
    greeted(&path);
}
