//! Relays that are killed, and others that go on with their device, as the ublk driver lets them. What the
//! dead one was answered and had not flushed, it has taken with it.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use support::{
    faulty::{Kind, SIZE, Server},
    random::Random,
};
use tempfile::TempDir;

use crate::{
    EIO, flush,
    kernel::{Asked, FUA, Kernel, READ, TRIM, WRITE, ZERO},
    next, read, write,
};

/// A server, and where its relays leave word to each other.
struct Machine {
    server: Server,
    dir: TempDir,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        Self { server: Server::start(Kind::KNOWN), dir }
    }

    fn facts(&self) -> PathBuf {
        self.dir.path().join("facts.json")
    }

    fn attach(&self, words: &[&str]) -> Kernel {
        let facts = format!("--kernel-facts={}", self.facts().display());
        Kernel::attach(&self.server.uri, 1, &[words, &[&facts]].concat())
    }

    /// Another relay, with what the one before has left unanswered.
    fn take_over(&self, before: &mut Kernel, words: &[&str]) -> Kernel {
        before.kill();
        let mut kernel = self.attach(words);
        kernel.ask_again(before);
        kernel
    }
}

fn does(kernel: &mut Kernel, asked: Asked) {
    kernel.ask(asked);
    assert_eq!(kernel.answer().1, 0);
}

const BEFORE: u8 = 7;
const AFTER: u8 = 8;

/// The next relay makes durable what only the server has, before anybody asks for it.
#[test]
fn what_a_dead_relay_was_answered_is_flushed_by_the_next() {
    let machine = Machine::new();
    let mut first = machine.attach(&[]);
    does(&mut first, write(0, vec![BEFORE; 512], 0));
    let mut second = machine.take_over(&mut first, &[]);
    // A write: nothing that the kernel asks for is a flush.
    does(&mut second, write(512, vec![AFTER; 512], 0));
    assert_eq!(machine.server.durable()[..512], [BEFORE; 512]);
    machine.server.restart();
    does(&mut second, flush());
    does(&mut second, read(0, &[BEFORE; 512]));
    assert_eq!(machine.server.durable()[..1024], [[BEFORE; 512], [AFTER; 512]].concat());
    second.disconnect();
    assert!(!machine.facts().exists());
}

/// If that cannot be done, another run of the server is another disk: no flush succeeds on it, and nothing
/// is read from it.
#[test]
fn a_server_that_has_lost_what_a_dead_relay_was_answered_is_refused() {
    let machine = Machine::new();
    let mut first = machine.attach(&[]);
    does(&mut first, write(0, vec![BEFORE; 512], 0));
    machine.server.fails_flushes(1);
    let mut second = machine.take_over(&mut first, &["--dead-timeout=500ms"]);
    second.says("a flush failed");
    machine.server.restart();
    for asked in [flush(), read(0, &[BEFORE; 512]), write(0, vec![AFTER; 512], FUA), flush()] {
        second.ask(asked);
        assert_eq!(second.answer().1, EIO);
    }
    second.says("started anew before it had flushed");
    // And neither is it taken over once more.
    second.kill();
    let said = machine.attach(&[]).fails();
    assert!(said.contains("was started anew while no relay was there"), "{said}");
    assert_eq!(machine.server.durable()[..512], [0; 512]);
}

/// After a flush nothing can be lost, so another run of the server is the same disk.
#[test]
fn a_dead_relay_that_had_flushed_leaves_its_device_to_any_run_of_the_server() {
    let machine = Machine::new();
    let mut first = machine.attach(&[]);
    does(&mut first, write(0, vec![BEFORE; 512], 0));
    does(&mut first, flush());
    machine.server.restart();
    let mut second = machine.take_over(&mut first, &[]);
    does(&mut second, read(0, &[BEFORE; 512]));
    // One more change, and the next run of the server is refused again.
    does(&mut second, write(0, vec![AFTER; 512], 0));
    second.kill();
    machine.server.restart();
    let said = machine.attach(&[]).fails();
    assert!(said.contains("was started anew while no relay was there"), "{said}");
}

