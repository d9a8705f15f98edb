//! Listening sockets in the manager's store: their names, and the checks of a socket that comes back.
//!
//! `unix`, `tcp` and `vsock` call this when they open a socket. A socket that is not what its name says is not used: it
//! stops listening here, because the manager may close its own copy later than a new socket is bound.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use nix::sys::socket::{Shutdown, shutdown};

use super::descriptor::{Found, Kind, find_out};
use crate::fd_store::{Kept, name_part};

/// Begins the names of listening sockets.
const LISTEN: &str = "listen.";
/// Ends the name of a socket without a file.
pub(super) const NO_FILE: &str = "socket";

/// The beginning of the names of the sockets of `address`.
fn names_of(address: &[u8]) -> String {
    format!("{LISTEN}{}.", name_part(address))
}

/// Takes the kept socket of `address` if it listens, is of `kind`, and `is_it` confirms the end of its name.
pub(super) fn take(
    kept: &mut Kept,
    address: &[u8],
    kind: Kind,
    is_it: impl Fn(BorrowedFd<'_>, &str) -> bool,
) -> Option<OwnedFd> {
    let names = names_of(address);
    let mut found = None;
    for (end, socket) in kept.take(&names) {
        let listens = matches!(find_out(socket.as_fd()), Ok(Found::Listener(of)) if of == kind);
        if found.is_none() && listens && is_it(socket.as_fd(), &end) {
            found = Some(socket);
        } else {
            tracing::warn!(
                "the kept socket of {} is not used: it does not listen there any more",
                address.escape_ascii()
            );
            stop(&socket);
            kept.store().forget(&format!("{names}{end}"));
        }
    }
    found
}

/// Stops every kept listening socket that nothing has taken, closes and forgets it and all other descriptors.
pub(super) fn finish(mut kept: Kept) {
    for (name, socket) in kept.take(LISTEN) {
        stop(&socket);
        kept.put_back(format!("{LISTEN}{name}"), socket);
    }
    kept.finish();
}

/// Keeps a new socket of `address`. Returns whether the manager was told.
pub(super) fn keep(kept: &Kept, address: &[u8], end: &str, socket: BorrowedFd<'_>) -> bool {
    let store = kept.store();
    match store.keep(&format!("{}{end}", names_of(address)), socket) {
        Ok(()) => store.is_there(),
        Err(error) => {
            tracing::warn!(
                "the socket of {} is not kept for the process after this one: {error}",
                address.escape_ascii()
            );
            false
        }
    }
}

/// Makes a socket refuse connections, also through other descriptors of it.
fn stop(socket: &OwnedFd) {
    let stopped = shutdown(socket.as_raw_fd(), Shutdown::Both).map_err(io::Error::from);
    if let Err(error) = stopped {
        tracing::debug!("a kept socket cannot be shut down: {error}");
    }
}
