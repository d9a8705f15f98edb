//! What a plugin and its filters build: the exports, and the gates before them.
//!
//! `plugin` makes a stack, each filter (`layer`, `gate`) makes one from the stack below it, and `plan` serves the last.

use std::{error::Error, fmt, future::ready, io, path::PathBuf, sync::Arc};

use thiserror::Error;

use crate::{
    access::{AccessConfigError, ConfiguredGates, Gate, NeedsCertificate},
    exports::{Exports, Listing, OpenError, Opened, Permit},
    lifecycle::Lifecycle,
    params::{Key, Kind, ParamError, Params},
};
use disk::{Disk, MemoryBudget, file::FileError};

/// A filter that is built in.
#[derive(Debug)]
pub(crate) struct Entry {
    pub name: &'static str,
    /// One line for people.
    pub about: &'static str,
    pub keys: &'static [Key],
    /// Builds a stack around the stack below.
    pub(crate) build: fn(&Params<'_>, Stack, &mut Context<'_>) -> Result<Stack, BuildError>,
}

/// What is served so far: a plugin makes the first, each filter makes one from another.
#[derive(Debug)]
pub(crate) struct Stack {
    pub exports: Arc<dyn Exports>,
    /// Asked in this order before a client is sent a byte.
    pub gates: Vec<Arc<dyn Gate>>,
}

impl Stack {
    /// A stack without gates.
    pub(crate) fn new(exports: impl Exports + 'static) -> Self {
        Self { exports: Arc::new(exports), gates: Vec::new() }
    }

    /// Adds a gate that is asked before those of the stack.
    #[must_use]
    pub(crate) fn with_first_gate(mut self, gate: Arc<dyn Gate>) -> Self {
        self.gates.insert(0, gate);
        self
    }

    /// Adds a gate that is asked after those of the stack: a client that another gate denies does not reach it.
    #[must_use]
    pub(crate) fn with_last_gate(mut self, gate: Arc<dyn Gate>) -> Self {
        self.gates.push(gate);
        self
    }

    /// Puts the gates of the command line around those of the filters.
    #[must_use]
    pub(crate) fn guarded_by(mut self, gates: ConfiguredGates) -> Self {
        self.gates.splice(0..0, gates.first);
        self.gates.extend(gates.last);
        self
    }

    /// Checks the rules of the gates where no client can show a certificate.
    ///
    /// # Errors
    /// The first rule that needs a certificate.
    pub(crate) fn check_without_certificates(&self) -> Result<(), NeedsCertificate> {
        let needs = self.gates.iter().find_map(|gate| gate.needs_certificate());
        needs.map_or(Ok(()), Err)
    }

    /// Puts each disk, whenever it is opened, into the disk that `around` makes of it at once.
    pub(crate) fn each<F>(self, around: F) -> Self
    where
        F: Fn(Arc<dyn Disk>, &Permit) -> Result<Arc<dyn Disk>, OpenError> + Send + Sync + 'static,
    {
        self.each_later(move |below, permit| Box::pin(ready(around(below, permit))))
    }

    /// As `each`, where `around` waits for something.
    pub(crate) fn each_later<F>(self, around: F) -> Self
    where
        F: Fn(Arc<dyn Disk>, &Permit) -> Opened<'_> + Send + Sync + 'static,
    {
        let exports = Arc::new(Each { below: self.exports, around });
        Self { exports, gates: self.gates }
    }
}

struct Each<F> {
    below: Arc<dyn Exports>,
    around: F,
}

impl<F> fmt::Debug for Each<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Each").field("below", &self.below).finish_non_exhaustive()
    }
}

impl<F> Exports for Each<F>
where
    F: Fn(Arc<dyn Disk>, &Permit) -> Opened<'_> + Send + Sync,
{
    fn list<'a>(&'a self, permit: &'a Permit) -> Listing<'a> {
        self.below.list(permit)
    }

    fn open<'a>(&'a self, name: &'a str, permit: &'a Permit) -> Opened<'a> {
        Box::pin(async move {
            let below = self.below.open(name, permit).await?;
            (self.around)(below, permit).await
        })
    }

    fn canonical<'a>(&'a self, name: &'a str) -> &'a str {
        self.below.canonical(name)
    }
}

/// The agent around a stack that is being built. Building runs on the main thread and its runtime. A filter may spawn
/// tasks there, which end with the agent.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    /// `-r`: disks are opened for reading only, where they can be.
    pub read_only: bool,
    /// `-u`, `-g`: the agent becomes another user once the stack is built.
    pub changes_user: bool,
    /// Hooks for reload, report and exit.
    pub lifecycle: &'a mut Lifecycle,
    /// The budget of all memory disks.
    pub memory: Arc<MemoryBudget>,
}

#[cfg(test)]
impl Context<'_> {
    pub(crate) fn unlimited() -> Arc<MemoryBudget> {
        Arc::new(MemoryBudget::new(u64::MAX))
    }
}

/// Why a stack could not be built.
#[derive(Debug, Error)]
pub(crate) enum BuildError {
    #[error("there is no {kind} '{name}'; built in are: {built_in}", built_in = .built_in.join(", "))]
    Unknown { kind: Kind, name: String, built_in: Vec<&'static str> },
    #[error(
        "the {kind} '{name}' is not built into agent; built in are: {built_in}",
        built_in = .built_in.join(", ")
    )]
    NotBuiltIn { kind: Kind, name: String, built_in: Vec<&'static str> },
    #[error(transparent)]
    Params(#[from] ParamError),
    #[error("plugin file: give one of 'file' and 'dir', not both")]
    FileAndDirectory,
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Access(#[from] AccessConfigError),
    #[error("cannot serve the directory {}", .path.display())]
    Directory { path: PathBuf, source: io::Error },
    /// An error of one plugin or filter, which has a type of its own and names the plugin or filter.
    #[error(transparent)]
    Own(Box<dyn Error + Send + Sync>),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        access::{Caller, Denied, Pass},
        exports::Single,
        peer::Peer,
    };
    use disk::NullDisk;

    /// Denies every client, by its name.
    #[derive(Debug)]
    struct Closed(&'static str);

    impl Gate for Closed {
        fn admit(&self, _: &Caller<'_>) -> Result<Pass, Denied> {
            Err(Denied::new(self.0))
        }
    }

    #[test]
    fn the_gates_of_the_command_line_stand_around_those_of_filters() {
        let gate = |name| Arc::new(Closed(name)) as Arc<dyn Gate>;
        let stack = Stack::new(Single(Arc::new(NullDisk::new(0))))
            .with_last_gate(gate("limit"))
            .with_first_gate(gate("ip"))
            .guarded_by(ConfiguredGates {
                first: Some(gate("--allow")),
                last: Some(gate("--limit")),
            });
        let denied = |gate: &Arc<dyn Gate>| {
            gate.admit(&Caller::new(&Peer::Pipe, &|| None)).unwrap_err().rule
        };
        let order: Vec<_> = stack.gates.iter().map(denied).collect();
        assert_eq!(order, ["--allow", "ip", "limit", "--limit"]);
    }
}
