//! What the tests of sessions share.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use disk::Disk;
use nbd::negotiate::{Offers, Tls};

use super::rules::Rules;
use crate::{exports::Single, tls};

/// The rules of an agent that serves `disk` to every client, without TLS. Requests run one after the other: a request
/// that waits for an earlier write has not begun.
pub(super) fn rules_of(disk: Arc<dyn Disk>) -> Rules {
    Rules {
        exports: Arc::new(Single(disk)),
        gates: Vec::new(),
        changes: None,
        fencing: Arc::default(),
        tenants: Arc::default(),
        connections: AtomicU64::new(0),
        handshake_timeout: Duration::from_mins(1),
        offers: Offers { tls: Tls::Off, ..Offers::default() },
        read_only: false,
        threads: Some(1),
        tls: tls::Policy::Off,
    }
}
