//! Socket activation, sd_listen_fds(3): sockets that systemd, or another program such as libnbd, has opened for this
//! process, from descriptor 3 on.
//!
//! `main` reads the variables before anything is opened. `plan` adopts the sockets. Descriptors that an earlier process
//! kept come the same way, under names of `fd_store`, and are told apart here.

use std::{
    ffi::{OsStr, OsString},
    fmt, io,
    os::fd::{AsFd, OwnedFd, RawFd},
    process,
};

use thiserror::Error;

use super::Accepted;
use super::{
    Adopted, Listener,
    descriptor::{Found, find_out, prepare},
};
use crate::{
    fd_store::{Kept, PREFIX},
    peer::Peer,
    sys::inherited,
};

/// `SD_LISTEN_FDS_START`, the first inherited descriptor.
const FIRST: RawFd = 3;

/// The variables that announce the sockets. LISTEN_PIDFDID identifies the process once more, as LISTEN_PID does.
const VARIABLES: [&str; 4] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"];

/// The sockets that this process inherited: at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Handed(Vec<Which>);

/// What the variables announce.
#[derive(Debug, Default, PartialEq, Eq)]
struct Announced {
    count: usize,
    /// From LISTEN_FDNAMES: empty, or one name per descriptor.
    names: Vec<String>,
}

/// Why the announced sockets cannot be used.
#[derive(Debug, Error)]
pub(crate) enum ActivationError {
    #[error("socket activation: {variable} is '{value}', which is no number")]
    Number { variable: &'static str, value: String },
    #[error("socket activation: {0} cannot be taken over")]
    Unusable(Which, #[source] io::Error),
    #[error("socket activation: {0} is {1}")]
    Wrong(Which, &'static str),
}

/// One of the descriptors, as messages name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Which {
    fd: RawFd,
    name: Option<String>,
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "descriptor {}", self.fd)?;
        self.name.as_ref().map_or(Ok(()), |name| write!(f, " ({name})"))
    }
}

impl ActivationError {
    /// What to do about it, if that is known.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Number { .. } => Some("unset it, or let a service manager set it"),
            Self::Unusable(_, error) if error.raw_os_error() == Some(libc::EBADF) => {
                Some("LISTEN_FDS counts descriptors that are open, from 3 on")
            }
            Self::Unusable(..) => None,
            Self::Wrong(..) => Some(
                "the agent takes stream sockets that listen or are connected: TCP, Unix or vsock \
                 (ListenStream= in the socket unit)",
            ),
        }
    }
}

/// Reads which sockets this process inherited, if any, and takes what an earlier process kept. Call it before a thread
/// is started or a file opened. Afterwards no child process sees the variables or the descriptors.
pub(crate) fn take() -> Result<(Option<Handed>, Kept), ActivationError> {
    let [pid, fds, names, _] = inherited::take_variables(VARIABLES);
    let (mut sockets, mut kept) = (Vec::new(), Vec::new());
    for which in read(pid, fds, names, process::id())?.each() {
        let unusable = |error| ActivationError::Unusable(which.clone(), error);
        inherited::close_on_exec(which.fd).map_err(unusable)?;
        match which.name.as_deref().and_then(|name| name.strip_prefix(PREFIX)) {
            Some(name) => {
                kept.push((name.to_owned(), inherited::claim(which.fd).map_err(unusable)?));
            }
            None => sockets.push(which),
        }
    }
    let handed = (!sockets.is_empty()).then_some(Handed(sockets));
    Ok((handed, Kept::new(kept)))
}

/// Parses the variables for the process `own`. Variables for another process are ignored.
fn read(
    pid: Option<OsString>,
    fds: Option<OsString>,
    names: Option<OsString>,
    own: u32,
) -> Result<Announced, ActivationError> {
    let (Some(pid), Some(fds)) = (pid, fds) else { return Ok(Announced::default()) };
    let no_number = |variable, value: &OsStr| ActivationError::Number {
        variable,
        value: value.to_string_lossy().escape_debug().to_string(),
    };
    let digits = |value: &OsStr| -> Option<u32> {
        value.to_str().filter(|text| text.bytes().all(|it| it.is_ascii_digit()))?.parse().ok()
    };
    if digits(&pid).ok_or_else(|| no_number("LISTEN_PID", &pid))? != own {
        return Ok(Announced::default());
    }
    // The number of the last descriptor must fit an int.
    let most = (RawFd::MAX - FIRST).unsigned_abs();
    let count = digits(&fds).filter(|count| *count <= most);
    let count = count.ok_or_else(|| no_number("LISTEN_FDS", &fds))? as usize;
    let names = names.map(|names| names.to_string_lossy().escape_debug().to_string());
    let names: Vec<String> =
        names.iter().flat_map(|names| names.split(':')).map(str::to_owned).collect();
    // Without exactly one name per socket it is unknown which name belongs to which socket.
    let names = if names.len() == count { names } else { Vec::new() };
    Ok(Announced { count, names })
}

impl Announced {
    fn each(&self) -> impl Iterator<Item = Which> {
        // systemd and libnbd use these two words for a socket without a name.
        let name =
            |i: usize| self.names.get(i).filter(|name| !["", "unknown"].contains(&name.as_str()));
        (FIRST..).zip(0..self.count).map(move |(fd, i)| Which { fd, name: name(i).cloned() })
    }
}

impl Handed {
    /// `count` sockets without names.
    #[cfg(test)]
    pub(crate) fn unnamed(count: usize) -> Self {
        Self((FIRST..).take(count).map(|fd| Which { fd, name: None }).collect())
    }
}

/// Takes over each socket as a listener or a connection.
pub(super) fn adopt(handed: &Handed) -> Result<Adopted, ActivationError> {
    let mut adopted = Adopted::default();
    for which in &handed.0 {
        let fd = inherited::claim(which.fd)
            .map_err(|error| ActivationError::Unusable(which.clone(), error))?;
        match one(which, fd)? {
            One::Listener(listener) => adopted.listeners.push(listener),
            One::Connection(stream, peer) => {
                tracing::info!("{which} is the connection of {peer}");
                adopted.connected.push((stream, peer));
            }
        }
    }
    Ok(adopted)
}

enum One {
    Listener(Listener),
    Connection(Accepted, Peer),
}

fn one(which: &Which, fd: OwnedFd) -> Result<One, ActivationError> {
    let unusable = |error| ActivationError::Unusable(which.clone(), error);
    match find_out(fd.as_fd()).map_err(unusable)? {
        Found::Listener(kind) => {
            let origin = match &which.name {
                Some(name) => format!("systemd: {name}"),
                None => "socket activation".to_owned(),
            };
            Ok(One::Listener(Listener::adopt(fd, kind, origin).map_err(unusable)?))
        }
        Found::Connection(peer) => {
            prepare(&fd, &peer);
            Ok(One::Connection(fd.into(), peer))
        }
        Found::Pipe => Err(ActivationError::Wrong(which.clone(), "a pipe")),
        Found::Other(found) => Err(ActivationError::Wrong(which.clone(), found)),
    }
}

#[cfg(test)]
mod tests;
