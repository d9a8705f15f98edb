//! Connections and listeners that this process was started with, instead of opening its own.
//!
//! `cli` decides which it is, `plan` takes them before anything else is opened.

use thiserror::Error;

use super::Accepted;
use super::{
    Listener,
    activation::{self, ActivationError, Handed},
    stdio::{self, StdioError},
    tcp,
};
use crate::peer::Peer;

/// What whoever started the agent has given it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Given {
    /// It opens its own listeners.
    #[default]
    Nothing,
    /// Sockets from descriptor 3 on, sd_listen_fds(3).
    Sockets(Handed),
    /// One client on stdin and stdout, `--single`.
    Client,
}

/// The same, taken over.
#[derive(Debug, Default)]
pub struct Adopted {
    pub listeners: Vec<Listener>,
    pub connected: Vec<(Accepted, Peer)>,
}

/// Why it cannot be taken.
#[derive(Debug, Error)]
pub enum GivenError {
    #[error(transparent)]
    Activation(#[from] ActivationError),
    #[error(transparent)]
    Stdio(#[from] StdioError),
}

impl Given {
    /// Takes them over. Must be called on the runtime that will accept.
    pub fn adopt(&self) -> Result<Adopted, GivenError> {
        Ok(match self {
            Self::Nothing => Adopted::default(),
            Self::Sockets(handed) => activation::adopt(handed)?,
            Self::Client => {
                Adopted { listeners: Vec::new(), connected: vec![stdio::take_client()?] }
            }
        })
    }
}

impl Adopted {
    /// As `Listener::keep_alive`, for the connections over TCP.
    pub fn keep_alive(&self) {
        for (stream, peer) in &self.connected {
            if matches!(peer, Peer::Tcp(_))
                && let Accepted::Kernel { from, .. } = stream
                && let Err(error) = tcp::keep_alive(from)
            {
                tracing::warn!("--keepalive has no effect on {peer}: {error}");
            }
        }
    }
}

impl GivenError {
    /// What to do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Activation(error) => error.hint().map(str::to_owned),
            Self::Stdio(error) => Some(error.hint().to_owned()),
        }
    }
}
