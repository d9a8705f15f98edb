//! Exports: names that clients list, and the disks that they open by these names.

mod directory;
mod files;
mod permit;

use std::{error::Error, fmt, future::ready, io, pin::Pin, sync::Arc};

use thiserror::Error;

pub(crate) use self::{
    directory::Directory,
    files::{Files, Layout},
    permit::{Covers, Opening, Permit, authorize},
};
use disk::{Disk, DiskError, Kind, Verb};
use human::chain;

/// Most names in a list. Further exports can be opened, but are not listed.
pub(crate) const LISTED: usize = 10_000;

/// An export as LIST shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    pub name: String,
    pub description: Option<String>,
}

/// Why a name was not opened.
#[derive(Debug)]
pub(crate) enum OpenError {
    /// There is no such export. The client is told no more than that.
    Unknown,
    /// The export exists and could not be opened.
    Failed(DiskError),
}

impl OpenError {
    /// The export could not be opened, because of `error` and its causes.
    pub(crate) fn because(error: &(dyn Error + 'static)) -> Self {
        let source = Some(io::Error::other(chain(error).to_string()));
        Self::Failed(DiskError { source, ..DiskError::new(Kind::Io, Verb::Open, (0, 0)) })
    }
}

impl From<Panicked> for OpenError {
    fn from(error: Panicked) -> Self {
        Self::because(&error)
    }
}

/// Work on another thread panicked, which is a bug of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a bug in agent: its work panicked")]
pub struct Panicked;

impl From<Panicked> for io::Error {
    fn from(error: Panicked) -> Self {
        Self::other(error)
    }
}

/// A list that is being made.
pub(crate) type Listing<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<Listed>>> + Send + 'a>>;
/// A disk that is being opened.
pub(crate) type Opened<'a> =
    Pin<Box<dyn Future<Output = Result<Arc<dyn Disk>, OpenError>> + Send + 'a>>;

/// The exports of one agent.
///
/// The connection's task polls the futures, on a thread that serves other connections too, so they never block it. Work
/// that blocks for a moment goes through `Permit::blocking`. Work that waits for another party waits asynchronously. A
/// future is dropped when its client leaves or the agent ends, and its work ends with it.
pub(crate) trait Exports: Send + Sync + fmt::Debug {
    /// The answer to LIST, in order, for the client that has the permit.
    fn list<'a>(&'a self, permit: &'a Permit) -> Listing<'a>;
    /// Opens the disk behind a name for one connection, which drops it at its end.
    fn open<'a>(&'a self, name: &'a str, permit: &'a Permit) -> Opened<'a>;
    /// The canonical name: the same for all names of a disk.
    fn canonical<'a>(&'a self, name: &'a str) -> &'a str;
}

/// One disk under every name, as nbdkit's plugins serve it.
#[derive(Debug)]
pub(crate) struct Single(pub Arc<dyn Disk>);

impl Exports for Single {
    fn list<'a>(&'a self, _: &'a Permit) -> Listing<'a> {
        let listed = Listed { name: String::new(), description: self.0.info().description };
        Box::pin(ready(Ok(vec![listed])))
    }

    fn open<'a>(&'a self, _: &'a str, _: &'a Permit) -> Opened<'a> {
        Box::pin(ready(Ok(Arc::clone(&self.0))))
    }

    fn canonical<'a>(&'a self, _: &'a str) -> &'a str {
        ""
    }
}

/// Opens an export and waits for it, outside of any runtime.
#[cfg(test)]
pub(crate) fn open_now(exports: &dyn Exports, name: &str) -> Result<Arc<dyn Disk>, OpenError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(exports.open(name, &Permit::any()))
}

/// The same with the list.
#[cfg(test)]
pub(crate) fn list_now(exports: &dyn Exports) -> io::Result<Vec<Listed>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(exports.list(&Permit::any()))
}
