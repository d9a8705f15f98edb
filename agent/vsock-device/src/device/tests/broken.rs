//! A device that its guest or VMM has broken, and how it works again.

use super::*;
use crate::testing::rings::{RX, TX};

/// Descriptor 500 of a queue that has 32.
fn break_it(driver: &mut Driver) {
    driver.rings.give(TX, 500);
    driver.kick();
}

fn works(driver: &mut Driver, port: u32) {
    let connection = driver.connect_from(port);
    let packet = Header { src_port: port, ..Driver::header(Op::Data, 5) };
    driver.send(&packet, b"hello");
    assert_eq!(read(&connection, 9).unwrap(), b"hello");
    assert_eq!(connection.try_send(&[IoSlice::new(b"ab")]).unwrap(), 2);
    assert_eq!(driver.receive().unwrap().1, b"ab");
    drop(connection);
    assert_eq!(driver.receive().unwrap().0.op, Op::Shutdown);
}

#[test]
fn a_broken_device_works_again_after_its_queues_were_stopped_or_it_was_reset() {
    let mut driver = Driver::new();
    for (port, reset) in [(1, false), (2, true), (3, false)] {
        let connection = driver.connect();
        break_it(&mut driver);
        assert!(read(&connection, 9).unwrap().is_empty());
        assert!(connection.try_send(&[IoSlice::new(b"ab")]).is_err());
        drop(connection);
        // A correct packet changes nothing.
        driver.put(&Driver::header(Op::Request, 0), &[]);
        driver.kick();
        assert!(driver.receive().is_none());
        if reset {
            driver.device.reset();
        } else {
            driver.device.stop(Which::Rx);
            driver.device.stop(Which::Tx);
        }
        driver.start(SIZE);
        works(&mut driver, port);
    }
}

/// Stopping one queue does not repair the other.
#[test]
fn a_queue_that_was_not_stopped_stays_broken() {
    let mut driver = Driver::new();
    break_it(&mut driver);
    driver.device.stop(Which::Tx);
    assert!(!driver.device.lock().rx.runs());
    driver.device.stop(Which::Rx);
    driver.start(SIZE);
    works(&mut driver, 1);
}

#[test]
fn a_queue_that_is_not_enabled_does_nothing_and_loses_nothing() {
    let mut driver = Driver::new();
    let connection = driver.connect();
    driver.device.enable(Which::Tx, false);
    driver.put(&Driver::header(Op::Data, 5), b"hello");
    driver.kick();
    assert_eq!(read(&connection, 9).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    driver.device.enable(Which::Tx, true);
    driver.device.enable(Which::Rx, false);
    driver.kick();
    assert_eq!(read(&connection, 9).unwrap(), b"hello");
    let blocked = connection.try_send(&[IoSlice::new(b"ab")]).unwrap_err();
    assert_eq!(blocked.kind(), io::ErrorKind::WouldBlock);
    driver.device.enable(Which::Rx, true);
    driver.kick();
    assert_eq!(connection.try_send(&[IoSlice::new(b"ab")]).unwrap(), 2);
    assert!(driver.rings.take(RX).is_some());
}
