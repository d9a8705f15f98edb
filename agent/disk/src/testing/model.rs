//! A model of durability, which every disk and every stack of layers must match: clients come and go, write, flush and
//! close, while the host fails and loses writes.

use crate::{
    Data, Disk, Op,
    testing::{Medium, run},
};

/// The number of blocks of 512 bytes that clients write.
pub const BLOCKS: usize = 3;

/// The host of the disks in a test.
pub trait Host {
    /// The disk of a new connection.
    fn open(&self) -> Box<dyn Disk>;
    /// Causes the failure of this number, now or at the next opportunity.
    fn fail(&self, what: u8);
    /// Causes no failure from now on.
    fn recover(&self);
    /// The number of failures.
    fn losses(&self) -> u64;
    /// Each block after a power cut, as the byte that it is filled with. `None`: the last write is lost already.
    fn durable(&self) -> Vec<Option<u8>>;
    /// Whether a request fails only because of a loss that its client was not told of.
    fn is_exact(&self) -> bool {
        true
    }
}

/// A medium, and the layers around each of its disks.
#[derive(Debug)]
pub struct Around<F>(pub Medium, pub F);

impl<F: Fn(Box<dyn Disk>) -> Box<dyn Disk>> Host for Around<F> {
    fn open(&self) -> Box<dyn Disk> {
        (self.1)(Box::new(self.0.open()))
    }

    fn fail(&self, what: u8) {
        self.0.fail(what);
    }

    fn recover(&self) {
        self.0.recover();
    }

    fn losses(&self) -> u64 {
        self.0.losses()
    }

    fn durable(&self) -> Vec<Option<u8>> {
        self.0.durable()
    }
}

/// As `on`, but a request may fail even if there is no loss to tell the client of.
#[derive(Debug)]
pub struct Inexact<H>(pub H);

impl<H: Host> Host for Inexact<H> {
    fn open(&self) -> Box<dyn Disk> {
        self.0.open()
    }

    fn fail(&self, what: u8) {
        self.0.fail(what);
    }

    fn recover(&self) {
        self.0.recover();
    }

    fn losses(&self) -> u64 {
        self.0.losses()
    }

    fn durable(&self) -> Vec<Option<u8>> {
        self.0.durable()
    }

    fn is_exact(&self) -> bool {
        false
    }
}

/// A client, and the model's knowledge of it.
struct Connection {
    disk: Box<dyn Disk>,
    /// The number of failures before it came.
    before: u64,
    /// Whether some of these had not been reported.
    inherits: bool,
    flushed: bool,
}

/// The failures, and the promises made to clients.
struct Model<'a> {
    host: &'a dyn Host,
    /// The value of each block by the last acknowledged write. `None`: a request failed, and the block may have the old or
    /// the new value.
    acknowledged: [Option<u8>; BLOCKS],
    /// The number of failures that failed flushes have reported.
    told: u64,
    value: u8,
}

impl Model<'_> {
    fn open(&self) -> Connection {
        let before = self.host.losses();
        let disk = self.host.open();
        Connection { disk, before, inherits: self.told < before, flushed: false }
    }

    /// Whether a request may fail on this connection.
    fn may_fail(&self, connection: &Connection) -> bool {
        !self.host.is_exact() || connection.inherits || self.host.losses() > connection.before
    }

    fn change(&mut self, connection: &Connection, block: usize, fua: bool, trim: bool) {
        self.value = self.value % 200 + 1;
        let fua = fua && connection.disk.info().can_fua;
        let (at, data) = (block as u64 * 512, [self.value; 512]);
        let (mut op, value) = if trim {
            (Op::Trim { at, len: 512, fua }, 0)
        } else {
            (Op::Write { at, data: Data::Bytes(&data), fua }, self.value)
        };
        let done = run(&*connection.disk, &mut op).is_ok();
        self.acknowledged[block] = done.then_some(value);
        assert!(done || self.may_fail(connection), "nothing was wrong");
        assert!(!done || !fua || self.host.durable()[block] == Some(value), "it is not durable");
    }

    fn flush(&mut self, connection: &mut Connection) {
        let first = !std::mem::replace(&mut connection.flushed, true);
        if run(&*connection.disk, &mut Op::Flush).is_err() {
            assert!(self.may_fail(connection), "all that was lost had been told");
            self.told = self.host.losses();
            return;
        }
        assert_eq!(self.host.losses(), connection.before, "something was lost meanwhile");
        assert!(!connection.inherits || !first, "something was lost before, and nobody told");
        assert_eq!(self.told, self.host.losses());
        for (value, durable) in self.acknowledged.iter().zip(self.host.durable()) {
            // The loss has been reported.
            assert!(durable.is_none() || value.is_none() || *value == durable, "not durable");
        }
    }
}

/// Runs clients by `steps`, which may be any bytes, and checks the promises made to them. At the end, when every loss has
/// been reported, a new client must be able to work.
///
/// # Panics
/// If a flush succeeds although a loss was not reported, or fails without a loss.
pub fn check(host: &dyn Host, steps: &[[u8; 4]]) {
    let mut model = Model { host, acknowledged: [Some(0); BLOCKS], told: 0, value: 0 };
    let mut connections: Vec<Connection> = Vec::new();
    for &[what, who, block, flag] in steps {
        let (block, flag) = (usize::from(block) % BLOCKS, flag % 2 == 0);
        let Some(who) = usize::from(who).checked_rem(connections.len()).filter(|_| what % 16 > 1)
        else {
            connections.push(model.open());
            continue;
        };
        match what % 16 {
            2..4 => {
                drop(connections.swap_remove(who));
                crate::closer::wait();
            }
            4..8 => model.change(&connections[who], block, flag, false),
            8 => model.change(&connections[who], block, flag, true),
            9..13 => model.flush(&mut connections[who]),
            _ => host.fail(what / 16),
        }
    }
    host.recover();
    drop(connections);
    crate::closer::wait();
    model.flush(&mut model.open());
    let mut last = model.open();
    model.change(&last, 0, true, false);
    model.flush(&mut last);
}
