//! Everything that the command line decides. `cli` makes a `Plan`, `startup` opens what it names.

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

/// The configuration of the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Connections and listeners that exist already. If there are any, no others are opened.
    pub given: Given,
    /// Addresses to listen on: at least one, unless something is given.
    pub listen: Vec<Address>,
    pub plugin: String,
    /// Filters by name, the first nearest to the client.
    pub filters: Vec<String>,
    /// Parameters of the filters and the plugin. A value without a key is the plugin's main parameter.
    pub params: Vec<Word>,
    pub read_only: bool,
    pub access: AccessConfig,
    /// The maximum of connections per tenant; `None` for no such limit.
    pub connections_per_tenant: Option<usize>,
    pub memory: Memory,
    /// Virtual machines whose guests may connect as long as the machine lives.
    pub machines: Machines,
    /// The export's name in the URIs that are printed.
    pub export_name: String,
    /// The maximum of requests per connection that are out at once; at least 1. `None` for the defaults.
    pub threads: Option<usize>,
    /// How files are read and written.
    pub io: Io,
    pub handshake_timeout: Duration,
    pub shutdown_timeout: Duration,
    pub pid_file: Option<PathBuf>,
    pub print_uri: bool,
    /// Whether to set SO_KEEPALIVE on TCP connections.
    pub keep_alive: bool,
    /// The features that clients may negotiate.
    pub offers: nbd::negotiate::Offers,
    pub process: Process,
    pub tls: tls::Wanted,
    pub log: Log,
}

impl Plan {
    /// Whether another process may serve the same listeners after this one: not where the agent serves one client, one
    /// command or one parent, and not where another program holds the sockets.
    pub(crate) fn outlives_the_process(&self) -> bool {
        self.given == Given::Nothing && self.process.command.is_none() && !self.process.with_parent
    }
}

/// Limits of memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    /// For one connection.
    pub connection: u64,
    /// For all connections of a tenant.
    pub tenant: u64,
    /// For all connections; `None` for a quarter of what the process may have.
    pub total: Option<u64>,
    /// For all memory disks; `None` for half of what the process may have.
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
