//! Connections and listeners that this process inherited instead of opening its own.
//!
//! `cli` decides which of them are used. `plan` takes them over before anything else is opened.

use thiserror::Error;

use super::Accepted;
use super::{
    Listener,
    activation::{self, ActivationError, Handed},
    stdio::{self, StdioError},
    tcp,
};
use crate::peer::Peer;

/// What the agent inherited from the process that started it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Given {
    /// Nothing: the agent opens its own listeners.
    #[default]
    Nothing,
    /// Sockets from descriptor 3 on, sd_listen_fds(3).
    Sockets(Handed),
    /// One client on stdin and stdout, `--single`.
    Client,
}

/// The inherited listeners and connections after they were taken over.
#[derive(Debug, Default)]
pub(crate) struct Adopted {
    pub listeners: Vec<Listener>,
    pub connected: Vec<(Accepted, Peer)>,
}

/// Why they cannot be taken over.
#[derive(Debug, Error)]
pub(crate) enum GivenError {
    #[error(transparent)]
    Activation(#[from] ActivationError),
    #[error(transparent)]
    Stdio(#[from] StdioError),
}

impl Given {
    /// Takes them over. Call it on the runtime that will accept.
    pub(crate) fn adopt(&self) -> Result<Adopted, GivenError> {
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
    /// As `Listener::keep_alive`, for inherited TCP connections.
    pub(crate) fn keep_alive(&self) {
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
    /// What to do about it, if that is known.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Activation(error) => error.hint().map(str::to_owned),
            Self::Stdio(error) => Some(error.hint().to_owned()),
        }
    }
}
