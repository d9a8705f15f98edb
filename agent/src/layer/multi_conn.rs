//! Makes a flush on one connection cover all connections, or says whether it does: nbdkit-multi-conn-filter(1).
//!
//! Where the disk itself does not make a flush cover other connections, the flush is repeated on each connection that
//! needs it. A client's own flush always reaches the disk, because only the disk knows what else is to be made
//! durable or has been lost.

mod group;

use std::sync::Arc;

use self::group::{Connection, Groups};
use super::Entry;
use crate::params::{Key, ParamError, Params};
use disk::{Answer, Disk, DiskError, DiskInfo, Kind, Layer, Op, Progress, Turn, Verb};

const MODES: &[&str] = &["auto", "emulate", "plugin", "disable", "unsafe"];

pub(super) const ENTRY: Entry = Entry {
    name: "multi-conn",
    about: "Make a flush cover every connection, or say whether it does",
    keys: &[
        Key::once(
            "multi-conn-mode",
            "auto|emulate|plugin|disable|unsafe",
            "How a flush covers others: as needed; by flushing them; by the disk; not; falsely advertised",
        ),
        Key::once(
            "multi-conn-track-dirty",
            "fast|connection|off",
            "Skip flushes: if no connection wrote; of connections that did nothing; never [default: connection]",
        ),
        Key::once(
            "multi-conn-exportname",
            "BOOL",
            "Do not flush connections of other exports [default: false]",
        ),
    ],
    build: |params, stack, _| {
        let settings = Settings::parse(params)?;
        let groups = Groups::default();
        Ok(stack.each(move |below, permit| {
            let export = settings.by_export.then(|| permit.export().unwrap_or_default());
            Ok(Arc::new(MultiConn::new(below, &groups, export, settings)))
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

/// Which other connections a flush is repeated on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Track {
    /// All, once any connection has written; else none.
    Fast,
    /// The connections that have written or read.
    Connection,
    /// All connections.
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

#[derive(Debug)]
struct MultiConn {
    below: Arc<dyn Disk>,
    mode: Mode,
    /// `Some` where this layer repeats flushes on other connections.
    emulated: Option<Connection>,
}

impl MultiConn {
    fn new(
        below: Arc<dyn Disk>,
        groups: &Groups,
        export: Option<&str>,
        settings: Settings,
    ) -> Self {
        let mode = match settings.mode {
            Mode::Auto if below.info().multi_conn => Mode::Plugin,
            Mode::Auto => Mode::Emulate,
            mode => mode,
        };
        let join = || groups.join(export, Arc::clone(&below), settings.track);
        let emulated = (mode == Mode::Emulate).then(join);
        Self { below, mode, emulated }
    }
}

/// Whether the request has to be durable when it is answered.
fn is_durable(op: &Op<'_>) -> bool {
    matches!(
        op,
        Op::Write { fua: true, .. } | Op::Trim { fua: true, .. } | Op::Zero { fua: true, .. }
    )
}

/// Whether the disk refused the request without trying it, so that nothing is lost.
fn is_refusal(kind: Kind) -> bool {
    matches!(kind, Kind::Denied | Kind::Invalid | Kind::Unsupported | Kind::TooLarge)
}

impl Layer for MultiConn {
    fn below(&self) -> &dyn Disk {
        &*self.below
    }

    fn info(&self) -> DiskInfo {
        let below = self.below.info();
        let multi_conn = match self.mode {
            Mode::Auto | Mode::Plugin => below.multi_conn,
            Mode::Emulate | Mode::Unsafe => true,
            Mode::Disable => false,
        };
        DiskInfo { multi_conn, ..below }
    }

    fn try_execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Turn, DiskError> {
        let Some(connection) = &self.emulated else { return self.below.try_execute(op, answer) };
        if op.verb() == Verb::Flush || is_durable(op) {
            return Ok(Turn::WouldBlock);
        }
        let verb = op.verb();
        let turn = self.below.try_execute(op, answer);
        if turn.as_ref().map_or(true, |turn| *turn == Turn::Done) {
            connection.count(verb);
        }
        turn
    }

    fn execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Progress, DiskError> {
        let Some(connection) = &self.emulated else { return self.below.execute(op, answer) };
        match op {
            Op::Flush => return connection.flush().map(|()| Progress::Done),
            Op::Settle => return connection.settle().map(|()| Progress::Done),
            _ => {}
        }
        let (verb, durable) = (op.verb(), is_durable(op));
        let done = self.below.execute(op, answer);
        match &done {
            // On this connection the write is durable already.
            Ok(Progress::Done) if durable => connection.flush_others_for_write()?,
            Err(error) if durable && !is_refusal(error.kind) => connection.lose(),
            // A failed request counts too, because part of it may be done.
            _ => connection.count(verb),
        }
        done
    }

    fn passes(&self, _: &Op<'_>) -> bool {
        self.emulated.is_none()
    }
}

#[cfg(test)]
mod tests;
