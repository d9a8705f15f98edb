//! Turns: the size of a piece of work, and the order of connections.

use std::{
    pin::pin,
    sync::atomic::{AtomicUsize, Ordering},
    task::{Wake, Waker},
};

use super::*;
use crate::{
    flow::DESCRIPTORS,
    line::TURN,
    testing::rings::{BUFFER, INDIRECT, RX, Rings, TX, WRITE},
};

/// A table in the guest's memory that does not belong to a queue.
const TABLE: u64 = 0x60_0000;
const BYTES: u64 = 0x70_0000;

/// Counts how often it is woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A session that waits for room.
struct Waits {
    connection: Connection,
    woken: Arc<Woken>,
    bytes: usize,
}

impl Waits {
    fn new(connection: Connection) -> Self {
        Self { connection, woken: Arc::default(), bytes: 0 }
    }

    /// True if it does not need to wait.
    fn wants(&self) -> bool {
        let waker = Waker::from(Arc::clone(&self.woken));
        pin!(self.connection.writable()).poll(&mut Context::from_waker(&waker)).is_ready()
    }

    /// Behaves as a session: sends until nothing is accepted, then waits. Returns the number of bytes sent.
    fn turn(&mut self) -> usize {
        let before = self.bytes;
        let bytes = vec![7; 1 << 20];
        loop {
            while let Ok(n) = self.connection.try_send(&[IoSlice::new(&bytes)]) {
                self.bytes += n;
            }
            if !self.wants() {
                return self.bytes - before;
            }
        }
    }

    fn was_woken(&self) -> bool {
        self.woken.0.swap(0, Ordering::SeqCst) > 0
    }
}

/// This many connections of a guest with enough credit for all of their bytes, but not enough buffers in its queue.
fn sessions(driver: &mut Driver, count: u32) -> Vec<Waits> {
    driver.device.lock().flow.line.set_patience(Duration::MAX);
    (0..count)
        .map(|i| {
            let connection = driver.connect_from(100 + i);
            let credit = Header { src_port: 100 + i, ..Driver::header(Op::CreditUpdate, 0) };
            driver.send(&Header { buf_alloc: u32::MAX, ..credit }, &[]);
            Waits::new(connection)
        })
        .collect()
}

/// The guest takes its packets, and provides `count` buffers.
fn make_room(driver: &mut Driver, count: u16) {
    let mut packet = Vec::new();
    let mut given = 0;
    while given < count
        && let Some(index) = driver.rings.receive(&mut packet)
    {
        driver.rings.give_room(index);
        given += 1;
    }
    driver.kick();
}

#[test]
fn a_chain_longer_than_the_queue_breaks_the_device() {
    for queue in [RX, TX] {
        for (count, breaks) in [(usize::from(SIZE), false), (usize::from(SIZE) + 1, true)] {
            let mut driver = Driver::new();
            let connection = driver.connect();
            // None of the correct buffers is left.
            while connection.try_send(&[IoSlice::new(&[1; 60_000])]).is_ok() {}
            while driver.rings.take(RX).is_some() {}
            let flags = if queue == RX { WRITE } else { 0 };
            let chain = vec![(BYTES, 64, flags); count];
            driver.rings.write_table(TABLE, 0, &chain);
            let len = u32::try_from(count).unwrap() * 16;
            driver.rings.put(queue, 1, &[(TABLE, len, INDIRECT)]);
            driver.kick();
            while connection.try_send(&[IoSlice::new(&[1; 60_000])]).is_ok() {}
            let gone = read(&connection, 1).is_ok_and(|bytes| bytes.is_empty());
            assert_eq!(gone, breaks, "{count} descriptors in queue {queue}");
        }
    }
}

