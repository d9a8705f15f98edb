//! The device against a driver of the test, over real rings in guest memory.

use std::{
    fs::File,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    task::Waker,
    thread,
    time::{Duration, Instant},
};

use nix::sys::memfd::{MFdFlags, memfd_create};
use proptest::{collection::vec, prelude::*};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};

use super::*;
use crate::{
    connections::{BUF_ALLOC, MAX_CONNECTIONS},
    flow::ANSWERS,
    header::{Header, NO_MORE_RECEIVED, NO_MORE_SENT},
    inbox::Held,
    key::Key,
    testing::{
        hostile,
        rings::MEMORY,
        test_driver::{Driver, PORT, SIZE},
    },
};

fn read(connection: &Connection, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let n = connection.try_recv(&mut [IoSliceMut::new(&mut bytes)])?;
    bytes.truncate(n);
    Ok(bytes)
}

mod broken;
mod charged;
mod turns;

#[test]
fn bytes_are_carried_in_both_directions_and_both_ends_can_close() {
    let mut driver = Driver::new();
    let connection = driver.connect();
    assert_eq!(connection.port(), 77);
    assert_eq!(read(&connection, 9).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    driver.send(&Driver::header(Op::Data, 5), b"hello");
    driver.send(&Driver::header(Op::Data, 6), b" world");
    assert_eq!(read(&connection, 7).unwrap(), b"hello w");
    assert_eq!(read(&connection, 70).unwrap(), b"orld");
    let sent = connection.try_send(&[IoSlice::new(b"ab"), IoSlice::new(&[b'c'; 5000])]).unwrap();
    assert_eq!(sent, 5002);
    let (header, payload) = driver.receive().unwrap();
    assert_eq!((header.op, header.dst_port, header.fwd_cnt), (Op::Data, 77, 11));
    assert!(payload.starts_with(b"abccc") && payload.len() == 4096 - 44);
    assert_eq!(driver.receive().unwrap().1.len(), 5002 - (4096 - 44));
    let flags = NO_MORE_SENT | NO_MORE_RECEIVED;
    driver.send(&Header { flags, ..Driver::header(Op::Shutdown, 0) }, &[]);
    assert!(read(&connection, 7).unwrap().is_empty());
    assert!(connection.try_send(&[IoSlice::new(b"x")]).is_err());
    drop(connection);
    assert_eq!(driver.receive().unwrap().0.op, Op::Reset);
}

#[test]
fn both_ends_respect_the_credit() {
    let mut driver = Driver::new();
    let connection = driver.connect();
    // The guest has room for this much, and says when there is more.
    driver.send(&Header { buf_alloc: 100, ..Driver::header(Op::CreditUpdate, 0) }, &[]);
    assert_eq!(connection.try_send(&[IoSlice::new(&[1; 500])]).unwrap(), 100);
    let blocked = connection.try_send(&[IoSlice::new(&[1; 500])]).unwrap_err();
    assert_eq!(blocked.kind(), io::ErrorKind::WouldBlock);
    let update = Header { buf_alloc: 100, fwd_cnt: 60, ..Driver::header(Op::CreditUpdate, 0) };
    driver.send(&update, &[]);
    assert_eq!(connection.try_send(&[IoSlice::new(&[1; 500])]).unwrap(), 60);
    while driver.receive().is_some() {}
    // Credit is returned in time.
    for _ in 0..20 {
        driver.send(&Driver::header(Op::Data, 4000), &[2; 4000]);
        assert_eq!(read(&connection, 9000).unwrap().len(), 4000);
    }
    let told = std::iter::from_fn(|| driver.receive()).last().unwrap().0;
    assert_eq!(told.op, Op::CreditUpdate);
    assert!(told.fwd_cnt >= BUF_ALLOC / 4);
    // More bytes than the credit allows reset the connection, and the memory is given back.
    for _ in 0..=(BUF_ALLOC / 4000) {
        driver.send(&Driver::header(Op::Data, 4000), &[2; 4000]);
    }
    assert_eq!(std::iter::from_fn(|| driver.receive()).last().unwrap().0.op, Op::Reset);
    assert!(read(&connection, 1).unwrap().is_empty());
    assert_eq!(driver.device.lock().flow.held, Held::default());
}

#[test]
fn packets_for_other_hosts_are_ignored_and_other_ports_are_reset() {
    let mut driver = Driver::new();
    for (packet, answered) in [
        (Header { dst_port: 1, ..Driver::header(Op::Request, 0) }, true),
        (Header { kind: 2, ..Driver::header(Op::Request, 0) }, true),
        (Driver::header(Op::CreditUpdate, 0), true),
        (Driver::header(Op::Unknown(99), 0), true),
        (Driver::header(Op::Reset, 0), false),
        (Header { src_cid: 4, ..Driver::header(Op::Request, 0) }, false),
        (Header { dst_cid: 9, ..Driver::header(Op::Request, 0) }, false),
    ] {
        driver.send(&packet, &[]);
        let answer = driver.receive().map(|(header, _)| header.op);
        assert_eq!(answer, answered.then_some(Op::Reset), "{packet:?}");
        assert!(driver.accepted.try_recv().is_err());
    }
    // A second request between the same ports ends both.
    let connection = driver.connect();
    driver.send(&Driver::header(Op::Request, 0), &[]);
    assert_eq!(driver.receive().unwrap().0.op, Op::Reset);
    assert!(read(&connection, 1).unwrap().is_empty());
}

#[test]
fn the_number_of_connections_is_bounded() {
    let mut driver = Driver::new();
    let mut connections = Vec::new();
    let mut refused = 0;
    for src_port in 0..u32::try_from(MAX_CONNECTIONS).unwrap() + 10 {
        driver.send(&Header { src_port, ..Driver::header(Op::Request, 0) }, &[]);
        match driver.receive().unwrap().0.op {
            Op::Response => connections.push(driver.accepted.try_recv().unwrap()),
            op => {
                assert_eq!(op, Op::Reset);
                refused += 1;
            }
        }
    }
    assert_eq!((connections.len(), refused), (MAX_CONNECTIONS, 10));
    connections.clear();
    assert!(driver.device.lock().flow.connections.open.is_empty());
}

#[test]
fn a_guest_that_does_not_receive_delays_only_itself() {
    let mut driver = Driver::new();
    let connection = driver.connect();
    // All room is used up, and the answers wait, up to their cap.
    while connection.try_send(&[IoSlice::new(&[0; 60000])]).is_ok() {}
    let packet = Header { dst_port: 5, ..Driver::header(Op::Request, 0) };
    for _ in 0..ANSWERS * 2 {
        driver.put(&packet, &[]);
        driver.kick();
        if driver.device.lock().flow.intake == Intake::Stalled {
            break;
        }
    }
    assert_eq!(driver.device.lock().flow.intake, Intake::Stalled);
    assert!(driver.device.lock().flow.answers.len() <= ANSWERS);
    // It makes room, and everything continues.
    while driver.receive().is_some() {
        driver.kick();
    }
    let inner = driver.device.lock();
    assert!(inner.flow.intake == Intake::Open && inner.flow.answers.is_empty());
    drop(inner);
    assert!(connection.try_send(&[IoSlice::new(&[0; 100])]).is_ok());
}

#[test]
fn a_guest_that_begins_anew_has_no_connections() {
    let mut driver = Driver::new();
    let connection = driver.connect();
    driver.send(&Driver::header(Op::Data, 5), b"hello");
    // Stopped and continued: nothing is lost.
    let base = driver.device.stop(Which::Tx);
    driver.device.lock().tx.set_base(base);
    driver.device.start(Which::Tx);
    assert_eq!(read(&connection, 9).unwrap(), b"hello");
    // Stopped, and begun anew.
    driver.device.stop(Which::Tx);
    driver.start(SIZE);
    driver.kick();
    assert!(read(&connection, 9).unwrap().is_empty());
    let waker = Context::from_waker(Waker::noop());
    assert!(
        driver
            .device
            .poll_readable((Key { guest_port: 77, host_port: PORT }, 1), &waker)
            .is_ready()
    );
}

proptest! {
    #[test]
    fn no_packet_and_no_descriptor_causes_a_panic(input in vec(any::<u8>(), 0..2000)) {
        hostile::play(&input);
    }
}

#[test]
fn a_vmm_that_takes_memory_away_loses_its_own_device_only() {
    let file = memfd_create(c"guest", MFdFlags::MFD_CLOEXEC).unwrap();
    let file = File::from(file);
    file.set_len(MEMORY as u64).unwrap();
    let place = Some(FileOffset::new(file.try_clone().unwrap(), 0));
    let memory = GuestMemoryMmap::from_ranges_with_files([(GuestAddress(0), MEMORY, place)]);
    let (mut robbed, mut other) = (Driver::over(memory.unwrap()), Driver::new());
    let (ours, others) = (robbed.connect(), other.connect());
    // It has sent a packet, and takes its memory away before the packet is processed.
    let packet = Driver::header(Op::Data, 5);
    robbed.put(&packet, b"hello");
    file.set_len(0).unwrap();
    robbed.kick();
    // The connection has ended, and the zeroes in place of the memory are not taken for its bytes.
    assert_eq!(read(&ours, 5).unwrap(), b"");
    assert!(ours.try_send(&[IoSlice::new(b"x")]).is_err());
    assert_eq!(file.metadata().unwrap().len(), 0);
    // The device does nothing any more.
    robbed.kick();
    other.send(&packet, b"hello");
    assert_eq!(read(&others, 5).unwrap(), b"hello");
}

#[test]
fn connections_that_the_guest_has_forgotten_count_until_their_sessions_have_ended() {
    let mut driver = Driver::new();
    let mut held = Vec::new();
    // Every other one is reset: the guest has a connection between these ports.
    for _ in 0..4 * MAX_CONNECTIONS {
        driver.send(&Driver::header(Op::Request, 0), &[]);
        driver.receive().unwrap();
        held.extend(driver.accepted.try_recv());
    }
    assert_eq!(held.len(), MAX_CONNECTIONS);
    held.clear();
    while driver.receive().is_some() {}
    driver.connect();
}

#[test]
fn a_thread_that_takes_the_lock_in_a_loop_lets_other_threads_have_it() {
    const TRIES: usize = 100;
    let driver = Driver::new();
    let (turns, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let _inner = driver.device.lock();
                // As long as a turn over many packets.
                let since = Instant::now();
                while since.elapsed() < Duration::from_micros(200) {}
                turns.fetch_add(1, Ordering::Relaxed);
            }
        });
        let mut waited = 0;
        for _ in 0..TRIES {
            let before = turns.load(Ordering::Relaxed);
            // The thread has started.
            while turns.load(Ordering::Relaxed) == before {
                thread::yield_now();
            }
            let before = turns.load(Ordering::Relaxed);
            drop(driver.device.lock());
            waited += turns.load(Ordering::Relaxed) - before;
        }
        over.store(true, Ordering::Relaxed);
        // One each, or two.
        assert!(waited < 3 * TRIES, "{waited} turns of the other while we waited {TRIES} times");
    });
}
