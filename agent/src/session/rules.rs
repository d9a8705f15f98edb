//! What all sessions of an agent share.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use nbd::negotiate::Offers;

use super::fencing::Fencing;
use crate::{
    access::{Changes, Gate},
    exports::Exports,
    tenant::Tenants,
    tls,
};

/// The configuration and state that all sessions of an agent share.
#[derive(Debug)]
pub(crate) struct Rules {
    pub exports: Arc<dyn Exports>,
    /// Asked in this order before the agent sends a byte.
    pub gates: Vec<Arc<dyn Gate>>,
    /// Notifies sessions when the rules of a gate change. `None` if no gate's rules can change.
    pub changes: Option<Changes>,
    /// Clients that may reconnect.
    pub fencing: Arc<Fencing>,
    /// The tenants that connections are charged to.
    pub tenants: Arc<Tenants>,
    /// Connections since the start, for their numbers.
    pub connections: AtomicU64,
    /// The longest time from accept to the end of the negotiation; `--timeout`.
    pub handshake_timeout: Duration,
    /// The features that clients may negotiate.
    pub offers: Offers,
    /// Refuse every write; `--readonly`.
    pub read_only: bool,
    /// The maximum of requests per connection that disks and other threads work on at once (`--threads`); at least 1.
    /// `None` for the defaults of `blocking`.
    pub threads: Option<usize>,
    /// How NBD_OPT_STARTTLS is answered; `--tls`.
    pub tls: tls::Policy,
}
