//! Malicious VMMs and guests, while others use their disks.

use std::{
    fs, io,
    os::fd::AsFd,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::sys::memfd::{MFdFlags, memfd_create};
use vsock_device::testing::{
    guest::{Guest, QUEUE},
    nbd::{self, PORT, READ},
    rings::{INDIRECT, RX, TX, WRITE},
    vmm::{EVENT_IDX, USER, Vmm, code},
};

use super::served::{ONE, agent, boot, reads};
use support::agent::Agent;

/// A message that a VMM sends.
type Says = Box<dyn Fn(&Vmm) -> io::Result<()>>;

/// How long other clients may wait in nine of ten cases. Other tests run at the same time.
const SHORT: Duration = Duration::from_millis(50);
/// How long they may wait at most.
const LONG: Duration = Duration::from_secs(2);

/// Reads from a second VM while `harm` runs in a loop on its own thread. Every reply has to arrive soon.
fn is_not_delayed(agent: &Agent, mut harm: impl FnMut() + Send) {
    let mut other = boot(agent, "two");
    let own = nbd::open(&mut other).unwrap();
    let over = AtomicBool::new(false);
    let mut waits = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                harm();
            }
        });
        let begun = Instant::now();
        while waits.len() < 200 && begun.elapsed() < 2 * LONG {
            let begun = Instant::now();
            other.send(own, &nbd::request(READ, 0, 4096));
            let came = other.take(own, 16 + 4096);
            waits.push(begun.elapsed());
            if came.is_err() {
                break;
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    waits.sort();
    let (most, worst) = (waits[waits.len() * 9 / 10], waits[waits.len() - 1]);
    assert!(most < SHORT && worst < LONG, "nine of ten within {most:?}, the last {worst:?}");
}

#[test]
fn buffers_of_a_thousand_descriptors_for_one_byte_delay_no_other_vm() {
    const SIZE: u16 = 1024;
    const TABLE: u64 = 0x60_0000;
    let agent = agent();
    let vmm = Vmm::connect(&agent.path(ONE)).unwrap();
    let mut guest = Guest::boot_with(vmm, 3, SIZE, u32::MAX).unwrap();
    let sockets: Vec<_> = (0..4).map(|_| nbd::open(&mut guest).unwrap()).collect();
    let mut chain = vec![(TABLE + 0x1_0000, 0, WRITE); SIZE.into()];
    (chain[0].1, chain[usize::from(SIZE) - 1].1) = (44, 1);
    guest.rings.write_table(TABLE, 0, &chain);
    for own in sockets {
        guest.send(own, &nbd::request(READ, 0, 8 << 20).repeat(2));
    }
    is_not_delayed(&agent, || {
        // Each buffer that returns is queued again, in the worst possible form.
        while let Some((head, _)) = guest.rings.take(RX) {
            guest.rings.put(RX, head, &[(TABLE, 16 * u32::from(SIZE), INDIRECT)]);
        }
        guest.vmm.kick(RX);
    });
}

#[test]
fn a_table_longer_than_the_queue_ends_that_guests_connections_and_a_reboot_helps() {
    const TABLE: u64 = 0x60_0000;
    let agent = agent();
    let mut guest = boot(&agent, ONE);
    let _open = nbd::open(&mut guest).unwrap();
    let chain = vec![(TABLE - 64, 1, 0); u16::MAX.into()];
    guest.rings.write_table(TABLE, 0, &chain[..=usize::from(QUEUE)]);
    guest.rings.put(TX, 0, &[(TABLE, 16 * u32::from(u16::MAX), INDIRECT)]);
    guest.vmm.kick(TX);
    let lines = agent.wait_for_line("breaks the rules of the vsock device");
    let path = format!("vhost-user:{}: ", agent.path(ONE).display());
    assert!(lines.last().unwrap().contains(&path), "{lines:#?}");
    reads(&mut boot(&agent, "two"));
    for _ in 0..2 {
        guest.reboot().unwrap();
        reads(&mut guest);
    }
}

#[test]
fn memory_that_no_machine_has_and_unadvertised_requests_are_refused() {
    let agent = agent();
    let path = agent.path(ONE);
    let sparse = memfd_create(c"guest", MFdFlags::MFD_CLOEXEC).unwrap();
    nix::unistd::ftruncate(&sparse, 1 << 46).unwrap();
    let regions = |regions: &'static [(u64, u64, u64, u64)]| -> Says {
        let sparse = sparse.try_clone().unwrap();
        Box::new(move |vmm| vmm.give_regions(regions, &vec![sparse.as_fd(); regions.len()]))
    };
    let says: [(Says, &str); 5] = [
        (regions(&[(0, 1 << 46, USER, 0)]), "more than one VM may have here"),
        (
            regions(&[(0, 1 << 45, USER, 0), (1 << 45, 1 << 45, 1 << 45, 1 << 45)]),
            "more than one VM may have here",
        ),
        (regions(&[(0, 4096, USER, 1 << 46)]), "of a file that has 70368744177664"),
        (
            Box::new(|vmm| vmm.say(code::ADD_MEM_REG, &[0; 40], &[vmm.memory.as_fd()])),
            "message 37, which this device does not offer",
        ),
        (
            Box::new(|vmm| vmm.say(code::SET_PROTOCOL_FEATURES, &(1_u64 << 15).to_ne_bytes(), &[])),
            "SET_PROTOCOL_FEATURES takes features that were not offered: 0x8000",
        ),
    ];
    for (says, what) in says {
        let vmm = Vmm::connect(&path).unwrap();
        vmm.greet(EVENT_IDX).unwrap();
        says(&vmm).unwrap();
        let lines = agent.wait_for_line(what);
        let named = format!("vhost-user:{}: the VMM", path.display());
        assert!(lines.last().unwrap().contains(&named), "{lines:#?}");
    }
    reads(&mut boot(&agent, ONE));
}

