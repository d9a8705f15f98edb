//! A VM with a VMM of the test.

use std::{
    fs::File,
    io::{IoSlice, IoSliceMut},
    os::fd::AsFd,
    time::Instant,
};

use nix::{
    fcntl::OFlag,
    sys::eventfd::{EfdFlags, EventFd},
    unistd::ftruncate,
};
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    connection::Connection,
    header::{Header, Op},
    testing::{
        conversation::{Played, play},
        test_driver::Driver,
        vmm::{EVENT_IDX, PLAIN, USER, code},
    },
};

fn set_up() -> Played {
    let mut played = Played::new();
    played.set_up(PLAIN).unwrap();
    played
}

/// The guest sends a packet.
fn send(played: &mut Played, header: &Header, payload: &[u8]) {
    assert!(played.rings.send(&header.bytes(), payload));
    played.vmm.kick(1);
    assert!(played.settle().unwrap() < 100);
}

/// A connection works both ways.
fn works(played: &mut Played, src_port: u32) -> Connection {
    let header = |op, len| Header { src_port, ..Driver::header(op, len) };
    send(played, &header(Op::Request, 0), &[]);
    let connection = played.accepted.try_recv().expect("a connection");
    send(played, &header(Op::Data, 5), b"hello");
    let mut bytes = [0; 5];
    assert_eq!(connection.try_recv(&mut [IoSliceMut::new(&mut bytes)]).unwrap(), 5);
    assert_eq!(&bytes, b"hello");
    assert_eq!(connection.try_send(&[IoSlice::new(b"world")]).unwrap(), 5);
    connection
}

/// Why the VMM is no longer served.
fn refused(played: &mut Played) -> String {
    played.settle().unwrap_err().to_string()
}

#[test]
fn a_correct_vmm_is_served_with_and_without_event_idx() {
    for features in [PLAIN, EVENT_IDX] {
        let mut played = Played::new();
        played.set_up(features).unwrap();
        works(&mut played, 1);
        // Stopped and continued where it was.
        let base = played.device.lock().tx.next();
        played.vmm.ring(code::GET_VRING_BASE, 1, 0).unwrap();
        played.settle().unwrap();
        played.vmm.start(1, played.rings.size(), base).unwrap();
        works(&mut played, 2);
    }
}

#[test]
fn features_and_messages_that_were_not_offered_are_refused() {
    for (code, body, what) in [
        (code::SET_FEATURES, 1 << 26, "takes features that were not offered: 0x4000000"),
        (code::SET_FEATURES, 1_u64 << 63, "not offered"),
        (code::SET_PROTOCOL_FEATURES, 1 << 15, "SET_PROTOCOL_FEATURES takes features"),
        (code::ADD_MEM_REG, 0, "message 37, which this device does not offer"),
        (code::SET_LOG_BASE, 0, "message 6, which"),
        (code::GET_QUEUE_NUM, 0, "message 17, which"),
        (code::SET_VRING_ENABLE, 1 << 32, "SET_VRING_ENABLE without having taken"),
        (code::SET_VRING_NUM, 100 << 32, "100 is not the size of a queue"),
        (code::SET_VRING_NUM, 2048 << 32, "2048 is not"),
        (code::SET_VRING_NUM, 2 | 8 << 32, "is about queue 2"),
        (code::SET_VRING_KICK, 0, "came with 0 descriptors, not 1"),
    ] {
        let mut played = Played::new();
        played.vmm.say(code, &body.to_ne_bytes(), &[]).unwrap();
        let why = refused(&mut played);
        assert!(why.contains(what), "{why}");
    }
    // A message without its feature, and one with a descriptor it does not take.
    let mut played = Played::new();
    played.vmm.say(code::RESET_DEVICE, &[], &[]).unwrap();
    assert!(refused(&mut played).contains("RESET_DEVICE without having taken"));
    let mut played = Played::new();
    let fd = played.vmm.memory.as_fd();
    played.vmm.say(code::GET_FEATURES, &[], &[fd]).unwrap();
    assert!(refused(&mut played).contains("came with 1 descriptors, not 0"));
}

#[test]
fn memory_must_not_be_longer_than_its_files() {
    let mut played = set_up();
    let fd = played.vmm.memory.as_fd();
    // As a sparse file would have it, but this one is shorter.
    played.vmm.give_regions(&[(0, 1 << 40, USER, 0)], &[fd]).unwrap();
    assert!(refused(&mut played).contains("of a file that has 16777216"));
    // Anew and larger: the connections stay.
    let mut played = set_up();
    let _first = works(&mut played, 1);
    ftruncate(&played.vmm.memory, 32 << 20).unwrap();
    let fd = played.vmm.memory.as_fd();
    let (half, at) = (16 << 20, 1 << 32);
    let regions = [(at, half, USER + at, half), (0, half, USER, 0)];
    played.vmm.give_regions(&regions, &[fd, fd]).unwrap();
    let _second = works(&mut played, 2);
    assert_eq!(played.device.lock().flow.connections.open.len(), 2);
}

