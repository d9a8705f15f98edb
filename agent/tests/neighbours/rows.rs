//! Cases that occurred before tenants were charged for their memory and their work.

use std::{
    fs,
    io::{self, Write},
    net::TcpStream,
    os::unix::{fs::FileExt, net::UnixDatagram},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use support::{
    client::Client,
    wire::{
        NO_HOLE, OPT_EXTENDED, OPT_GO, OPT_STRUCTURED, READ, TRIM, WRITE, ZERO, extended, request,
        request_with,
    },
};
use tempfile::TempDir;

use crate::{
    BINARY,
    host::{CONNECTION_MIB, Host, drain},
    load::{bounds, slowness},
    quiet::{Errors, Quiet},
    work::AFTER,
};

/// How long to wait for a client that is no longer read from.
const STILL: Duration = Duration::from_millis(500);
/// How long the quiet tenant measures.
const LOOK: Duration = Duration::from_millis(700);

/// Sends `bytes` repeatedly until the agent accepts no more, and returns how much it accepted. It must
/// stop.
fn send_until_stuck(stream: &mut TcpStream, bytes: &[u8], most: u64) -> u64 {
    let patience = STILL.mul_f64(slowness());
    stream.set_write_timeout(Some(patience)).expect("a timeout");
    let mut sent = 0;
    loop {
        let mut rest = bytes;
        while !rest.is_empty() {
            match stream.write(rest) {
                Ok(n) => {
                    rest = &rest[n..];
                    sent += n as u64;
                    assert!(
                        sent <= most,
                        "the agent read {sent} bytes of a client that never reads"
                    );
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return sent,
                Err(error) => panic!("after {sent} bytes: {error}"),
            }
        }
    }
}

fn assert_undisturbed(host: &Host, export: &'static str) {
    let mut quiet = Quiet::new(export, Errors::None);
    let before = slowness();
    quiet.measure(host, LOOK);
    quiet.assert_within(bounds(before.max(slowness()), Duration::ZERO));
}

#[test]
fn a_read_and_a_write_of_the_same_page_hold_no_page_for_each_pair() {
    let host = Host::start(&["memory", "64K"]);
    let mut client = host.open_noisy();
    let write = [&request(WRITE, 2, 0, 1)[..], &[3]].concat();
    let pair = [&request(READ, 1, 0, 1)[..], &write].concat();
    // Before: 6 GiB after 14.8 MB.
    let sent = send_until_stuck(&mut client.stream, &pair.repeat(1000), 256 << 20);
    println!("{sent} bytes sent, peak {} MiB", host.peak_mib());
    host.assert_peak(CONNECTION_MIB);
    assert_undisturbed(&host, "");
    assert!(drain(&mut client, STILL) > sent / 4, "the replies are there");
}

#[test]
fn a_read_of_zeroes_and_one_byte_holds_what_its_reply_keeps() {
    let dir = TempDir::new().expect("a directory");
    let path = dir.path().join("disk");
    let file = fs::File::create(&path).expect("a file");
    file.set_len(1 << 20).expect("a size");
    // Data, not a hole: only the last byte is not zero.
    file.write_all_at(&vec![0; (1 << 20) - 1], 0).expect("data");
    file.write_all_at(&[1], (1 << 20) - 1).expect("data");
    let host = Host::start(&["file", path.to_str().expect("UTF-8")]);
    let mut client = host.connect_noisy();
    client.greet();
    client.option(OPT_STRUCTURED, &[]);
    assert_eq!(client.option_reply().0, 1);
    client.go("");
    // Before: 6 GiB after 420 kB.
    let reads = request(READ, 1, 0, 1 << 20).repeat(100);
    let sent = send_until_stuck(&mut client.stream, &reads, 64 << 20);
    println!("{sent} bytes sent, peak {} MiB", host.peak_mib());
    host.assert_peak(CONNECTION_MIB);
    assert_undisturbed(&host, "");
}

#[test]
fn sixty_writes_that_lack_their_last_byte_have_the_budget_of_their_tenant() {
    const LEN: usize = 64 << 20;
    let host = Host::start(&["null", "1G"]);
    let payload = vec![7; 1 << 20];
    let mut clients: Vec<_> = (0..60)
        .map(|_| {
            let mut client = host.open_noisy();
            client.request(WRITE, 1, 0, u32::try_from(LEN).expect("64 MiB"));
            client.stream.set_nonblocking(true).expect("a socket");
            (client, LEN - 1)
        })
        .collect();
    let still = STILL.mul_f64(slowness());
    let mut moved = Instant::now();
    while moved.elapsed() < still {
        for (client, rest) in &mut clients {
            match client.stream.write(&payload[..payload.len().min(*rest)]) {
                Ok(0) => {}
                Ok(n) => {
                    *rest -= n;
                    moved = Instant::now();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
        }
        thread::sleep(Duration::from_millis(1));
    }
    let whole = clients.iter().filter(|(_, rest)| *rest == 0).count();
    println!("{whole} payloads lack a byte, peak {} MiB", host.peak_mib());
    assert!(whole >= 1, "the budget is used");
    host.assert_memory(0, 0);
    assert_undisturbed(&host, "");
    // The memory of the first ones is then free for the others.
    clients.retain(|(_, rest)| *rest > 0);
    drop(clients);
    host.assert_quiet(AFTER.mul_f64(slowness()));
}

#[test]
fn thousands_of_zeroes_in_one_send_delay_nobody_and_the_watchdog_is_told_all_the_time() {
    const WATCHDOG: Duration = Duration::from_secs(1);
    let mut command = Command::new(BINARY);
    command.env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
    let (host, manager) = Host::start_watched(command, &["memory", "64M"]);
    manager.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
    let zeroes = request_with(NO_HOLE, ZERO, 1, 0, 64 << 20).repeat(9300);
    let clients: Vec<_> = (0..2)
        .map(|_| {
            let mut client = host.open_noisy();
            client.stream.set_write_timeout(Some(STILL)).expect("a timeout");
            // The agent accepts as much of it as it has room for.
            client.stream.write_all(&zeroes).ok();
            client
        })
        .collect();
    let stop = AtomicBool::new(false);
    let silence = thread::scope(|scope| {
        let silence = scope.spawn(|| longest_silence(&manager, &stop));
        assert_undisturbed(&host, "");
        thread::sleep(WATCHDOG);
        stop.store(true, Ordering::Relaxed);
        silence.join().expect("the watchdog")
    });
    println!("the watchdog was told nothing for {silence:?}");
    assert!(silence < WATCHDOG.mul_f64(slowness()), "nothing for {silence:?}");
    drop(clients);
    host.assert_quiet(AFTER.mul_f64(slowness()));
}

/// The longest time without a WATCHDOG=1, until `stop`.
fn longest_silence(manager: &UnixDatagram, stop: &AtomicBool) -> Duration {
    let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
    let mut bytes = [0; 256];
    while !stop.load(Ordering::Relaxed) {
        let told = manager.recv(&mut bytes).is_ok_and(|n| bytes[..n].starts_with(b"WATCHDOG=1"));
        longest = longest.max(last.elapsed());
        if told {
            last = Instant::now();
        }
    }
    longest
}

#[test]
fn trims_that_would_take_for_ever_end_with_their_clients() {
    let words = ["--filter=protect", "null", "4611686018427387904", "protect=4096-"];
    let host = Host::start(&words);
    let trims: Vec<u8> =
        (0..160u64).flat_map(|cookie| extended(0, TRIM, cookie, 4096, 1 << 61)).collect();
    let clients: Vec<_> = (0..10)
        .map(|_| {
            let mut client = host.connect_noisy();
            client.greet();
            client.option(OPT_EXTENDED, &[]);
            assert_eq!(client.option_reply().0, 1);
            client.go("");
            client.send(&trims[..trims.len() / 10]);
            client
        })
        .collect();
    let mut other = host.agent.open();
    let start = Instant::now();
    trim(&mut other, 1 << 20);
    let took = start.elapsed();
    let bounds = bounds(slowness(), Duration::ZERO);
    assert!(took <= bounds.worst, "another client's trim took {took:?}");
    println!("another client's trim took {took:.1?}");
    let threads = host.agent.status("Threads");
    assert!(threads <= crate::host::THREADS, "{threads} threads");
    drop(clients);
    host.assert_quiet(AFTER.mul_f64(slowness()));
    trim(&mut other, 1 << 20);
}

/// A trim of a protected range is allowed where the disk has zeroes already.
fn trim(client: &mut Client, len: u32) {
    client.request(TRIM, 5, 4096, len);
    assert_eq!(client.reply(), (0, 5));
}

#[test]
fn clients_that_wait_for_a_filesystem_delay_no_other_export() {
    let dir = TempDir::new().expect("a directory");
    let words = format!("dir={}", dir.path().display());
    let host =
        Host::start(&["ondemand", "4M", &words, "wait=true", "command=truncate -s 4M \"$disk\""]);
    let mut first = host.connect_noisy();
    first.negotiate_export("taken");
    let waiting: Vec<_> = (0..100)
        .map(|_| {
            let mut client = host.connect_noisy();
            client.greet();
            client.option(OPT_GO, b"\0\0\0\x05taken\0\0");
            client
        })
        .collect();
    assert_undisturbed(&host, "free");
    let threads = host.agent.status("Threads");
    assert!(threads <= crate::host::THREADS, "{threads} threads for clients that wait");
    drop(waiting);
}