/// How many of the agent's threads are running or runnable now.
fn busy(agent: &Agent) -> usize {
    let tasks = fs::read_dir(format!("/proc/{}/task", agent.id())).unwrap();
    let state = |task: &fs::DirEntry| {
        let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next().map(str::to_owned))
    };
    tasks.filter(|task| state(task.as_ref().unwrap()).as_deref() == Some("R")).count()
}

#[test]
fn kicks_that_were_replaced_or_never_end_use_no_processor() {
    let agent = agent();
    let mut guest = boot(&agent, ONE);
    reads(&mut guest);
    let event = |flags| nix::sys::eventfd::EventFd::from_flags(flags).unwrap();
    let flags = nix::sys::eventfd::EfdFlags::EFD_NONBLOCK;
    let semaphore = flags | nix::sys::eventfd::EfdFlags::EFD_SEMAPHORE;
    let old = std::mem::replace(&mut guest.vmm.kicks, [event(flags), event(semaphore)]);
    guest.vmm.kicks[TX].write(u64::MAX / 2).unwrap();
    for queue in [RX, TX] {
        let kick = guest.vmm.kicks[queue].as_fd();
        guest.vmm.event(code::SET_VRING_KICK, queue, kick).unwrap();
    }
    guest.vmm.settle().unwrap();
    for kick in &old {
        kick.write(1).unwrap();
    }
    thread::sleep(Duration::from_millis(200));
    let looks = 50;
    let found = (0..looks).filter(|_| {
        thread::sleep(Duration::from_millis(5));
        busy(&agent) > 0
    });
    let found = found.count();
    assert!(found < looks / 5, "some thread wants a processor, {found} times of {looks}");
    // The agent listens to the new kick descriptors.
    reads(&mut guest);
}

#[test]
fn no_vmm_and_no_guest_fills_the_log() {
    let agent = agent();
    let path = agent.path(ONE);
    let begun = Instant::now();
    // Call descriptors that are not eventfds.
    let vmm = Vmm::connect(&path).unwrap();
    vmm.greet(EVENT_IDX).unwrap();
    for _ in 0..2000 {
        vmm.event(code::SET_VRING_CALL, 0, vmm.memory.as_fd()).unwrap();
    }
    vmm.settle().unwrap();
    drop(vmm);
    // VMMs that come and go, as many as can wait there.
    for _ in 0..40 {
        drop(Vmm::connect(&path).unwrap());
    }
    // A guest that connects and resets.
    let mut guest = boot(&agent, "two");
    for _ in 0..3000 {
        let own = guest.connect(PORT).unwrap();
        guest.reset(own);
    }
    // The sessions of the last connections have ended then.
    let own = nbd::open(&mut guest).unwrap();
    guest.send(own, &nbd::request(2, 0, 0));
    drop(guest);
    let lines = agent.wait_for_line("lines about this VM were left out");
    let mut of_vmms = lines.iter().filter(|line| line.contains("vhost-user:")).collect::<Vec<_>>();
    let seconds = usize::try_from(begun.elapsed().as_secs()).unwrap();
    // 30 at once and one per second, for two paths.
    assert!(of_vmms.len() <= 2 * (30 + seconds) + 4, "{} lines", of_vmms.len());
    of_vmms.retain(|line| !line.contains(&format!("{}/", agent.dir.path().display())));
    assert!(of_vmms.is_empty(), "without a path: {of_vmms:#?}");
    assert!(lines.len() < 600 + 40 * seconds, "{} lines in {seconds} s", lines.len());
}

#[test]
fn a_guest_that_breaks_its_device_in_a_loop_delays_no_other_vm() {
    let agent = agent();
    let mut guest = boot(&agent, ONE);
    is_not_delayed(&agent, || {
        guest.rings.give(TX, 5000);
        guest.vmm.kick(TX);
        guest.reboot().unwrap();
    });
    reads(&mut guest);
}

#[test]
fn a_guest_that_connects_and_resets_in_a_loop_delays_no_other_vm() {
    let agent = agent();
    let mut guest = boot(&agent, ONE);
    is_not_delayed(&agent, || {
        for _ in 0..50 {
            if let Ok(own) = guest.connect(PORT) {
                guest.reset(own);
            }
        }
    });
    reads(&mut guest);
}

#[test]
fn a_vmm_that_kicks_in_a_loop_delays_no_other_vm() {
    let agent = agent();
    let mut guest = boot(&agent, ONE);
    is_not_delayed(&agent, || {
        for _ in 0..1000 {
            guest.vmm.kick(RX);
            guest.vmm.kick(TX);
        }
    });
    reads(&mut guest);
}

#[test]
fn a_vmm_that_replaces_its_memory_in_a_loop_delays_no_other_vm() {
    let agent = agent();
    let guest = boot(&agent, ONE);
    is_not_delayed(&agent, || {
        for _ in 0..16 {
            guest.vmm.give_memory().unwrap();
        }
        guest.vmm.settle().unwrap();
    });
}
