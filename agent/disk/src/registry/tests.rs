//! Failures of the host, and the errors that clients get then.

use proptest::prelude::*;

use crate::{
    Disk, Op,
    testing::{
        Medium, Mishap,
        model::{Around, check},
        run, try_write,
    },
};

fn flush(disk: &dyn Disk) -> bool {
    run(disk, &mut Op::Flush).is_ok()
}

fn write(disk: &dyn Disk, value: u8, fua: bool) -> bool {
    try_write(disk, 0, &[value; 512], fua).is_ok()
}

#[test]
fn a_durable_write_that_gets_an_error_does_not_hide_the_loss_from_flushes() {
    let medium = Medium::new();
    let disk = medium.open();
    write(&disk, 1, false);
    medium.next(Mishap::Writeback);
    medium.write_back();
    assert!(!write(&disk, 2, true));
    assert!(!flush(&disk) && !flush(&disk), "for ever");
    assert!(flush(&medium.open()), "the loss was reported");
}

#[test]
fn a_loss_that_a_begun_durable_write_gets_is_reported_by_flushes() {
    let medium = Medium::new().beginning();
    let [writer, durable] = [medium.open(), medium.open()];
    write(&writer, 1, false);
    medium.next(Mishap::DeviceFlush);
    assert!(write(&durable, 2, true), "it succeeds when it is done once more");
    assert!(!flush(&writer) && !flush(&durable));
    assert!(flush(&medium.open()), "it was told");
}

#[test]
fn a_loss_is_reported_to_each_connection_that_was_open_and_to_none_that_comes_after_the_report() {
    let medium = Medium::new();
    let [writer, other] = [medium.open(), medium.open()];
    write(&writer, 1, false);
    medium.next(Mishap::DeviceFlush);
    assert!(!flush(&other));
    let later = medium.open();
    assert!(flush(&later) && flush(&later));
    assert!(write(&later, 2, true));
    assert!(!flush(&writer) && !flush(&other));
}

#[test]
fn a_loss_after_the_last_connection_is_reported_to_the_next_one_once() {
    let medium = Medium::new();
    let disk = medium.open();
    write(&disk, 1, false);
    medium.next(Mishap::Writeback);
    drop(disk);
    drop(medium.open());
    let [first, second] = [medium.open(), medium.open()];
    assert!(!flush(&first) && flush(&first));
    assert!(!flush(&second) && flush(&second), "the loss had not been reported when it came");
    assert!(flush(&medium.open()));
}

#[test]
fn unflushed_writes_of_a_connection_that_leaves_become_durable() {
    let medium = Medium::new();
    let disk = medium.open();
    write(&disk, 7, false);
    drop(disk);
    assert_eq!(medium.durable()[0], Some(7));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8000))]
    #[test]
    fn no_flush_succeeds_while_a_loss_is_not_reported(
        steps in prop::collection::vec(any::<[u8; 4]>(), 1..60),
    ) {
        check(&Around(Medium::new(), |disk| disk), &steps);
    }

    #[test]
    fn no_flush_succeeds_over_a_loss_of_begun_writes(
        steps in prop::collection::vec(any::<[u8; 4]>(), 1..60),
    ) {
        check(&Around(Medium::new().beginning(), |disk| disk), &steps);
    }
}
