//! Everything that the command line decided. `cli` makes a `Plan`, `startup` opens what it names.

use std::{path::PathBuf, sync::Arc, time::Duration};

use disk::{MemoryBudget, ring::Io};

use crate::{
    access::AccessConfig,
    listen::{Address, Given},
    log::Log,
    machines::Machines,
    params::Word,
    process::Process,
    sys,
    tenant::MemoryLimits,
    tls,
};

/// What the agent is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Connections and listeners that are there already; none are opened then.
    pub given: Given,
    /// At least one, unless something is given.
    pub listen: Vec<Address>,
    pub plugin: String,
    /// Layers by name, the first nearest to the client.
    pub filters: Vec<String>,
    /// For the layers and the plugin; a value without a key is the plugin's main parameter.
    pub params: Vec<Word>,
    pub read_only: bool,
    pub access: AccessConfig,
    /// Most connections at once of one tenant; `None`: no limit of its own.
    pub connections_per_tenant: Option<usize>,
    pub memory: Memory,
    /// Virtual machines whose guests come in, as long as they live.
    pub machines: Machines,
    /// For the URIs that are printed.
    pub export_name: String,
    /// Most requests of a connection that are out at once, if not as many as is best; at least 1.
    pub threads: Option<usize>,
    /// How files are read and written.
    pub io: Io,
    pub handshake_timeout: Duration,
    pub shutdown_timeout: Duration,
    pub pid_file: Option<PathBuf>,
    pub print_uri: bool,
    /// SO_KEEPALIVE on TCP connections.
    pub keep_alive: bool,
    /// What clients may negotiate.
    pub offers: nbd::negotiate::Offers,
    pub process: Process,
    pub tls: tls::Wanted,
    pub log: Log,
}

/// How much memory is given, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// To what one connection holds.
    pub connection: u64,
    /// To all connections of a tenant.
    pub tenant: u64,
    /// To all connections; `None`: a quarter of what the process may have.
    pub total: Option<u64>,
    /// To all memory disks; `None`: half of what the process may have.
    pub disks: Option<u64>,
}

impl Memory {
    /// The limits of connections and tenants.
    pub(crate) fn limits(&self) -> MemoryLimits {
        let total = self.total.unwrap_or_else(|| sys::memory::available() / 4);
        MemoryLimits { connection: self.connection, tenant: self.tenant, total }
    }

    /// The budget of all memory disks together.
    pub(crate) fn disks(&self) -> Arc<MemoryBudget> {
        let most = self.disks.unwrap_or_else(|| sys::memory::available() / 2);
        Arc::new(MemoryBudget::new(most))
    }
}