#[test]
fn a_chain_that_ends_in_the_middle_breaks_the_device() {
    for chain in [
        // The next descriptor is beyond the table, in a table outside of the memory, or this one itself.
        [BYTES, 64, u64::from(WRITE) | 1, 40],
        [1 << 40, 16 * 4, u64::from(INDIRECT), 0],
        [BYTES, 64, u64::from(WRITE) | 1, 1],
    ] {
        let mut driver = Driver::new();
        let connection = driver.connect();
        while connection.try_send(&[IoSlice::new(&[1; 60_000])]).is_ok() {}
        while driver.rings.take(RX).is_some() {}
        let [at, len, flags, next] = chain;
        let place = Rings::places(RX)[0] + 16;
        let memory = &driver.rings.memory;
        let number = len | flags << 32 | next << 48;
        vm_memory::Bytes::write_obj(memory, at, GuestAddress(place)).unwrap();
        vm_memory::Bytes::write_obj(memory, number, GuestAddress(place + 8)).unwrap();
        driver.rings.give(RX, 1);
        driver.kick();
        while connection.try_send(&[IoSlice::new(&[1; 60_000])]).is_ok() {}
        assert!(read(&connection, 1).is_ok_and(|bytes| bytes.is_empty()), "{chain:?}");
    }
}

