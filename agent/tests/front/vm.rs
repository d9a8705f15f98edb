//! Virtual machines whose vsock device belongs to their VMM. `hybrid` simulates Firecracker's host
//! side here; `served` and `hostile` simulate a VMM and its guest on `vhost-user`. Real guests are in
//! the guest tests.

use std::{
    fs,
    io::Read,
    os::unix::{
        fs::{FileTypeExt, MetadataExt},
        net::UnixListener,
    },
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use support::{
    agent::Agent,
    client::{greeted, opened},
    process::{assert_refuses, fails, refused},
    until,
};

use crate::BINARY;

mod hostile;
pub(crate) mod served;

#[test]
fn a_hybrid_vm_is_known_by_its_path() {
    let mut agent = Agent::start(
        BINARY,
        "--listen hybrid:{}/one --listen hybrid:{}/two,port=5 --allow vsock-guest \
         --limit-per-cid 1 memory 1M",
    );
    // What Firecracker does when its guest connects to CID 2, port 10809.
    let mut guest = greeted(&agent.path("one_10809"));
    assert_eq!(opened(&mut guest), 1 << 20);
    let lines = agent.wait_for_line(" opened ");
    let peer = format!("peer=vm:{} ", agent.path("one").display());
    assert!(lines.last().unwrap().contains(&peer), "{lines:#?}");
    // Each path is a machine with a limit of its own.
    let mut other = greeted(&agent.path("two_5"));
    assert_eq!(opened(&mut other), 1 << 20);
    let _third = std::os::unix::net::UnixStream::connect(agent.path("one_10809")).unwrap();
    let lines = agent.wait_for_line(" refused ");
    assert!(lines.last().unwrap().contains("limit-per-cid"), "{lines:#?}");
    drop((guest, other));
    agent.end();
    assert!(!agent.path("one_10809").exists() && !agent.path("two_5").exists());
}

#[test]
fn rules_name_such_guests_as_guests() {
    for (rules, lets_in) in [
        ("--allow vsock-guest", true),
        ("--allow anyvsock", true),
        ("--allow anyunix", false),
        ("--allow-cid 3-99", false),
    ] {
        let mut agent = Agent::start(BINARY, &format!("--listen hybrid:{{}}/vm {rules} memory 1M"));
        let mut stream = std::os::unix::net::UnixStream::connect(agent.path("vm_10809")).unwrap();
        let mut greeting = [0; 18];
        let greeted = stream.read_exact(&mut greeting).is_ok();
        assert_eq!(greeted, lets_in, "{rules}");
        drop(stream);
        agent.end();
    }
}

#[test]
fn a_dead_agents_socket_is_taken_over_and_a_live_ones_never() {
    for kind in ["hybrid", "vhost-user"] {
        let dir = tempfile::tempdir().unwrap();
        let name = if kind == "hybrid" { "vm_10809" } else { "vm" };
        let path = dir.path().join(name);
        drop(UnixListener::bind(&path).unwrap());
        let place = format!("{kind}:{}", dir.path().join("vm").display());
        let mut agent = Agent::start_with(Command::new(BINARY), "memory 1M", &["--listen", &place]);
        assert!(fs::symlink_metadata(&path).unwrap().file_type().is_socket());
        let stderr = refused(Command::new(BINARY).args(["--listen", &place, "memory", "1M"]));
        assert!(stderr.contains("another process listens there"), "{stderr}");
        agent.end();
        assert!(!path.exists(), "{kind} leaves nothing behind");
        fs::write(&path, "kept").unwrap();
        let (code, stderr) = fails(Command::new(BINARY).args(["--listen", &place, "memory", "1M"]));
        assert_eq!(code, 1, "{stderr}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "kept");
    }
}

/// Any user may lock /tmp and hold the lock.
#[test]
fn a_lock_on_the_directory_holds_no_start_for_long() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vm");
    let place = format!("vhost-user:{}", path.display());
    let held = fs::File::open(dir.path()).unwrap();
    held.lock().unwrap();
    // Without a stale socket the lock is not needed.
    let mut agent = Agent::start_with(Command::new(BINARY), "memory 1M", &["--listen", &place]);
    agent.end();
    drop(UnixListener::bind(&path).unwrap());
    let start = Instant::now();
    let stderr = refused(Command::new(BINARY).args(["--listen", &place, "memory", "1M"]));
    let named = format!("holds a lock on the directory {};", dir.path().display());
    assert!(stderr.contains(&named) && stderr.contains("lslocks"), "{stderr}");
    assert!((5..20).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());

    // The agent ends at once when it is told to, and leaves the path unchanged.
    let mut child = Command::new(BINARY);
    let child = child.args(["-v", "--listen", &place, "memory", "1M"]).stderr(Stdio::piped());
    let mut child = child.spawn().unwrap();
    let start = Instant::now();
    // No event shows that the agent waits for the lock.
    std::thread::sleep(Duration::from_millis(500));
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(child.id().cast_signed()),
        nix::sys::signal::Signal::SIGTERM,
    )
    .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("TERM came before the agent was ready"), "{said}");
    assert!(fs::symlink_metadata(&path).is_ok());

    // Two agents start at once for one stale socket, and one gets it.
    drop(held);
    let mut both: Vec<_> = (0..2)
        .map(|_| Command::new(BINARY).args(["--listen", &place, "memory", "1M"]).spawn().unwrap())
        .collect();
    let mut ended = None;
    until("one of two ends", || {
        ended = both.iter_mut().position(|child| child.try_wait().unwrap().is_some());
        ended.is_some()
    });
    let mut other = both.remove(1 - ended.unwrap());
    // Time in which a second one would end by mistake. There is no event to wait for.
    std::thread::sleep(Duration::from_millis(200));
    assert!(other.try_wait().unwrap().is_none(), "the other one serves");
    other.kill().unwrap();
    other.wait().unwrap();
}

