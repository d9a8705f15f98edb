//! A guest on `vhost-user`, whose VMM and driver are simulated by the test, and the disk that it is
//! given.

use std::{
    collections::BTreeSet,
    fs,
    time::{Duration, Instant},
};

use nix::fcntl::OFlag;
use support::agent::Agent;
use vsock_device::testing::{
    guest::Guest,
    nbd::{self, Load, READ},
};

use crate::BINARY;

/// The path of a VM.
pub(super) const ONE: &str = "one";

/// An agent with the paths of one or two VMs.
pub(super) fn agent() -> Agent {
    Agent::start(BINARY, "--listen vhost-user:{}/one --listen vhost-user:{}/two memory 16M")
}

pub(super) fn boot(agent: &Agent, name: &str) -> Guest {
    Guest::boot(&agent.path(name), 3).unwrap()
}

/// The agent's open descriptors.
pub(super) fn descriptors(agent: &Agent) -> BTreeSet<String> {
    let open = fs::read_dir(format!("/proc/{}/fd", agent.id())).unwrap();
    open.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Reads a block of the disk, on its own connection.
pub(crate) fn reads(guest: &mut Guest) {
    let own = nbd::open(guest).unwrap();
    guest.send(own, &nbd::request(READ, 4096, 4096));
    let reply = guest.take(own, 16 + 4096).unwrap();
    assert!(reply.starts_with(b"\x67\x44\x66\x98\0\0\0\0") && reply.ends_with(&[0; 4096]));
    guest.close(own);
}

#[test]
fn a_guest_writes_its_disk_and_reads_it_back_over_its_own_queues() {
    let agent = agent();
    let mut guest = boot(&agent, ONE);
    let own = nbd::open(&mut guest).unwrap();
    let bytes: Vec<u8> = (0..=250).cycle().take(1 << 20).collect();
    let len = u32::try_from(bytes.len()).unwrap();
    guest.send(own, &[nbd::request(nbd::WRITE, 5000, len), bytes.clone()].concat());
    guest.take(own, 16).unwrap();
    guest.send(own, &nbd::request(READ, 5000, len));
    let reply = guest.take(own, 16 + bytes.len()).unwrap();
    assert!(reply[16..] == bytes, "other bytes come back");
    // The same in the next VM on that path.
    drop(guest);
    let mut guest = boot(&agent, ONE);
    let own = nbd::open(&mut guest).unwrap();
    guest.send(own, &nbd::request(READ, 5000, len));
    assert!(guest.take(own, 16 + bytes.len()).unwrap()[16..] == bytes);
}

#[test]
fn each_connection_of_a_guest_gets_its_share() {
    let agent = agent();
    let mut guest = boot(&agent, ONE);
    for count in [4, 16] {
        let own: Vec<_> = (0..count).map(|_| nbd::open(&mut guest).unwrap()).collect();
        let load = Load { command: READ, len: 256 << 10, depth: 4, time: Duration::from_secs(2) };
        let mut replies = vec![0; count];
        let begun = Instant::now();
        // So many that one more or less makes no difference.
        while replies.iter().sum::<u64>() < 60 * count as u64 {
            assert!(begun.elapsed() < Duration::from_mins(1), "it is too slow: {replies:?}");
            let more = nbd::run(&mut guest, &own, load).unwrap();
            replies.iter_mut().zip(more).for_each(|(all, more)| *all += more);
        }
        let (least, most) = (replies.iter().min().unwrap(), replies.iter().max().unwrap());
        assert!(least * 10 >= most * 7, "{replies:?}");
        for port in own {
            guest.close(port);
        }
    }
}

#[test]
fn nothing_is_left_of_vms_that_have_gone() {
    let agent = agent();
    reads(&mut boot(&agent, ONE));
    agent.wait_for_line("the VM is gone");
    let before = descriptors(&agent).len();
    for _ in 0..20 {
        reads(&mut boot(&agent, ONE));
    }
    let begun = Instant::now();
    loop {
        let now = descriptors(&agent).len();
        if now <= before {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{now}, and {before} before");
    }
}

#[test]
fn no_child_of_the_agent_has_a_vms_descriptors() {
    let agent = agent();
    // The agent may have inherited some descriptors from the test's runner.
    let before = descriptors(&agent);
    let mut guest = boot(&agent, ONE);
    reads(&mut guest);
    let during = descriptors(&agent);
    assert!(during.len() >= before.len() + 6);
    for number in during.difference(&before) {
        let file = format!("/proc/{}/fd/{number}", agent.id());
        let Ok(name) = fs::read_link(&file) else { continue };
        let info = fs::read_to_string(format!("/proc/{}/fdinfo/{number}", agent.id())).unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
        let flags = i32::from_str_radix(flags, 8).unwrap();
        assert!(flags & OFlag::O_CLOEXEC.bits() != 0, "{number} is {}", name.display());
    }
}

#[test]
fn a_second_vmm_on_a_path_is_said_once_and_has_its_turn() {
    let agent = agent();
    let mut first = boot(&agent, ONE);
    reads(&mut first);
    let path = agent.path(ONE);
    let second = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let third = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let lines = agent.wait_for_line("another VMM waits here");
    assert!(lines.last().unwrap().contains(&format!("vhost-user:{}: ", path.display())));
    reads(&mut first);
    drop((first, third));
    let lines = agent.wait_for_line("the VM is gone");
    let said = lines.iter().filter(|line| line.contains("another VMM")).count();
    assert_eq!(said, 0, "once: {lines:#?}");
    drop(second);
    reads(&mut boot(&agent, ONE));
}