#[test]
fn a_ring_that_runs_is_not_changed() {
    let mut played = set_up();
    played.vmm.ring(code::SET_VRING_NUM, 1, 16).unwrap();
    assert!(refused(&mut played).contains("SET_VRING_NUM changes queue 1, which runs"));
    let mut played = set_up();
    played.vmm.ring(code::SET_VRING_BASE, 0, 7).unwrap();
    assert!(refused(&mut played).contains("SET_VRING_BASE changes queue 0, which runs"));
}

#[test]
fn a_kick_that_was_replaced_causes_no_event() {
    let mut played = set_up();
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    let new = || EventFd::from_flags(flags).unwrap();
    let olds = std::mem::replace(&mut played.vmm.kicks, [new(), new()]);
    for queue in 0..2 {
        let kick = played.vmm.kicks[queue].as_fd();
        played.vmm.event(code::SET_VRING_KICK, queue, kick).unwrap();
    }
    played.settle().unwrap();
    works(&mut played, 1);
    for old in &olds {
        old.write(1).unwrap();
        assert_eq!(played.vm.turn(EpollTimeout::ZERO).unwrap(), 0, "it is heard");
    }
    // The same for the kick of a ring that was stopped.
    played.vmm.ring(code::GET_VRING_BASE, 1, 0).unwrap();
    played.settle().unwrap();
    played.vmm.kick(1);
    assert_eq!(played.vm.turn(EpollTimeout::ZERO).unwrap(), 0);
}

#[test]
fn one_signal_is_one_event_whatever_is_given_as_a_kick() {
    let mut played = set_up();
    // A full semaphore: reading it to zero would take centuries.
    let flags = EfdFlags::EFD_SEMAPHORE | EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    let kick = EventFd::from_flags(flags).unwrap();
    kick.write(u64::MAX - 1).unwrap();
    played.vmm.event(code::SET_VRING_KICK, 1, kick.as_fd()).unwrap();
    assert!(played.settle().unwrap() < 10);
    let header = Driver::header(Op::Request, 0);
    assert!(played.rings.send(&header.bytes(), &[]));
    kick.read().unwrap();
    kick.write(1).unwrap();
    assert!(played.settle().unwrap() < 10);
    played.accepted.try_recv().unwrap();
}

#[test]
fn a_vm_that_only_kicks_is_slowed_down() {
    let mut played = set_up();
    let begun = Instant::now();
    for _ in 0..IDLE_KICKS + 100 {
        played.vmm.kick(1);
        played.vm.turn(EpollTimeout::ZERO).unwrap();
    }
    assert!(begun.elapsed() >= 100 * IDLE_PAUSE);
    works(&mut played, 1);
    assert_eq!(played.vm.idle_kicks, 0);
}

#[test]
fn descriptors_that_are_no_eventfd_or_would_block_do_not_block() {
    let mut played = set_up();
    let (half, other) = nix::unistd::pipe().unwrap();
    nix::unistd::write(&other, b"1234").unwrap();
    for (code, fd) in [(code::SET_VRING_KICK, half.as_fd()), (code::SET_VRING_CALL, other.as_fd())]
    {
        played.vmm.event(code, 0, fd).unwrap();
    }
    played.settle().unwrap();
    // A full eventfd, on which a write blocks.
    let call = EventFd::from_flags(EfdFlags::empty()).unwrap();
    call.write(u64::MAX - 1).unwrap();
    played.vmm.event(code::SET_VRING_CALL, 1, call.as_fd()).unwrap();
    let kick = played.vmm.kicks[0].as_fd();
    played.vmm.event(code::SET_VRING_KICK, 0, kick).unwrap();
    works(&mut played, 1);
}

#[test]
fn a_vm_that_was_broken_works_again_after_its_rings_were_stopped_or_the_device_was_reset() {
    for reset in [false, true] {
        let mut played = set_up();
        for port in 0..3 {
            works(&mut played, port);
            played.rings.give(1, 500);
            played.vmm.kick(1);
            played.settle().unwrap();
            assert!(!played.device.lock().tx.runs());
            if reset {
                played.vmm.say(code::RESET_DEVICE, &[], &[]).unwrap();
                played.vmm.say(code::SET_FEATURES, &PLAIN.to_ne_bytes(), &[]).unwrap();
            } else {
                played.vmm.ring(code::GET_VRING_BASE, 0, 0).unwrap();
                played.vmm.ring(code::GET_VRING_BASE, 1, 0).unwrap();
            }
            played.settle().unwrap();
            played.start_rings(PLAIN).unwrap();
            works(&mut played, 10 + port);
        }
    }
}