/// The kernel asks for no flush of ours, and is told when one fails: what the server has lost by it, the next
/// flush would not tell.
#[test]
fn a_flush_of_our_own_that_fails_is_told_by_the_next_one_of_the_kernel() {
    let machine = Machine::new();
    // By a take-over.
    let mut first = machine.attach(&[]);
    does(&mut first, write(0, vec![BEFORE; 512], 0));
    machine.server.fails_flushes(1);
    let mut second = machine.take_over(&mut first, &["--keep=64k"]);
    second.says("a flush failed");
    second.ask(flush());
    assert_eq!(second.answer().1, EIO);
    does(&mut second, flush());
    // Also by the relay after that one.
    does(&mut second, write(0, vec![BEFORE; 512], 0));
    machine.server.fails_flushes(1);
    let mut third = machine.take_over(&mut second, &["--keep=64k"]);
    third.says("a flush failed");
    let mut second = machine.take_over(&mut third, &["--keep=64k"]);
    second.ask(flush());
    assert_eq!(second.answer().1, EIO);
    does(&mut second, flush());
    // And where more is kept than there is room for.
    machine.server.fails_flushes(1);
    for n in 0..3 {
        does(&mut second, write(n * (32 << 10), vec![BEFORE; 32 << 10], 0));
    }
    second.says("a flush failed");
    second.ask(flush());
    assert_eq!(second.answer().1, EIO);
    does(&mut second, flush());
    second.disconnect();
}

/// How one run of changes ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// With success, after so many of what may go wrong.
    Well(usize),
    /// A request has failed: the kernel knows.
    Told,
    /// No relay goes on with the device.
    Refused,
}

/// Changes, flushes, and at random a relay that is killed, a server that starts anew, or both at once, or
/// loses data by a flush that fails. After each flush that succeeds, all that was answered is durable.
fn changes(seed: u64) -> Ended {
    let machine = Machine::new();
    let words = ["--keep=64k", "--dead-timeout=400ms"];
    let mut random = Random::new(seed);
    let mut disk = vec![0; SIZE];
    let mut kernel = machine.attach(&words);
    assert!(kernel.is_ready());
    let mut events = 0;
    for _ in 0..12 {
        for turn in 0..20 {
            let event = random.index(160);
            // What ends a run sooner or later is not in each.
            let ends = seed % 3;
            events += usize::from(event < 7);
            match event {
                0..=2 | 7 if event != 7 || ends == 1 => {
                    kernel.kill();
                    if event == 7 {
                        machine.server.restart();
                    }
                    let mut other = machine.attach(&words);
                    if !other.is_ready() {
                        return Ended::Refused;
                    }
                    other.ask_again(&kernel);
                    kernel = other;
                }
                3..=6 => machine.server.restart(),
                8 if ends == 2 => machine.server.fails_flushes(1),
                _ => {}
            }
            let asked = next(&mut random, &kernel, &disk);
            // What a failed flush has lost may be read before it is told.
            if asked.command != READ {
                kernel.ask(asked);
            }
            let most = if turn < 19 { 4 } else { 0 };
            while kernel.under_way.len() > most {
                let (asked, error) = kernel.answer();
                if error != 0 {
                    return Ended::Told;
                }
                let place = &mut disk[asked.at..asked.at + asked.len];
                match asked.command {
                    WRITE => place.copy_from_slice(&asked.bytes),
                    TRIM | ZERO => place.fill(0),
                    _ => {}
                }
            }
        }
        kernel.ask(flush());
        if kernel.answer().1 != 0 {
            return Ended::Told;
        }
        let durable = machine.server.durable();
        if durable != disk {
            let wrong = (0..SIZE).find(|&at| durable[at] != disk[at]);
            panic!("seed {seed}, after {events} events: the first lost byte is {wrong:?}");
        }
    }
    Ended::Well(events)
}

#[test]
fn whoever_dies_no_flush_succeeds_over_a_loss() {
    // Mostly they wait.
    let next = AtomicU64::new(1);
    let some = || {
        let seeds = std::iter::from_fn(|| Some(next.fetch_add(1, Ordering::Relaxed)));
        seeds.take_while(|seed| *seed <= 32).map(changes).collect::<Vec<_>>()
    };
    let ended: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(some)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no loss")).collect()
    });
    let count = |is: fn(&Ended) -> bool| ended.iter().filter(|ended| is(ended)).count();
    println!("{ended:?}");
    // Each of them is seen.
    assert!(count(|ended| matches!(ended, Ended::Well(3..))) > 3, "{ended:?}");
    assert!(count(|ended| *ended == Ended::Told) > 3, "{ended:?}");
    assert!(count(|ended| *ended == Ended::Refused) > 3, "{ended:?}");
}
