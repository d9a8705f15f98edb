//! Logs every request to a file and to a script: nbdkit-log-filter(1).
//!
//! The engine puts lines in a queue, and a thread writes them. Requests never wait for the thread. Once 16 MiB of lines
//! are queued, further lines are dropped, and a line `Lost lines=N` takes their place.

mod line;
mod logged;
mod writer;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use self::{
    line::{Line, Type, Value},
    logged::Logged,
    writer::{Format, Writer},
};
use super::{Entry, absolute};
use crate::{
    access::{Caller, Denied, Gate, NeedsCertificate, Pass, Verdict, judge},
    exports::{Exports, Listing, Opened, Permit},
    params::Key,
    stack::{BuildError, Stack},
};
use disk::DiskInfo;

pub(super) const ENTRY: Entry = Entry {
    name: "log",
    about: "Log every request to a file or a script",
    keys: &[
        Key::once("logfile", "PATH", "The file for the lines; opened again at HUP"),
        Key::once("logappend", "BOOL", "Append to the file [default: no, replace it]"),
        Key::once("logscript", "COMMAND", "Run for each line, with the line in its variables"),
        Key::once("logformat", "text|json", "nbdkit's lines, or JSON objects [default: text]"),
    ],
    build: |params, mut stack, context| {
        let format =
            params.choice("logformat", &["text", "json"], &[Format::Text, Format::Json])?;
        let append = params.switch("logappend")?.unwrap_or(false);
        let file: Option<PathBuf> = params.value("logfile").map(absolute);
        let script = params.value("logscript").map(str::to_owned);
        if file.is_none() && script.is_none() {
            return Ok(stack);
        }
        let writer = Writer::start(file, append, script, format.unwrap_or(Format::Text))
            .map_err(|error| BuildError::Own(Box::new(error)))?;
        let (at_reload, at_exit) = (Arc::clone(&writer), Arc::clone(&writer));
        context.lifecycle.at_reload(move || at_reload.reopen());
        context.lifecycle.at_exit(move || at_exit.finish());
        let log = Arc::new(Log::new(writer, context.read_only));
        log.print("Ready", vec![("thread_model", Value::Number(3))]);
        log.print("Fork", Vec::new());
        let door = Door { log: Arc::clone(&log), below: stack.gates };
        stack = Stack { gates: vec![Arc::new(door)], ..stack };
        let exports = LoggedExports { log, below: stack.exports };
        Ok(Stack { exports: Arc::new(exports), gates: stack.gates })
    },
};

/// The log of all connections.
#[derive(Debug)]
struct Log {
    writer: Arc<Writer>,
    read_only: bool,
    attempts: AtomicU64,
    lists: AtomicU64,
    opened: AtomicU64,
}

type Fields = Vec<(&'static str, Value)>;

impl Log {
    fn new(writer: Arc<Writer>, read_only: bool) -> Self {
        let [attempts, lists, opened] = [0; 3].map(AtomicU64::new);
        Self { writer, read_only, attempts, lists, opened }
    }

    fn print(&self, act: &'static str, fields: Fields) {
        self.writer.push(Line::new(None, Type::Print, act, None, fields));
    }

    fn enter(&self, act: &'static str, id: u64, fields: Fields) {
        self.writer.push(Line::new(None, Type::Enter, act, Some(id), fields));
    }

    fn leave(&self, act: &'static str, id: u64, fields: Fields) {
        self.writer.push(Line::new(None, Type::Leave, act, Some(id), fields));
    }

    fn flag(&self) -> (&'static str, Value) {
        ("readonly", Value::Number(self.read_only.into()))
    }
}

fn next(counter: &AtomicU64) -> u64 {
    counter.fetch_add(1, Ordering::Relaxed) + 1
}

/// All gates below as one gate, so that their decision is one line.
#[derive(Debug)]
struct Door {
    log: Arc<Log>,
    below: Vec<Arc<dyn Gate>>,
}

impl Gate for Door {
    fn admit(&self, caller: &Caller<'_>) -> Result<Pass, Denied> {
        let id = next(&self.log.attempts);
        self.log.enter("Preconnect", id, vec![self.log.flag()]);
        let passes: Result<Vec<Pass>, Denied> =
            self.below.iter().map(|gate| gate.admit(caller)).collect();
        let mut fields = vec![("return", Value::Number(if passes.is_ok() { 0 } else { -1 }))];
        if passes.is_err() {
            fields.push(("error", Value::Name("EPERM")));
        }
        self.log.leave("Preconnect", id, fields);
        passes.map(Pass::holding)
    }

    fn judge(&self, caller: &Caller<'_>) -> Verdict {
        judge(&self.below, caller)
    }

    fn needs_certificate(&self) -> Option<NeedsCertificate> {
        self.below.iter().find_map(|gate| gate.needs_certificate())
    }
}

#[derive(Debug)]
struct LoggedExports {
    log: Arc<Log>,
    below: Arc<dyn Exports>,
}

impl Exports for LoggedExports {
    fn list<'a>(&'a self, permit: &'a Permit) -> Listing<'a> {
        Box::pin(async move {
            let id = next(&self.log.lists);
            self.log.enter("ListExports", id, vec![self.log.flag()]);
            let list = self.below.list(permit).await;
            let fields = match &list {
                Ok(list) => {
                    let names = list.iter().map(|listed| listed.name.clone()).collect();
                    vec![("exports", Value::Texts(names)), ("return", Value::Number(0))]
                }
                Err(_) => vec![("return", Value::Number(-1))],
            };
            self.log.leave("ListExports", id, fields);
            list
        })
    }

    fn open<'a>(&'a self, name: &'a str, permit: &'a Permit) -> Opened<'a> {
        Box::pin(async move {
            let below = self.below.open(name, permit).await?;
            let connection = next(&self.log.opened);
            let fields = connect(name, permit, &below.info());
            self.log.writer.push(Line::new(Some(connection), Type::Print, "Connect", None, fields));
            Ok(Arc::new(Logged::new(below, Arc::clone(&self.log.writer), connection)) as _)
        })
    }

    fn canonical<'a>(&'a self, name: &'a str) -> &'a str {
        self.below.canonical(name)
    }
}

/// The facts of the export that a client has opened.
fn connect(name: &str, permit: &Permit, info: &DiskInfo) -> Fields {
    let writable = !(info.read_only || permit.opening().read_only);
    let flag = |yes: bool| Value::Number(yes.into());
    // nbdkit's numbers: 2 is native, 0 is none. 1, emulated by the server, does not exist here.
    let native = |yes: bool| Value::Number(if yes { 2 } else { 0 });
    vec![
        ("export", Value::Text(name.to_owned())),
        ("tls", flag(permit.opening().tls)),
        ("size", Value::Hex(info.size)),
        ("minsize", Value::Hex(info.block_minimum.into())),
        ("prefsize", Value::Hex(info.block_preferred.into())),
        ("maxsize", Value::Hex(0xffff_ffff)),
        ("write", flag(writable)),
        ("flush", flag(true)),
        ("rotational", flag(info.rotational)),
        ("trim", flag(writable && info.can_trim)),
        ("zero", native(writable && info.can_zero)),
        ("fua", native(writable && info.can_fua)),
        ("extents", flag(info.can_extents)),
        ("cache", native(info.can_cache)),
        ("fast_zero", flag(writable && info.can_fast_zero)),
    ]
}

#[cfg(test)]
mod tests;
