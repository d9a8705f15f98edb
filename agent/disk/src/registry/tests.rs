//! What a host may do to a file, and what clients then hear.

use proptest::prelude::*;

use crate::{
    Data, Disk, Op,
    testing::{FlakyDisk, Medium, Mishap, run, try_write},
};

const BLOCKS: usize = 3;

fn flush(disk: &dyn Disk) -> bool {
    run(disk, &mut Op::Flush).is_ok()
}

fn write(disk: &dyn Disk, value: u8, fua: bool) -> bool {
    try_write(disk, 0, &[value; 512], fua).is_ok()
}

#[test]
fn a_durable_write_that_hears_of_a_loss_does_not_hide_it_from_flushes() {
    let medium = Medium::new(BLOCKS);
    let disk = medium.open();
    write(&disk, 1, false);
    medium.next(Mishap::Writeback);
    medium.write_back();
    assert!(!write(&disk, 2, true));
    assert!(!flush(&disk) && !flush(&disk), "for ever");
    assert!(flush(&medium.open()), "it was told");
}

#[test]
fn a_loss_is_told_to_each_who_was_there_and_to_nobody_who_came_after_it_was_told() {
    let medium = Medium::new(BLOCKS);
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
fn a_loss_after_the_last_has_left_is_told_to_the_next_and_once() {
    let medium = Medium::new(BLOCKS);
    let disk = medium.open();
    write(&disk, 1, false);
    medium.next(Mishap::Writeback);
    drop(disk);
    drop(medium.open());
    let [first, second] = [medium.open(), medium.open()];
    assert!(!flush(&first) && flush(&first));
    assert!(!flush(&second) && flush(&second), "it had not been told when this one came");
    assert!(flush(&medium.open()));
}

#[test]
fn who_leaves_unflushed_writes_leaves_them_durable() {
    let medium = Medium::new(BLOCKS);
    let disk = medium.open();
    write(&disk, 7, false);
    drop(disk);
    assert_eq!(medium.durable()[0], Some(7));
}

#[derive(Debug, Clone)]
enum Step {
    Open,
    Close(prop::sample::Index),
    Write(prop::sample::Index, usize, bool),
    Trim(prop::sample::Index, usize, bool),
    Flush(prop::sample::Index),
    WriteBack,
    Another,
    Next(Mishap),
}

fn steps() -> impl Strategy<Value = Step> {
    use prop::sample::Index;
    let mishap = prop_oneof![Just(Mishap::Writeback), Just(Mishap::DeviceFlush)];
    prop_oneof![
        3 => Just(Step::Open),
        2 => any::<Index>().prop_map(Step::Close),
        6 => (any::<Index>(), 0..BLOCKS, any::<bool>()).prop_map(|(c, b, f)| Step::Write(c, b, f)),
        1 => (any::<Index>(), 0..BLOCKS, any::<bool>()).prop_map(|(c, b, f)| Step::Trim(c, b, f)),
        5 => any::<Index>().prop_map(Step::Flush),
        2 => Just(Step::WriteBack),
        1 => Just(Step::Another),
        2 => mishap.prop_map(Step::Next),
    ]
}

/// A client, and what the model knows of it.
struct Connection {
    disk: FlakyDisk,
    /// What had gone wrong before it came.
    before: u64,
    /// Not all of that had been told.
    inherits: bool,
    flushed: bool,
}

/// What has gone wrong, and what was promised.
struct Model {
    medium: Medium,
    /// The value of each block that a client was acknowledged last; `None` if a request failed, and it
    /// may be either.
    acknowledged: [Option<u8>; BLOCKS],
    /// As much of what went wrong as flushes that failed have told.
    told: u64,
    value: u8,
}

impl Model {
    fn open(&self) -> Connection {
        let before = self.medium.losses();
        let disk = self.medium.open();
        Connection { disk, before, inherits: self.told < before, flushed: false }
    }

    /// Something may fail on this connection.
    fn may_fail(&self, connection: &Connection) -> bool {
        connection.inherits || self.medium.losses() > connection.before
    }

    fn change(&mut self, connection: &Connection, block: usize, fua: bool, trim: bool) {
        self.value = self.value % 200 + 1;
        let (at, data) = (block as u64 * 512, [self.value; 512]);
        let (mut op, value) = if trim {
            (Op::Trim { at, len: 512, fua }, 0)
        } else {
            (Op::Write { at, data: Data::Bytes(&data), fua }, self.value)
        };
        let done = run(&connection.disk, &mut op).is_ok();
        self.acknowledged[block] = done.then_some(value);
        assert!(done || self.may_fail(connection), "nothing was wrong");
        assert!(!done || !fua || self.medium.durable()[block] == Some(value), "not durable");
    }

    fn flush(&mut self, connection: &mut Connection) {
        let first = !std::mem::replace(&mut connection.flushed, true);
        if !flush(&connection.disk) {
            assert!(self.may_fail(connection), "all that was lost had been told");
            self.told = self.medium.losses();
            return;
        }
        assert_eq!(self.medium.losses(), connection.before, "something was lost meanwhile");
        assert!(!connection.inherits || !first, "something was lost before, and nobody told");
        assert_eq!(self.told, self.medium.losses());
        for (value, durable) in self.acknowledged.iter().zip(self.medium.durable()) {
            // What is gone has been told.
            assert!(durable.is_none() || value.is_none() || *value == durable);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn no_flush_succeeds_over_a_loss_that_was_not_told(
        steps in prop::collection::vec(steps(), 1..60),
    ) {
        let medium = Medium::new(BLOCKS);
        let mut model = Model { medium, acknowledged: [Some(0); BLOCKS], told: 0, value: 0 };
        let mut connections = Vec::new();
        for step in steps {
            let any = |index: prop::sample::Index| {
                (!connections.is_empty()).then(|| index.index(connections.len()))
            };
            match step {
                Step::Open => connections.push(model.open()),
                Step::Close(index) => drop(any(index).map(|one| connections.swap_remove(one))),
                Step::Write(index, block, fua) => {
                    any(index).inspect(|one| model.change(&connections[*one], block, fua, false));
                }
                Step::Trim(index, block, fua) => {
                    any(index).inspect(|one| model.change(&connections[*one], block, fua, true));
                }
                Step::Flush(index) => {
                    if let Some(one) = any(index) {
                        model.flush(&mut connections[one]);
                    }
                }
                Step::WriteBack => model.medium.write_back(),
                Step::Another => model.medium.synced_by_another(),
                Step::Next(mishap) => model.medium.next(mishap),
            }
        }
        // A client that comes when all is told and nothing goes wrong any more can work.
        model.medium.mend();
        drop(connections);
        model.flush(&mut model.open());
        let mut last = model.open();
        model.change(&last, 0, true, false);
        model.flush(&mut last);
    }
}
