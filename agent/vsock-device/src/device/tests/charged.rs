//! Memory that is held for connections is charged.

use super::*;
use crate::{flow::COPIED, inbox::LENT};

/// A large write, as packets of one byte, that no session takes.
#[test]
fn packets_of_one_byte_cost_as_much_as_large_ones() {
    let mut driver = Driver::new();
    let connection = driver.connect();
    let packet = Driver::header(Op::Data, 1);
    for _ in 0..=LENT {
        driver.send(&packet, b"x");
    }
    let held = driver.device.lock().flow.held;
    assert!(held.bytes >= 4096, "the first copied byte takes a chunk: {held:?}");
    for _ in LENT + 1..100_000 {
        driver.send(&packet, b"x");
    }
    let held = driver.device.lock().flow.held;
    assert!(held.bytes < 110_000, "{held:?}");
    // Each byte arrives, in order, and nothing is held any more.
    assert_eq!(read(&connection, 200_000).unwrap(), vec![b'x'; 100_000]);
    assert_eq!(driver.device.lock().flow.held, Held::default());
}

/// Many connections within their credit, none of which is read.
#[test]
fn the_memory_held_for_a_vm_is_bounded() {
    let mut driver = Driver::new();
    driver.device.stop(Which::Rx);
    driver.device.stop(Which::Tx);
    driver.start(1024);
    let connections: Vec<_> = (0..400).map(|i| driver.connect_from(1000 + i)).collect();
    let bytes = vec![b'x'; 60_000];
    'all: for round in 0..5 {
        for port in 0..400 {
            let len = if round == 4 { 16_000 } else { bytes.len() };
            let packet = Header { src_port: 1000 + port, ..Driver::header(Op::Data, len) };
            if !driver.put(&packet, &bytes[..len]) {
                break 'all;
            }
            driver.kick();
        }
    }
    let inner = driver.device.lock();
    assert_eq!(inner.flow.intake, Intake::Stalled, "the guest waits");
    assert!(inner.flow.held.bytes <= COPIED + BUF_ALLOC as usize, "{:?}", inner.flow.held);
    assert_eq!(inner.flow.connections.open.len(), 400, "no connection was reset");
    drop(inner);
    // They are read, and the device continues.
    for connection in &connections {
        while read(connection, 100_000).is_ok_and(|bytes| !bytes.is_empty()) {}
    }
    driver.kick();
    assert_eq!(driver.device.lock().flow.intake, Intake::Open);
}

#[test]
fn chains_of_many_parts_are_not_kept() {
    let mut driver = Driver::new();
    driver.device.stop(Which::Rx);
    driver.device.stop(Which::Tx);
    driver.start(1024);
    let connection = driver.connect();
    let at = 0x70_0000;
    let packet = Driver::header(Op::Data, 200);
    vm_memory::Bytes::write_slice(&driver.rings.memory, &packet.bytes(), GuestAddress(at)).unwrap();
    let mut chain = vec![(at, 44, 0)];
    chain.extend((0..200).map(|i| (at + 44 + i, 1, 0)));
    driver.rings.put(crate::testing::rings::TX, 100, &chain);
    driver.kick();
    assert_eq!(driver.device.lock().flow.held.lent, 0);
    assert_eq!(read(&connection, 300).unwrap(), [0; 200]);
}