/// Buffers of as many descriptors as allowed, with room for one byte.
#[test]
fn buffers_of_many_descriptors_are_a_short_turn_and_others_of_the_thread_run_before_the_next() {
    let mut driver = Driver::new();
    driver.device.stop(Which::Rx);
    driver.device.stop(Which::Tx);
    driver.start(1024);
    let connection = driver.connect();
    let credit = Header { buf_alloc: u32::MAX, ..Driver::header(Op::CreditUpdate, 0) };
    driver.send(&credit, &[]);
    let session = Waits::new(connection);
    // The packets in the correct buffers come first.
    while session.connection.try_send(&[IoSlice::new(&[1; 60_000])]).is_ok() {}
    session.wants();
    while driver.rings.take(RX).is_some() {}
    let mut chain = vec![(BYTES, 0, WRITE); 1024];
    (chain[0].1, chain[1023].1) = (44, 1);
    driver.rings.write_table(TABLE, 0, &chain);
    for head in 0..512 {
        driver.rings.put(RX, head, &[(TABLE, 16 * 1024, INDIRECT)]);
    }
    driver.kick();
    let mut turns = 0;
    let bytes = vec![1; 1 << 20];
    let mut sent = 0;
    while sent < 100 {
        match session.connection.try_send(&[IoSlice::new(&bytes)]) {
            Ok(n) => {
                assert!(n <= 2 * DESCRIPTORS / 1024, "{n} bytes are {n} times 1,024 descriptors");
                sent += n;
                turns += 1;
                let next = session.connection.try_send(&[IoSlice::new(&bytes)]);
                assert_eq!(next.unwrap_err().kind(), io::ErrorKind::WouldBlock);
            }
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
        // It waits only for its turn.
        if !session.wants() {
            assert!(session.was_woken());
        }
    }
    assert!(turns >= 50, "{turns}");
}

#[test]
fn packets_of_many_descriptors_are_a_short_turn_too() {
    let mut driver = Driver::new();
    driver.device.stop(Which::Rx);
    driver.device.stop(Which::Tx);
    driver.start(1024);
    let chain = vec![(BYTES, 0, 0); 1024];
    driver.rings.write_table(TABLE, 0, &chain);
    for head in 0..512 {
        driver.rings.put(TX, head, &[(TABLE, 16 * 1024, INDIRECT)]);
    }
    let taken = driver.device.look(true);
    assert!(taken.more && taken.packets <= 2 * DESCRIPTORS / 1024, "{taken:?}");
    let mut all = taken.packets;
    while all < 512 {
        all += driver.device.look(true).packets;
    }
    assert!(!driver.device.look(true).more);
}

#[test]
fn connections_are_served_in_the_order_in_which_they_came() {
    let mut driver = Driver::new();
    let mut all = sessions(&mut driver, 3);
    // The first connection takes all buffers, and the others find none.
    assert!(all[0].turn() > 0);
    let order = [0, 1, 2];
    for i in [1, 2] {
        assert_eq!(all[i].turn(), 0);
    }
    let mut served = Vec::new();
    for _ in 0..60 {
        make_room(&mut driver, 16);
        let woken: Vec<_> = (0..3).filter(|i| all[*i].was_woken()).collect();
        assert_eq!(woken.len(), 1, "room for one turn, and one is called");
        // Other connections try to send at that moment, and it is not their turn.
        for (i, one) in all.iter_mut().enumerate() {
            if i != woken[0] {
                assert_eq!(one.turn(), 0);
            }
        }
        if served.last() != Some(&woken[0]) {
            served.push(woken[0]);
        }
        assert!(all[woken[0]].turn() > 0);
    }
    let expected = order.iter().cycle().take(served.len());
    assert!(served.iter().eq(expected), "{served:?}");
    // A turn is 64 buffers, given 16 at a time: the connection stays in front for all of it.
    assert!((10..20).contains(&served.len()), "{served:?}");
    let sent: Vec<_> = all.iter().map(|one| one.bytes).collect();
    let (least, most) = (sent.iter().min().unwrap(), sent.iter().max().unwrap());
    assert!(most - least <= TURN + 64 * 4096, "{sent:?}");
}

#[test]
fn a_connection_that_misses_its_turn_is_passed_over_and_may_send_later() {
    let mut driver = Driver::new();
    let mut all = sessions(&mut driver, 3);
    for one in &mut all {
        one.turn();
    }
    make_room(&mut driver, 32);
    let late = (0..3).find(|i| all[*i].was_woken()).unwrap();
    // It is busy with something else. The device's thread looks again after a while.
    let mut inner = driver.device.lock();
    inner.flow.line.set_patience(Duration::ZERO);
    assert_eq!(inner.flow.line.next(0, Instant::now()), None);
    inner.flow.line.set_patience(Duration::MAX);
    drop(inner);
    assert!(driver.device.make_room(true), "somebody waits");
    let next = (0..3).find(|i| all[*i].was_woken()).unwrap();
    assert_ne!(next, late);
    assert!(all[next].turn() > 0);
    make_room(&mut driver, 32);
    assert!(all[late].turn() > 0);
}

#[test]
fn a_connection_that_ends_gives_its_turn_to_the_next() {
    let mut driver = Driver::new();
    let mut all = sessions(&mut driver, 3);
    for one in &mut all {
        one.turn();
    }
    make_room(&mut driver, 32);
    let called = (0..3).find(|i| all[*i].was_woken()).unwrap();
    drop(all.remove(called));
    let mut next = all.into_iter().filter(Waits::was_woken);
    let mut next = next.next().expect("the next is called at once");
    assert!(next.turn() > 0);
}

/// Small buffers: the first of two connections takes all of them.
#[test]
fn a_connection_that_finds_no_room_in_its_turn_is_called_again() {
    let mut driver = Driver::new();
    driver.device.stop(Which::Rx);
    driver.device.stop(Which::Tx);
    driver.start(512);
    let mut all = sessions(&mut driver, 2);
    for one in &mut all {
        one.turn();
    }
    while driver.rings.take(RX).is_some() {}
    let small = |driver: &mut Driver, count: u16| {
        (0..count).for_each(|head| driver.rings.put(RX, head, &[(BYTES, 256, WRITE)]));
        driver.kick();
    };
    small(&mut driver, 128);
    assert!(all[0].was_woken() && all[1].was_woken(), "room for two turns, as it seems");
    assert!(all[0].turn() > 0);
    assert!(!all[1].wants());
    for _ in 0..4 {
        while driver.rings.take(RX).is_some() {}
        small(&mut driver, 128);
        let woken: Vec<_> = (0..2).filter(|i| all[*i].was_woken()).collect();
        assert!(!woken.is_empty(), "somebody waits for ever");
        for i in woken {
            all[i].turn();
        }
    }
    assert!(all.iter().all(|one| one.bytes > 0));
}

const _: () = assert!(BUFFER > 44);
