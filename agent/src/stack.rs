//! What a plugin and its layers build: the exports, and the gates before them.
//!
//! `plugin` makes a stack, each `layer` makes one from the stack below it, and `plan` serves the last.

use std::{error::Error, io, path::PathBuf, sync::Arc};

use thiserror::Error;

use crate::{
    access::Gate,
    exports::Exports,
    lifecycle::Lifecycle,
    params::{Kind, ParamError},
};
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
