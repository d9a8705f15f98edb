//! The log's lines about requests that failed in a disk or for lack of memory.

use std::sync::Arc;

use disk::{DiskError, Kind};
use nbd::wire::Request;

use super::super::errno::errno;
use crate::{peer::Peer, tenant::Tenant};

/// The connection whose requests fail, for the log.
#[derive(Debug)]
pub(in crate::session) struct Failures {
    pub(in crate::session) peer: Peer,
    pub(in crate::session) export: String,
    pub(in crate::session) tenant: Arc<Tenant>,
}

impl Failures {
    /// Logs a failure of the disk. A request that is not allowed (a write to a read-only disk) is no such failure.
    pub(super) fn disk(&self, error: &DiskError) {
        if !matches!(error.kind, Kind::Io | Kind::NoSpace | Kind::NoMemory) {
            return;
        }
        tracing::warn!(
            peer = %self.peer,
            export = self.export,
            errno = %errno(error),
            "a disk failed: {}",
            error.with_cause()
        );
    }

    /// Logs that the agent has no memory for a request.
    pub(super) fn no_memory(&self, request: &Request) {
        tracing::warn!(
            peer = %self.peer,
            export = self.export,
            "no memory for a request of {} bytes at offset {}: answered with ENOMEM \
             (see --memory-per-connection, --memory-per-tenant and --memory-total)",
            request.len,
            request.offset
        );
    }
}
