//! Names to disks: what a client may list and open. Opening happens here and nowhere else.

mod directory;
mod permit;

use std::{fmt, io, sync::Arc};

pub use self::{
    directory::Directory,
    permit::{Covers, Opening, Permit, authorize},
};
use disk::{Disk, DiskError};

/// An export as LIST shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub name: String,
    pub description: Option<String>,
}

/// Why a name was not opened.
#[derive(Debug)]
pub enum OpenError {
    /// No such export (the client is told no more than that).
    Unknown,
    /// It exists and could not be opened.
    Failed(DiskError),
}

/// The exports of one agent. May block: `session/` calls it on the blocking pool when `blocking`.
pub trait Exports: Send + Sync + fmt::Debug {
    /// What LIST answers, in order.
    fn list(&self, permit: &Permit) -> io::Result<Vec<Listed>>;
    /// The disk behind a name, for one connection, which drops it when it is over.
    fn open(&self, name: &str, permit: &Permit) -> Result<Arc<dyn Disk>, OpenError>;
    /// The one name that stands for all names of the same disk.
    fn canonical<'a>(&'a self, name: &'a str) -> &'a str;
    /// Whether `list` or `open` may touch a filesystem.
    fn blocking(&self) -> bool {
        false
    }
}

/// One disk under every name, as nbdkit's plugins serve it.
#[derive(Debug)]
pub struct Single(pub Arc<dyn Disk>);

impl Exports for Single {
    fn list(&self, _: &Permit) -> io::Result<Vec<Listed>> {
        Ok(vec![Listed { name: String::new(), description: self.0.facts().description }])
    }

    fn open(&self, _name: &str, _: &Permit) -> Result<Arc<dyn Disk>, OpenError> {
        Ok(Arc::clone(&self.0))
    }

    fn canonical<'a>(&'a self, _: &'a str) -> &'a str {
        ""
    }
}
