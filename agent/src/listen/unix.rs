//! Unix socket listeners. A socket file that was made here is removed with its listener, unless it was replaced or the
//! socket is kept for the next process.

use std::{
    fmt, fs, io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{
            ffi::OsStrExt,
            fs::{FileTypeExt, MetadataExt, lchown},
        },
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, AtFlags},
    sys::socket::{
        AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockname, setsockopt, socket,
        sockopt,
    },
    unistd::{AccessFlags, faccessat, geteuid},
};
use tokio::net::{UnixListener, UnixSocket};

use super::{BACKLOG, Cause, Rights, descriptor::Kind, kept};
use crate::{fd_store::Kept, peer::Peer, sys};

#[derive(Debug)]
pub(super) struct Listener {
    socket: UnixListener,
    name: Name,
}

/// The name of the socket.
#[derive(Debug)]
enum Name {
    /// A file that was made here.
    Ours(File),
    /// A file that stays for the next process, which gets the socket from the manager's store.
    Kept(PathBuf),
    /// A file that another process made and will remove.
    Theirs(PathBuf),
    /// A name in the abstract namespace, unix(7).
    Abstract(Vec<u8>),
    /// The socket has no name.
    Unnamed,
}

/// The name of a bound socket in the filesystem.
#[derive(Debug)]
struct File {
    /// Absolute.
    path: PathBuf,
    /// Device and inode, because another process may have put its own socket at the path since.
    identity: (u64, u64),
    /// The directory that was made for this socket and is removed with it.
    directory: Option<Directory>,
    /// Whether it is not removed.
    stays: bool,
}

#[derive(Debug)]
struct Directory(PathBuf);

impl Listener {
    /// Makes the socket at `path`, with the mode from `rights` or else from the umask. Never replaces a file.
    pub(super) fn bind(path: &Path, rights: &Rights) -> Result<Self, Cause> {
        let socket = UnixSocket::new_stream().map_err(Cause::System)?;
        socket.bind(path).map_err(|error| match error.raw_os_error() {
            Some(libc::EADDRINUSE) => occupied(path),
            _ => Cause::System(error),
        })?;
        let file = File::new(path).map_err(Cause::System)?;
        // Nobody can connect before the socket listens.
        rights.apply(path)?;
        let socket = socket.listen(BACKLOG).map_err(Cause::System)?;
        Ok(Self { socket, name: Name::Ours(file) })
    }

    /// As `bind`, but replaces a socket that nobody listens on any more. A live socket is never replaced. If two agents
    /// try at the same time, a lock makes them take turns.
    pub(super) async fn take_over(path: &Path, rights: &Rights) -> Result<Self, Cause> {
        match Self::bind(path, rights) {
            Err(Cause::Stale) => {}
            bound => return bound,
        }
        let _lock = lock_directory(path).await?;
        // Another agent may have replaced it meanwhile.
        match Self::bind(path, rights) {
            Err(Cause::Stale) => {
                fs::remove_file(path).map_err(Cause::System)?;
                Self::bind(path, rights)
            }
            bound => bound,
        }
    }

    /// Takes the socket that an earlier process kept for this path if the file there is still that socket. Otherwise as
    /// `take_over`, and then keeps the new socket. Without a store this is `take_over`.
    pub(super) async fn kept_or_new(
        kind: &'static str,
        path: &Path,
        rights: &Rights,
        kept: &mut Kept,
    ) -> Result<Self, Cause> {
        let absolute = std::path::absolute(path).map_err(Cause::System)?;
        let mut name = kind.as_bytes().to_owned();
        name.push(b':');
        name.extend(absolute.as_os_str().as_bytes());
        // The kernel uses no inode number again while a socket that is bound to the inode is open.
        let is_it = |socket: BorrowedFd<'_>, end: &str| {
            let bound = getsockname::<UnixAddr>(socket.as_raw_fd());
            let bound = bound.ok().and_then(|bound| std::path::absolute(bound.path()?).ok());
            bound.as_ref() == Some(&absolute) && identity(path).is_ok_and(|file| inode(file) == end)
        };
        if let Some(socket) = kept::take(kept, &name, Kind::Unix, is_it) {
            rights.apply(path)?;
            let listener = Self::adopt(socket).map_err(Cause::System)?;
            return Ok(Self { name: Name::Kept(absolute), ..listener });
        }
        let mut listener = Self::take_over(path, rights).await?;
        if let Name::Ours(file) = &mut listener.name
            && kept::keep(kept, &name, &inode(file.identity), listener.socket.as_fd())
        {
            file.stays = true;
            listener.name = Name::Kept(absolute);
        }
        Ok(listener)
    }

    /// The same socket, for a thread that blocks in accept(2). `Listener::accept` must not be called afterwards.
    pub(super) fn for_a_thread(&self) -> io::Result<std::os::unix::net::UnixListener> {
        let socket: std::os::unix::net::UnixListener =
            self.socket.as_fd().try_clone_to_owned()?.into();
        socket.set_nonblocking(false)?;
        Ok(socket)
    }

    /// Makes a socket in a new directory under TMPDIR.
    pub(super) fn private() -> Result<Self, Cause> {
        let template = std::env::temp_dir().join("agentXXXXXX");
        let directory = sys::process::private_directory(&template)
            .map_err(|source| Cause::Directory { path: template, source })?;
        let directory = Directory(directory);
        let mut listener = Self::bind(&directory.0.join("socket"), &Rights::default())?;
        if let Name::Ours(file) = &mut listener.name {
            file.directory = Some(directory);
        }
        Ok(listener)
    }

    /// Takes over a socket that listens already. Its file, if it has one, is not removed.
    pub(super) fn adopt(socket: OwnedFd) -> io::Result<Self> {
        let address: UnixAddr = getsockname(socket.as_raw_fd())?;
        let name = match (address.path(), address.as_abstract()) {
            (Some(path), _) => Name::Theirs(path.to_owned()),
            (None, Some(name)) => Name::Abstract(name.to_owned()),
            (None, None) => Name::Unnamed,
        };
        let socket = std::os::unix::net::UnixListener::from(socket);
        socket.set_nonblocking(true)?;
        Ok(Self { socket: UnixListener::from_std(socket)?, name })
    }

    /// The socket's path in the filesystem, if it has one.
    pub(super) fn path(&self) -> Option<&Path> {
        match &self.name {
            Name::Ours(file) => Some(&file.path),
            Name::Kept(path) | Name::Theirs(path) => Some(path),
            Name::Abstract(_) | Name::Unnamed => None,
        }
    }

    /// Gives the socket and the directory that was made for it to another user. A socket at a configured path keeps its
    /// owner.
    pub(super) fn hand_over(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        let Name::Ours(File { path, directory: Some(Directory(directory)), .. }) = &self.name
        else {
            return Ok(());
        };
        lchown(path, uid, gid)?;
        lchown(directory, uid, gid)
    }

    /// Whether this process may remove the listener's file. True if the listener has made none.
    pub(super) fn is_removable(&self) -> bool {
        let Name::Ours(file) = &self.name else { return true };
        may_remove(&file.path)
            && file.directory.as_ref().is_none_or(|Directory(path)| may_remove(path))
    }

    pub(super) async fn accept(&self) -> io::Result<(OwnedFd, Peer)> {
        let (stream, _) = self.socket.accept().await?;
        let who = stream.peer_cred()?;
        let peer = Peer::Unix { pid: who.pid().unwrap_or(0), uid: who.uid(), gid: who.gid() };
        prepare(&stream);
        // The session registers the descriptor on its own thread.
        Ok((stream.into_std()?.into(), peer))
    }
}

