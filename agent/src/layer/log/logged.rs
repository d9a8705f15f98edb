//! A disk whose requests are logged: one line when a request comes, one when it is done.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use super::{
    Fields,
    line::{Line, Type, Value},
    writer::Writer,
};
use disk::{Answer, Disk, DiskError, Kind, Layer, Op, Progress, Turn, Verb};

/// A request without its parameters.
type Asked = (Verb, (u64, u64));

#[derive(Debug)]
pub(super) struct Logged {
    below: Arc<dyn Disk>,
    writer: Arc<Writer>,
    connection: u64,
    /// Requests so far.
    count: AtomicU64,
    /// Requests that `try_execute` has logged and that wait for `execute`. Two equal requests may be swapped.
    waiting: Mutex<Vec<(Asked, u64)>>,
}

impl Logged {
    pub(super) fn new(below: Arc<dyn Disk>, writer: Arc<Writer>, connection: u64) -> Self {
        let (count, waiting) = (AtomicU64::new(0), Mutex::default());
        Self { below, writer, connection, count, waiting }
    }

    fn push(&self, kind: Type, act: &'static str, id: Option<u64>, fields: Fields) {
        self.writer.push(Line::new(Some(self.connection), kind, act, id, fields));
    }

    fn enter(&self, op: &Op<'_>) -> u64 {
        let id = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        self.push(Type::Enter, act(op.verb()), Some(id), parameters(op));
        id
    }

    fn leave(&self, (verb, (at, _)): Asked, id: u64, result: Result<&Answer, &DiskError>) {
        let fields = match result {
            Ok(answer) if verb == Verb::Extents => vec![
                ("extents", Value::Extents(at, answer.extents.clone())),
                ("return", Value::Number(0)),
            ],
            Ok(_) => vec![("return", Value::Number(0))],
            Err(error) => {
                vec![("return", Value::Number(-1)), ("error", Value::Name(name(error)))]
            }
        };
        self.push(Type::Leave, act(verb), Some(id), fields);
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Vec<(Asked, u64)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        let count = i64::try_from(self.count.load(Ordering::Relaxed)).unwrap_or(i64::MAX);
        self.push(Type::Print, "Disconnect", None, vec![("transactions", Value::Number(count))]);
    }
}

impl Layer for Logged {
    fn below(&self) -> &dyn Disk {
        &*self.below
    }

    fn try_execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Turn, DiskError> {
        let asked = (op.verb(), op.range());
        let id = self.enter(op);
        let turn = self.below.try_execute(op, answer);
        match &turn {
            Ok(Turn::Done) => self.leave(asked, id, Ok(answer)),
            Ok(Turn::WouldBlock) => self.waiting().push((asked, id)),
            Err(error) => self.leave(asked, id, Err(error)),
        }
        turn
    }

    fn execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Progress, DiskError> {
        let asked = (op.verb(), op.range());
        let logged = {
            let mut waiting = self.waiting();
            let place = waiting.iter().position(|(waiting, _)| *waiting == asked);
            place.map(|place| waiting.remove(place).1)
        };
        let id = logged.unwrap_or_else(|| self.enter(op));
        let done = self.below.execute(op, answer);
        match &done {
            Ok(Progress::Until(bytes)) => {
                // The rest of the request keeps its number.
                let (verb, (at, len)) = asked;
                self.waiting().push(((verb, (at + bytes, len - bytes)), id));
            }
            Ok(Progress::Done) => self.leave(asked, id, Ok(answer)),
            Err(error) => self.leave(asked, id, Err(error)),
        }
        done
    }
}

fn act(verb: Verb) -> &'static str {
    match verb {
        Verb::Open => "Open",
        Verb::Read => "Read",
        Verb::Write => "Write",
        Verb::Flush => "Flush",
        Verb::Trim => "Trim",
        Verb::Zero => "Zero",
        Verb::Cache => "Cache",
        Verb::Extents => "Extents",
    }
}

fn parameters(op: &Op<'_>) -> Fields {
    if op.verb() == Verb::Flush {
        return Vec::new();
    }
    let (at, len) = op.range();
    let mut fields = vec![("offset", Value::Hex(at)), ("count", Value::Hex(len))];
    let flag = |yes: &bool| Value::Number((*yes).into());
    match op {
        Op::Write { fua, .. } | Op::Trim { fua, .. } => fields.push(("fua", flag(fua))),
        Op::Zero { fua, may_trim, fast, .. } => {
            fields.extend([("trim", flag(may_trim)), ("fua", flag(fua)), ("fast", flag(fast))]);
        }
        Op::Extents { one, .. } => fields.push(("req_one", flag(one))),
        _ => {}
    }
    fields
}

/// The name of the error that the client gets.
fn name(error: &DiskError) -> &'static str {
    match error.kind {
        Kind::Denied => "EPERM",
        Kind::Io => "EIO",
        Kind::NoSpace => "ENOSPC",
        Kind::NoMemory => "ENOMEM",
        Kind::Invalid => "EINVAL",
        Kind::Unsupported => "ENOTSUP",
        Kind::TooLarge => "EOVERFLOW",
        Kind::ShutDown => "ESHUTDOWN",
    }
}
