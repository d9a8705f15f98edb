//! What plugins and layers are made from: words with keys, and what they may ask of the agent.
//!
//! `plan` puts the words in, `plugin` and `layer` take them out. Nothing is opened here.

mod params;

use std::{error::Error, fmt, io, path::PathBuf, sync::Arc};

use thiserror::Error;

pub use self::params::{Key, ParamError, Params, Word};
use crate::{access::Gate, exports::Exports, lifecycle::Lifecycle};
use disk::{MemoryBudget, file::FileError};

/// What is served so far: a plugin makes the first, each layer makes one from another.
#[derive(Debug)]
pub struct Stack {
    pub exports: Arc<dyn Exports>,
    /// Asked in this order before a client is sent a byte.
    pub gates: Vec<Arc<dyn Gate>>,
}

impl Stack {
    /// Exports that anybody may have.
    pub fn new(exports: impl Exports + 'static) -> Self {
        Self { exports: Arc::new(exports), gates: Vec::new() }
    }

    /// The same behind one gate more, which is asked first.
    #[must_use]
    pub fn behind(mut self, gate: Arc<dyn Gate>) -> Self {
        self.gates.insert(0, gate);
        self
    }
}

/// The agent around a stack while it is built. Building runs on the main thread, on its runtime: a
/// layer may spawn tasks there, which end with the agent.
#[derive(Debug)]
pub struct Context<'a> {
    /// `-r`: what can be opened for reading alone is.
    pub read_only: bool,
    /// `-u`, `-g`: the agent becomes another user once the stack is built.
    pub changes_user: bool,
    /// What is to be called when the agent is told something.
    pub lifecycle: &'a mut Lifecycle,
    /// What all memory disks may take together.
    pub memory: Arc<MemoryBudget>,
}

#[cfg(test)]
impl Context<'_> {
    pub(crate) fn unlimited() -> Arc<MemoryBudget> {
        Arc::new(MemoryBudget::new(u64::MAX))
    }
}

/// Why no disk came of the words.
#[derive(Debug, Error)]
pub enum BuildError {
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
    #[error("cannot serve the directory {}", .path.display())]
    Directory { path: PathBuf, source: io::Error },
    /// Of one plugin or layer, which has an error type of its own and says its name.
    #[error(transparent)]
    Own(Box<dyn Error + Send + Sync>),
}

/// What a name is the name of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Plugin,
    Filter,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plugin => "plugin",
            Self::Filter => "filter",
        })
    }
}
