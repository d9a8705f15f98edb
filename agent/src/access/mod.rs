//! Who may connect: decided for each connection before it is sent a byte.
//!
//! `session` asks the gates that the command line and the layers have put up. Nothing here knows
//! NBD, and nothing waits.

use std::{any::Any, fmt};

use thiserror::Error;

use crate::peer::Peer;

/// Says who may come in.
pub trait Gate: Send + Sync + fmt::Debug {
    /// Lets the peer in, or says which rule forbids it.
    fn admit(&self, peer: &Peer) -> Result<Pass, Denied>;
}

/// A place behind a gate, given back when it is dropped: when the connection is over.
#[derive(Default)]
pub struct Pass(#[allow(dead_code, reason = "held for its drop")] Option<Box<dyn Any + Send>>);

impl Pass {
    /// Holds `guard` for as long as the connection lives.
    pub fn holding(guard: impl Any + Send) -> Self {
        Self(Some(Box::new(guard)))
    }
}

impl fmt::Debug for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pass")
    }
}

/// The rule that forbids a connection, in its own words.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{rule}")]
pub struct Denied {
    pub rule: String,
}
