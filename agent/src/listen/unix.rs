//! Unix socket listeners. The socket's file is removed when the listener goes, if it is still ours.

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt,
    },
};
use tokio::net::{UnixListener, UnixSocket};

use super::{BACKLOG, Cause};
use crate::{peer::Peer, sys};

#[derive(Debug)]
pub(super) struct Listener {
    socket: UnixListener,
    file: File,
}

/// The name of a bound socket in the filesystem.
#[derive(Debug)]
struct File {
    /// Absolute.
    path: PathBuf,
    /// Device and inode: another process may have put a socket of its own there since.
    identity: (u64, u64),
    /// Made for this socket, and removed with it.
    directory: Option<Directory>,
}

#[derive(Debug)]
struct Directory(PathBuf);

impl Listener {
    /// Makes the socket at `path`, with the mode that the umask leaves. Never replaces anything.
    pub(super) fn bind(path: &Path) -> Result<Self, Cause> {
        let socket = UnixSocket::new_stream().map_err(Cause::System)?;
        socket.bind(path).map_err(|error| match error.raw_os_error() {
            Some(libc::EADDRINUSE) => occupied(path),
            _ => Cause::System(error),
        })?;
        let file = File::new(path).map_err(Cause::System)?;
        let socket = socket.listen(BACKLOG).map_err(Cause::System)?;
        Ok(Self { socket, file })
    }

    /// Makes a socket in a directory of its own under TMPDIR.
    pub(super) fn private() -> Result<Self, Cause> {
        let template = std::env::temp_dir().join("agentXXXXXX");
        let directory = sys::process::private_directory(&template)
            .map_err(|source| Cause::Directory { path: template, source })?;
        let directory = Directory(directory);
        let mut listener = Self::bind(&directory.0.join("socket"))?;
        listener.file.directory = Some(directory);
        Ok(listener)
    }

    pub(super) fn path(&self) -> &Path {
        &self.file.path
    }

    pub(super) async fn accept(&self) -> io::Result<(OwnedFd, Peer)> {
        let (stream, _) = self.socket.accept().await?;
        let who = stream.peer_cred()?;
        let peer = Peer::Unix { pid: who.pid().unwrap_or(0), uid: who.uid(), gid: who.gid() };
        // A sender that has filled its buffer is woken when three quarters are gone: with more of it
        // the client has something to read until then. The kernel caps it (net.core.wmem_max).
        setsockopt(&stream, sockopt::SndBuf, &SEND_BUFFER).ok();
        // The session registers the descriptor on a thread of its own.
        Ok((stream.into_std()?.into(), peer))
    }
}

/// Wanted of the kernel for replies under way, bytes.
const SEND_BUFFER: usize = 1 << 20;

/// What is in the way of a socket at `path`: found out by connecting, which must not wait.
fn occupied(path: &Path) -> Cause {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Cause::NotASocket,
        Ok(_) => {}
        Err(error) => return Cause::System(error),
    }
    let attempt = || {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let probe = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        connect(std::os::fd::AsRawFd::as_raw_fd(&probe), &UnixAddr::new(path)?)
    };
    match attempt() {
        Err(Errno::ECONNREFUSED) => Cause::Stale,
        // Also what forbids us to ask: then somebody else's, and most likely in use.
        _ => Cause::Live,
    }
}

impl File {
    fn new(path: &Path) -> io::Result<Self> {
        let found = fs::symlink_metadata(path)?;
        let path = std::path::absolute(path)?;
        Ok(Self { path, identity: (found.dev(), found.ino()), directory: None })
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == self.identity);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("the socket {} stays behind: {error}", self.path.display());
        }
        drop(self.directory.take());
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            tracing::warn!("the directory {} stays behind: {error}", self.0.display());
        }
    }
}
