//! Names to disks: what a client may list and open. Opening happens here and nowhere else.

mod directory;

use std::{fmt, io, sync::Arc};

pub use directory::Directory;

use crate::{peer::Peer, tenant::Tenant, tls::Certificate};
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

/// Who opens an export, and how. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Opening {
    pub peer: Peer,
    /// The name that the client asks for: layers that change names do not change it.
    pub export: String,
    /// Counts the agent's connections, from 1.
    pub connection: u64,
    /// Writes will be refused (`-r`).
    pub read_only: bool,
    /// The connection is encrypted.
    pub tls: bool,
    /// The client's, verified; `None` unless `--tls-verify-peer`.
    pub certificate: Option<Arc<Certificate>>,
    /// Whom the connection is charged to.
    pub tenant: Arc<Tenant>,
}

/// The exports of one agent. May block: `session/` calls it on the blocking pool when `blocking`.
pub trait Exports: Send + Sync + fmt::Debug {
    /// What LIST answers, in order.
    fn list(&self) -> io::Result<Vec<Listed>>;
    /// The disk behind a name, for one connection, which drops it when it is over.
    fn open(&self, name: &str, opening: &Opening) -> Result<Arc<dyn Disk>, OpenError>;
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
    fn list(&self) -> io::Result<Vec<Listed>> {
        Ok(vec![Listed { name: String::new(), description: self.0.facts().description }])
    }

    fn open(&self, _name: &str, _: &Opening) -> Result<Arc<dyn Disk>, OpenError> {
        Ok(Arc::clone(&self.0))
    }

    fn canonical<'a>(&'a self, _: &'a str) -> &'a str {
        ""
    }
}

#[cfg(test)]
impl Opening {
    /// Of a connection that a test has no other words for.
    pub(crate) fn any() -> Self {
        let peer = Peer::Unix { pid: 1, uid: 0, gid: 0 };
        let tenant = crate::tenant::Tenants::default().get(crate::tenant::Key::of(&peer, None));
        Self {
            peer,
            export: String::new(),
            connection: 1,
            read_only: false,
            tls: false,
            certificate: None,
            tenant,
        }
    }
}