/// One ring is stopped already when the guest breaks the other.
#[test]
fn a_ring_that_was_stopped_is_not_broken_by_the_other() {
    let mut played = set_up();
    for port in 0..4 {
        let first = port % 2;
        played.vmm.ring(code::GET_VRING_BASE, first, 0).unwrap();
        played.rings.give(1, 500);
        played.vmm.kick(1);
        played.settle().unwrap();
        played.vmm.kick(0);
        played.vmm.ring(code::GET_VRING_BASE, 1 - first, 0).unwrap();
        played.settle().unwrap();
        played.start_rings(PLAIN).unwrap();
        works(&mut played, u32::try_from(port).unwrap());
    }
}

/// A VMM that has lost its guest's memory can send it again.
#[test]
fn memory_that_was_taken_away_can_be_sent_again() {
    let mut played = set_up();
    works(&mut played, 1);
    ftruncate(&played.vmm.memory, 0).unwrap();
    played.vmm.kick(1);
    played.vmm.kick(0);
    played.settle().unwrap();
    ftruncate(&played.vmm.memory, 16 << 20).unwrap();
    for queue in 0..2 {
        played.vmm.ring(code::GET_VRING_BASE, queue, 0).unwrap();
    }
    played.vmm.give_memory().unwrap();
    played.settle().unwrap();
    played.start_rings(PLAIN).unwrap();
    works(&mut played, 2);
}

/// The open descriptors, and whether each has O_CLOEXEC.
fn descriptors() -> Vec<(String, bool)> {
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    let number = |name: std::ffi::OsString| name.to_str().unwrap().parse::<i32>().ok();
    open.filter_map(|entry| number(entry.unwrap().file_name()))
        .filter_map(|fd| {
            let file = File::open(format!("/proc/self/fdinfo/{fd}")).ok()?;
            let info = io::read_to_string(file).ok()?;
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
            let flags = i32::from_str_radix(flags.trim(), 8).ok()?;
            let name = std::fs::read_link(format!("/proc/self/fd/{fd}")).ok()?;
            let closed = OFlag::from_bits_retain(flags).contains(OFlag::O_CLOEXEC);
            Some((format!("{fd} {}", name.display()), closed))
        })
        .collect()
}

/// Runs in a child process, which opens nothing else meanwhile.
/// The descriptors once those of the last VM are closed. Another thread closes copies of them.
fn descriptors_without_a_vm() -> Vec<(String, bool)> {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let open = descriptors();
        let is_a_vms = |name: &str| name.contains("memfd:guest") || name.contains("[eventfd]");
        if !open.iter().any(|(name, _)| is_a_vms(name)) {
            return open;
        }
        assert!(Instant::now() < end, "{open:?}");
        thread::yield_now();
    }
}

#[test]
fn nothing_is_left_of_a_vm_and_all_of_it_is_closed_on_exec() {
    const CHILD: &str = "VSOCK_DEVICE_TEST_OF_DESCRIPTORS";
    if std::env::var_os(CHILD).is_none() {
        let name = "vm::tests::nothing_is_left_of_a_vm_and_all_of_it_is_closed_on_exec";
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        let output = child.args(["--exact", name, "--nocapture"]).env(CHILD, "").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    // Descriptors that the process keeps are open already.
    drop(set_up());
    let before = descriptors_without_a_vm();
    let mut played = set_up();
    works(&mut played, 1);
    let during = descriptors();
    assert!(during.len() > before.len() + 10);
    let inherited: Vec<_> = during.iter().filter(|one| !one.1 && !before.contains(one)).collect();
    assert!(inherited.is_empty(), "a child would have {inherited:?}");
    drop(played);
    for _ in 0..50 {
        assert_eq!(descriptors_without_a_vm().len(), before.len());
        drop(set_up());
    }
}

#[test]
fn a_vmm_that_does_not_read_its_replies_is_served_again_once_it_does() {
    let mut played = set_up();
    for _ in 0..1_000_000 {
        if played.vmm.say(code::GET_FEATURES, &[], &[]).is_err() {
            break;
        }
        played.vm.turn(EpollTimeout::ZERO).unwrap();
    }
    assert_eq!(played.vm.turn(EpollTimeout::ZERO).unwrap(), 0, "it waits, and uses no processor");
    while played.settle().unwrap() > 1 {}
    works(&mut played, 1);
}

proptest! {
    #[test]
    fn no_conversation_causes_a_panic_or_a_busy_loop(input in vec(any::<u8>(), 0..1000)) {
        play(&input);
    }
}