#[test]
fn a_socket_has_the_mode_and_the_owner_that_were_asked_for() {
    let mut own = fs::metadata("/proc/self").map(|own| (own.uid(), own.gid())).unwrap();
    if own.0 == 0 {
        // Root may give it to any user.
        own = (4_000_000, 4_000_001);
    }
    let (uid, gid) = own;
    for (kind, name) in [("hybrid", "vm_10809"), ("vhost-user", "vm")] {
        let words = format!("--listen {kind}:{{}}/vm,mode=0620,owner={uid},group={gid} memory 1M");
        let mut agent = Agent::start(BINARY, &words);
        let made = fs::symlink_metadata(agent.path(name)).unwrap();
        assert_eq!((made.mode() & 0o7777, made.uid(), made.gid()), (0o620, uid, gid), "{kind}");
        agent.end();
        assert!(!agent.path(name).exists());
    }
    // After an error nothing is left behind.
    let dir = tempfile::tempdir().unwrap();
    let place = format!("hybrid:{}/vm,owner=no-such-user", dir.path().display());
    refused(Command::new(BINARY).args(["--listen", &place, "memory", "1M"]));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn wrong_words_are_one_line() {
    for (words, part) in [
        ("--listen hybrid: memory 1", "path of the socket is empty"),
        (
            "--listen hybrid:/a,cid=3 memory 1",
            "'cid' is not known here; port=, mode=, owner= and group= are",
        ),
        ("--listen hybrid:/a,port=x memory 1", "'x' is not a vsock port"),
        ("--listen vhost-user:/a,cid=2 memory 1", "'2' is not a guest's CID"),
        (
            "--listen vhost-user:/a,mod=1 memory 1",
            "'mod' is not known here; cid=, port=, mode=, owner=",
        ),
        ("--listen vhost-user:/a,mode=0999 memory 1", "'0999' is not the mode of a socket"),
        ("--listen hybrid:/a,owner= memory 1", "owner= is empty"),
        ("--listen hybrid:/tmp/a,owner=no-such-user memory 1", "no user is called 'no-such-user'"),
        (
            "--listen hybrid:/tmp/a,group=no-such-group memory 1",
            "no group is called 'no-such-group'",
        ),
        ("--listen vhost-user:/nonexistent/vm memory 1", "/nonexistent"),
    ] {
        assert_refuses(BINARY, words, part);
    }
}