/// Locks the directory of `path`. Any user who may read a directory may lock it, and keep the lock.
async fn lock_directory(path: &Path) -> Result<fs::File, Cause> {
    let absolute = std::path::absolute(path).map_err(Cause::System)?;
    let parent = absolute.parent().unwrap_or_else(|| Path::new("/"));
    let directory = fs::File::open(parent).map_err(Cause::System)?;
    let end = Instant::now() + PATIENCE;
    loop {
        match directory.try_lock() {
            Ok(()) => return Ok(directory),
            Err(fs::TryLockError::WouldBlock) if Instant::now() < end => {
                tokio::time::sleep(PAUSE).await;
            }
            Err(fs::TryLockError::WouldBlock) => return Err(Cause::Locked(parent.to_owned())),
            Err(fs::TryLockError::Error(error)) => return Err(Cause::System(error)),
        }
    }
}

/// Whether this process may write to the directory of `path`. In a sticky directory it must also own the directory or
/// the file.
fn may_remove(path: &Path) -> bool {
    let Some(parent) = path.parent() else { return false };
    let own = |path: &Path| {
        fs::symlink_metadata(path).is_ok_and(|found| found.uid() == geteuid().as_raw())
    };
    let sticky = fs::metadata(parent).is_ok_and(|found| found.mode() & libc::S_ISVTX != 0);
    let access = AccessFlags::W_OK | AccessFlags::X_OK;
    faccessat(AT_FDCWD, parent, access, AtFlags::AT_EACCESS).is_ok()
        && (!sticky || geteuid().is_root() || own(path) || own(parent))
}

/// Enlarges the send buffer of a new connection. The kernel wakes a sender with a full buffer only when three quarters
/// are sent. A larger buffer gives the client data to read until then.
pub(super) fn prepare(stream: &impl AsFd) {
    // The kernel caps it (net.core.wmem_max).
    setsockopt(stream, sockopt::SndBuf, &SEND_BUFFER).ok();
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Name::Ours(File { path, .. }) | Name::Kept(path) | Name::Theirs(path) => {
                write!(f, "unix:{}", path.display())
            }
            Name::Abstract(name) => write!(f, "unix:@{}", name.escape_ascii()),
            Name::Unnamed => f.write_str("unix:(unnamed)"),
        }
    }
}

/// How long to wait for another agent that replaces a stale socket in the same directory. Replacing takes microseconds.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(20);

/// Requested size of the kernel's buffer for replies in flight, in bytes.
const SEND_BUFFER: usize = 1 << 20;

/// What is in the way of a socket at `path`. Finds out by connecting, without waiting.
fn occupied(path: &Path) -> Cause {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Cause::NotASocket,
        Ok(_) => {}
        Err(error) => return Cause::System(error),
    }
    let attempt = || {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let probe = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        connect(probe.as_raw_fd(), &UnixAddr::new(path)?)
    };
    match attempt() {
        Err(Errno::ECONNREFUSED) => Cause::Stale,
        // Includes a refused permission: the socket is another user's then, and most likely in use.
        _ => Cause::Live,
    }
}

/// Device and inode of the file.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

/// A file as the end of a name in the store.
fn inode((device, inode): (u64, u64)) -> String {
    format!("{device}-{inode}")
}

impl File {
    fn new(path: &Path) -> io::Result<Self> {
        let identity = identity(path)?;
        let path = std::path::absolute(path)?;
        Ok(Self { path, identity, directory: None, stays: false })
    }
}

impl Drop for File {
    fn drop(&mut self) {
        if self.stays {
            return;
        }
        let ours = identity(&self.path).is_ok_and(|file| file == self.identity);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("the socket {} cannot be removed: {error}", self.path.display());
        }
        drop(self.directory.take());
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            tracing::warn!("the directory {} cannot be removed: {error}", self.0.display());
        }
    }
}
