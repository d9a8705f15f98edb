//! What several connections to one disk may rely on: nbdkit-multi-conn-filter(1).
//!
//! A flush covers what other connections were answered, where the disk does not see to that by
//! itself: it is repeated on each of them. A flush that has nothing to do is not passed on.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak,
    atomic::{AtomicU64, Ordering},
};

use super::{Entry, each};
use crate::recipe::{Key, ParamError, Params};
use disk::{Answer, Disk, DiskError, Facts, Op, Progress, Turn, perform_all};

const MODES: &[&str] = &["auto", "emulate", "plugin", "disable", "unsafe"];

pub(super) const ENTRY: Entry = Entry {
    name: "multi-conn",
    about: "Say or see to it that a flush covers every connection",
    keys: &[
        Key::once(
            "multi-conn-mode",
            "auto|emulate|plugin|disable|unsafe",
            "Flush all connections; leave it to the disk; do not offer it; offer it untrue",
        ),
        Key::once(
            "multi-conn-track-dirty",
            "fast|connection|off",
            "Which flushes have nothing to do [default: connection]",
        ),
        Key::once(
            "multi-conn-exportname",
            "BOOL",
            "Other exports' connections need no flush [default: false]",
        ),
    ],
    build: |params, stack, _| {
        let settings = Settings::parse(params)?;
        let all = Arc::new(All::default());
        Ok(each(stack, move |below, permit| {
            let mode = match settings.mode {
                Mode::Auto if below.facts().multi_conn => Mode::Plugin,
                Mode::Auto => Mode::Emulate,
                mode => mode,
            };
            let export = settings.by_export.then(|| permit.export().unwrap_or_default().to_owned());
            let own = all.join(below, export);
            Ok(Arc::new(MultiConn { own, all: Arc::clone(&all), mode, track: settings.track }))
        }))
    },
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Auto,
    Emulate,
    Plugin,
    Disable,
    Unsafe,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Track {
    /// Whatever any connection did.
    Fast,
    /// What this connection did.
    Connection,
    Off,
}

#[derive(Debug, Clone, Copy)]
struct Settings {
    mode: Mode,
    track: Track,
    by_export: bool,
}

impl Settings {
    fn parse(params: &Params<'_>) -> Result<Self, ParamError> {
        let modes = &[Mode::Auto, Mode::Emulate, Mode::Plugin, Mode::Disable, Mode::Unsafe];
        let tracks = &[Track::Fast, Track::Connection, Track::Off];
        Ok(Self {
            mode: params.choice("multi-conn-mode", MODES, modes)?.unwrap_or(Mode::Auto),
            track: params
                .choice("multi-conn-track-dirty", &["fast", "connection", "off"], tracks)?
                .unwrap_or(Track::Connection),
            by_export: params.switch("multi-conn-exportname")?.unwrap_or(false),
        })
    }
}

/// Every connection that is open.
#[derive(Debug, Default)]
struct All {
    connections: Mutex<Vec<Weak<Connection>>>,
    /// Of all connections together.
    work: Work,
}

/// What was done, and how much of it a flush has covered.
#[derive(Debug, Default)]
struct Work {
    /// Requests that were done.
    done: AtomicU64,
    /// As many of them as the last flush covers. Held for the time of a flush: another one must not
    /// be answered before it.
    flushed: Mutex<u64>,
}

impl Work {
    fn is_flushed(&self, flushed: &MutexGuard<'_, u64>) -> bool {
        self.done.load(Ordering::Acquire) == **flushed
    }

    /// Flushes by `act` unless there is nothing to cover.
    fn flush<E>(&self, act: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let mut flushed = self.flushed.lock().unwrap_or_else(PoisonError::into_inner);
        // Before the flush: what is done while it runs, it may not cover.
        let done = self.done.load(Ordering::Acquire);
        if done != *flushed {
            act()?;
            *flushed = done;
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Connection {
    below: Arc<dyn Disk>,
    /// `None`: it does not matter.
    export: Option<String>,
    work: Work,
}

impl All {
    fn join(&self, below: Arc<dyn Disk>, export: Option<String>) -> Arc<Connection> {
        let connection = Arc::new(Connection { below, export, work: Work::default() });
        let mut all = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|other| other.strong_count() > 0);
        all.push(Arc::downgrade(&connection));
        connection
    }

    fn of_export(&self, export: Option<&String>) -> Vec<Arc<Connection>> {
        let all = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let open = all.iter().filter_map(Weak::upgrade);
        open.filter(|other| other.export.as_ref() == export).collect()
    }
}

#[derive(Debug)]
struct MultiConn {
    own: Arc<Connection>,
    all: Arc<All>,
    mode: Mode,
    track: Track,
}

impl MultiConn {
    /// A request is done, and a flush may have to cover it. nbdkit counts reads too: a disk may
    /// keep what it has read for one connection.
    fn count(&self, op: &Op<'_>) {
        let writes = matches!(op, Op::Write { .. } | Op::Trim { .. } | Op::Zero { .. });
        match self.track {
            Track::Fast if writes => {
                self.all.work.done.fetch_add(1, Ordering::Release);
            }
            Track::Connection if writes || matches!(op, Op::Read { .. }) => {
                self.own.work.done.fetch_add(1, Ordering::Release);
            }
            Track::Off | Track::Fast | Track::Connection => {}
        }
    }

    fn work(&self) -> Option<&Work> {
        match self.track {
            Track::Fast => Some(&self.all.work),
            Track::Connection => Some(&self.own.work),
            Track::Off => None,
        }
    }

    fn flush(&self, answer: &mut Answer) -> Result<(), DiskError> {
        let mut one = |connection: &Connection| {
            let mut act = || perform_all(&*connection.below, &mut Op::Flush, answer);
            match self.track {
                Track::Connection => connection.work.flush(act),
                Track::Fast | Track::Off => act(),
            }
        };
        let mut act = || {
            if self.mode == Mode::Emulate {
                self.all.of_export(self.own.export.as_ref()).iter().try_for_each(|it| one(it))
            } else {
                one(&self.own)
            }
        };
        match self.track {
            Track::Fast => self.all.work.flush(act),
            Track::Connection | Track::Off => act(),
        }
    }

    /// A write that is to be durable has to be so for every connection, where a flush has.
    fn needs_flush(&self, op: &Op<'_>) -> bool {
        self.mode == Mode::Emulate
            && matches!(
                op,
                Op::Write { fua: true, .. }
                    | Op::Trim { fua: true, .. }
                    | Op::Zero { fua: true, .. }
            )
    }
}

impl Disk for MultiConn {
    fn facts(&self) -> Facts {
        let below = self.own.below.facts();
        let multi_conn = match self.mode {
            Mode::Auto | Mode::Plugin => below.multi_conn,
            Mode::Emulate | Mode::Unsafe => true,
            Mode::Disable => false,
        };
        Facts { multi_conn, ..below }
    }

    fn attempt(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Turn, DiskError> {
        if matches!(op, Op::Flush) {
            if self.mode == Mode::Emulate {
                return Ok(Turn::Later);
            }
            // Another flush runs, or there is something to do: not here.
            return Ok(match self.work().map(|work| (work, work.flushed.try_lock())) {
                Some((work, Ok(flushed))) if work.is_flushed(&flushed) => Turn::Done,
                Some((_, Ok(_) | Err(TryLockError::WouldBlock | TryLockError::Poisoned(_)))) => {
                    Turn::Later
                }
                None => return self.own.below.attempt(op, answer),
            });
        }
        if self.needs_flush(op) {
            return Ok(Turn::Later);
        }
        let turn = self.own.below.attempt(op, answer)?;
        if turn == Turn::Done {
            self.count(op);
        }
        Ok(turn)
    }

    fn perform(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Progress, DiskError> {
        if matches!(op, Op::Flush) {
            return self.flush(answer).map(|()| Progress::Done);
        }
        let progress = self.own.below.perform(op, answer)?;
        self.count(op);
        if progress == Progress::Done && self.needs_flush(op) {
            self.flush(&mut Answer::default())?;
        }
        Ok(progress)
    }

    fn below(&self) -> Option<&dyn Disk> {
        Some(&*self.own.below)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use disk::testing::{Recorder, read, run, write};

    /// Two connections, each to a disk of its own that remembers what it is asked.
    fn two(mode: Mode, track: Track, exports: [&str; 2]) -> [(Arc<Recorder>, MultiConn); 2] {
        let all = Arc::new(All::default());
        exports.map(|export| {
            let recorder = Arc::new(Recorder::default());
            let export = (!export.is_empty()).then(|| export.to_owned());
            let own = all.join(Arc::<Recorder>::clone(&recorder), export);
            (recorder, MultiConn { own, all: Arc::clone(&all), mode, track })
        })
    }

    fn flushes(recorder: &Recorder) -> usize {
        recorder.take().iter().filter(|line| *line == "flush").count()
    }

    /// Flushes below each connection, when the first writes and the second flushes twice.
    fn flushed(mode: Mode, track: Track, exports: [&str; 2]) -> [usize; 2] {
        let two = two(mode, track, exports);
        write(&two[0].1, 0, b"x");
        run(&two[1].1, &mut Op::Flush).unwrap();
        run(&two[1].1, &mut Op::Flush).unwrap();
        two.map(|(recorder, _)| flushes(&recorder))
    }

    #[test]
    fn a_flush_goes_where_the_mode_says() {
        assert_eq!(flushed(Mode::Emulate, Track::Off, ["", ""]), [2, 2]);
        assert_eq!(flushed(Mode::Emulate, Track::Fast, ["", ""]), [1, 1]);
        assert_eq!(flushed(Mode::Emulate, Track::Connection, ["", ""]), [1, 0]);
        assert_eq!(flushed(Mode::Plugin, Track::Off, ["", ""]), [0, 2]);
        assert_eq!(flushed(Mode::Plugin, Track::Fast, ["", ""]), [0, 1]);
        assert_eq!(flushed(Mode::Plugin, Track::Connection, ["", ""]), [0, 0]);
        assert_eq!(flushed(Mode::Emulate, Track::Off, ["a", "b"]), [0, 2]);
    }

    #[test]
    fn a_read_may_have_been_kept_and_is_flushed_too() {
        let [(recorder, disk), _] = two(Mode::Plugin, Track::Connection, ["", ""]);
        read(&disk, 0, 1);
        run(&disk, &mut Op::Flush).unwrap();
        assert_eq!(flushes(&recorder), 1);
    }

    #[test]
    fn a_write_that_is_to_be_durable_flushes_every_connection() {
        let [(first, disk), (second, other)] = two(Mode::Emulate, Track::Off, ["", ""]);
        disk::testing::try_write(&disk, 0, b"x", true).unwrap();
        assert_eq!((flushes(&first), flushes(&second)), (1, 1));
        drop(other);
        run(&disk, &mut Op::Flush).unwrap();
        assert_eq!((flushes(&first), flushes(&second)), (1, 0), "what is closed is left alone");
    }

    #[test]
    fn a_flush_that_failed_is_tried_again() {
        let work = Work::default();
        work.done.fetch_add(1, Ordering::Release);
        assert_eq!(work.flush(|| Err("no")), Err("no"));
        let mut tried = 0;
        for _ in 0..2 {
            work.flush(|| {
                tried += 1;
                Ok::<_, ()>(())
            })
            .unwrap();
        }
        assert_eq!(tried, 1);
    }
}
