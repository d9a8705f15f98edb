//! One client on stdin and stdout (`--single`), where inetd, xinetd and libnbd's connect_command
//! put it. The agent writes nothing else to these descriptors.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use thiserror::Error;

use super::Accepted;
use super::descriptor::{Found, find_out, prepare};
use crate::{peer::Peer, sys::inherited};

/// Why there is no client on stdin and stdout.
#[derive(Debug, Error)]
pub(crate) enum StdioError {
    #[error("-s/--single: {name} is {found}, not a client's connection")]
    NoClient { name: &'static str, found: &'static str },
    #[error("-s/--single: stdin is a listening socket, not a client's connection")]
    Listening,
    #[error("-s/--single: cannot take stdin and stdout over")]
    System(#[from] io::Error),
}

impl StdioError {
    /// What to do about it.
    pub(super) fn hint(&self) -> &'static str {
        match self {
            Self::NoClient { .. } => {
                "start it from inetd, xinetd or a client, or with pipes: \
                 'client | agent -s ... | client'"
            }
            Self::Listening => "write 'nowait' in inetd.conf, 'wait = no' in xinetd's file",
            Self::System(_) => "let both be a socket, or pipes",
        }
    }
}

/// Keeps the agent's own output away from the client. Call it before anything is printed: inetd and
/// xinetd make stderr the client's socket, and not even an error may be written there. With
/// `single`, when a client is known to be there, it also covers a pipe to the client. Returns
/// whether stderr was the client's. If it was, stderr is /dev/null from then on.
pub(crate) fn spare_client(single: bool) -> bool {
    // On failure stdin or stderr is not open, so neither is a client's.
    inherited::part_stderr_from_client(single).unwrap_or(false)
}

/// Takes the client's connection from stdin and stdout, which are /dev/null from then on.
pub(super) fn take_client() -> Result<(Accepted, Peer), StdioError> {
    inherited::part_stderr_from_client(true)?;
    let (stdin, stdout) = inherited::take_stdin_and_stdout()?;
    let input = judge("stdin", &stdin)?;
    let is_one = inherited::is_one_socket(stdin.as_fd(), stdout.as_fd())?;
    let output = if is_one { None } else { Some(judge("stdout", &stdout)?) };
    // A pipe does not identify its peer. If one of the two ends is a socket, its peer is the
    // client.
    let peer = [input, output.unwrap_or(Peer::Pipe)].into_iter().find(|peer| *peer != Peer::Pipe);
    let peer = peer.unwrap_or(Peer::Pipe);
    for end in [&stdin, &stdout] {
        prepare(end, &peer);
    }
    let to = (!is_one).then_some(stdout);
    Ok((Accepted::Kernel { from: stdin, to }, peer))
}

/// Identifies the peer of one of the two descriptors.
fn judge(name: &'static str, fd: &OwnedFd) -> Result<Peer, StdioError> {
    match find_out(fd.as_fd())? {
        Found::Connection(peer) => Ok(peer),
        Found::Pipe => Ok(Peer::Pipe),
        Found::Listener(_) => Err(StdioError::Listening),
        Found::Other(found) => Err(StdioError::NoClient { name, found }),
    }
}
