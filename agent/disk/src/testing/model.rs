//! What has to be true of every disk, and every stack of layers, whose host loses writes: clients come and
//! go, write, flush and close, while things go wrong.

use crate::{
    Data, Disk, Op,
    testing::{Medium, run},
};

/// Blocks of 512 bytes that clients write.
pub const BLOCKS: usize = 3;

/// What the disks of a test stand on.
pub trait Host {
    /// A new connection's disk.
    fn open(&self) -> Box<dyn Disk>;
    /// Something goes wrong: now, or the next time that it can. The same number, the same thing.
    fn fail(&self, what: u8);
    /// Nothing goes wrong from now on.
    fn recover(&self);
    /// How often something has gone wrong.
    fn losses(&self) -> u64;
    /// What each block has after a power cut, one byte for all of it; `None` if what was written last is
    /// gone already.
    fn durable(&self) -> Vec<Option<u8>>;
    /// Nothing fails but for a loss that this client has not been told of.
    fn is_exact(&self) -> bool {
        true
    }
}

/// A medium, and what is around each disk of it.
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

/// The same, but a request may fail although the client need not have been told of anything.
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

/// A client, and what the model knows of it.
struct Connection {
    disk: Box<dyn Disk>,
    /// What had gone wrong before it came.
    before: u64,
    /// Not all of that had been told.
    inherits: bool,
    flushed: bool,
}

/// What has gone wrong, and what was promised.
struct Model<'a> {
    host: &'a dyn Host,
    /// The value of each block that a client was acknowledged last; `None` if a request failed, and it
    /// may be either.
    acknowledged: [Option<u8>; BLOCKS],
    /// As much of what went wrong as flushes that failed have told.
    told: u64,
    value: u8,
}

impl Model<'_> {
    fn open(&self) -> Connection {
        let before = self.host.losses();
        let disk = self.host.open();
        Connection { disk, before, inherits: self.told < before, flushed: false }
    }

    /// Something may fail on this connection.
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
            // What is gone has been told.
            assert!(durable.is_none() || value.is_none() || *value == durable, "not durable");
        }
    }
}

/// Has clients do what the steps say, any bytes, and checks what they are promised. Ends with a client
/// that comes when all has been told, and must be able to work.
///
/// # Panics
/// If a flush succeeds over a loss that was not told, or fails without one.
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
