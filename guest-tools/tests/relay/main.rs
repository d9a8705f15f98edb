//! `attach` without a kernel: a played one at one end of the relay, and at the other a server that crashes
//! and loses whatever it has not made durable, or answers what is no answer. The kernel itself is in tests/tests/guest_attach.rs.

mod kernel;
mod takeover;

use kernel::{Asked, FLUSH, FUA, Kernel, READ, TRIM, WRITE, ZERO};
use support::{
    faulty::{Kind, SIZE, Server},
    random::Random,
};

const EIO: u32 = 5;

fn write(at: usize, bytes: Vec<u8>, flags: u16) -> Asked {
    Asked { command: WRITE, flags, at, len: bytes.len(), bytes }
}

fn read(at: usize, due: &[u8]) -> Asked {
    Asked { command: READ, flags: 0, at, len: due.len(), bytes: due.to_vec() }
}

fn flush() -> Asked {
    Asked { command: FLUSH, flags: 0, at: 0, len: 0, bytes: Vec::new() }
}

/// A request that touches nothing that is under way.
fn next(random: &mut Random, kernel: &Kernel, disk: &[u8]) -> Asked {
    loop {
        if random.index(20) == 0 {
            return flush();
        }
        let longest = if random.index(8) == 0 { 300 } else { 16 };
        let len = 512 * (1 + random.index(longest));
        // In a part of the disk, so that much is changed more than once.
        let at = 512 * random.index((SIZE / 4 - len) / 512);
        let mut others = kernel.under_way.values();
        if others.any(|other| other.at < at + len && at < other.at + other.len) {
            continue;
        }
        let flags = if random.index(6) == 0 { FUA } else { 0 };
        let fill = u8::try_from(1 + random.index(255)).expect("a byte");
        return match random.index(10) {
            0..=2 => read(at, &disk[at..at + len]),
            3 => Asked { command: ZERO, flags, at, len, bytes: Vec::new() },
            4 => Asked { command: TRIM, flags, at, len, bytes: Vec::new() },
            _ => {
                let mut bytes = vec![fill; len];
                for (sector, n) in bytes.chunks_mut(512).zip((0_u8..=255).cycle()) {
                    sector.fill(fill.wrapping_add(n));
                }
                write(at, bytes, flags)
            }
        };
    }
}

/// Random requests while the server crashes at each `lifetime`-th, which must be enough for it to do
/// again what it lost; no answer is an error, every read is
/// right, and in the end everything that was acknowledged is durable.
fn nothing_is_lost(lifetime: u64, lanes: usize, depth: usize, words: &[&str]) {
    let server = Server::start(Kind::PLAIN);
    let mut kernel = Kernel::attach(&server.uri, lanes, words);
    let mut random = Random::new(lifetime);
    let mut disk = vec![0; SIZE];
    let turns = 4000;
    for turn in 0..turns + depth {
        if turn == 50 {
            server.lives_for(Some(lifetime));
        }
        if turn < turns {
            let asked = next(&mut random, &kernel, &disk);
            kernel.ask(asked);
        }
        if kernel.under_way.len() >= depth || turn >= turns && !kernel.under_way.is_empty() {
            let (asked, error) = kernel.answer();
            assert_eq!(error, 0, "command {} at {}", asked.command, asked.at);
            let place = &mut disk[asked.at..asked.at + asked.len];
            match asked.command {
                WRITE => place.copy_from_slice(&asked.bytes),
                ZERO | TRIM => place.fill(0),
                _ => {}
            }
        }
    }
    server.lives_for(None);
    kernel.ask(flush());
    assert_eq!(kernel.answer().1, 0);
    let durable = server.durable();
    let wrong = (0..SIZE).find(|&at| durable[at] != disk[at]);
    assert_eq!(wrong, None, "the first byte that was acknowledged and lost");
    println!("{} crashes", server.crashes());
    assert!(server.crashes() > 20);
    kernel.disconnect();
}

#[test]
fn nothing_is_lost_by_a_server_that_crashes_all_the_time() {
    nothing_is_lost(97, 1, 8, &[]);
}

#[test]
fn nothing_is_lost_over_several_connections() {
    nothing_is_lost(151, 3, 24, &[]);
}

#[test]
fn nothing_is_lost_when_little_is_kept() {
    nothing_is_lost(101, 2, 16, &["--keep=64k"]);
}

#[test]
fn another_disk_is_not_used_and_requests_fail_when_they_waited_long_enough() {
    let server = Server::start(Kind::PLAIN);
    let mut kernel = Kernel::attach(&server.uri, 2, &["--dead-timeout=300ms"]);
    kernel.ask(write(0, vec![7; 512], FUA));
    assert_eq!(kernel.answer().1, 0);
    server.crash_and_be(SIZE / 2);
    // Twice: what comes after the timeout does not wait once more.
    for _ in 0..2 {
        kernel.ask(read(0, &[7; 512]));
        assert_eq!(kernel.answer().1, EIO);
    }
    kernel.says("its size was 2097152 bytes and is 1048576");
    server.crash_and_be(SIZE);
    kernel.says("connected again");
    kernel.ask(read(0, &[7; 512]));
    assert_eq!(kernel.answer().1, 0);
    kernel.disconnect();
}

#[test]
fn a_server_that_falls_silent_is_left_at_the_dead_timeout() {
    let server = Server::start(Kind::PLAIN);
    let mut kernel = Kernel::attach(&server.uri, 1, &["--dead-timeout=300ms"]);
    kernel.ask(write(512, vec![9; 512], 0));
    assert_eq!(kernel.answer().1, 0);
    server.is_silent(true);
    kernel.ask(read(512, &[9; 512]));
    assert_eq!(kernel.answer().1, EIO);
    kernel.says("no answer in 0.3 s");
    server.is_silent(false);
    server.crash_and_be(SIZE);
    kernel.says("connected again");
    // The crash took what was not durable, and it was written again.
    kernel.ask(read(512, &[9; 512]));
    assert_eq!(kernel.answer().1, 0);
    kernel.disconnect();
}

/// The server answers other requests all the time, on the same connection or on another one.
#[test]
fn a_request_that_is_never_answered_beside_others_ends_at_the_dead_timeout() {
    for lanes in [1, 2] {
        let server = Server::start(Kind::PLAIN);
        let mut kernel = Kernel::attach(&server.uri, lanes, &["--dead-timeout=300ms"]);
        server.never_answers_a_read_at(Some(512));
        kernel.ask(read(512, &[0; 512]));
        loop {
            kernel.ask(read(4096, &[0; 512]));
            if kernel.answer().1 != 0 {
                break;
            }
        }
        kernel.says("no answer in 0.3 s");
        server.never_answers_a_read_at(None);
        while !kernel.under_way.is_empty() {
            kernel.answer();
        }
        kernel.says("connected again");
        kernel.ask(read(512, &[0; 512]));
        assert_eq!(kernel.answer().1, 0);
        kernel.disconnect();
    }
}
