//! The control socket of `pause`. A command is one letter, and so is its answer.

use std::{
    fs, io,
    os::unix::{
        fs::{FileTypeExt, MetadataExt},
        net::UnixStream as Blocking,
    },
    path::PathBuf,
    sync::Arc,
};

use thiserror::Error;
use tokio::net::{UnixListener, UnixStream};

use super::State;

#[derive(Debug, Error)]
pub(super) enum SocketError {
    #[error("filter pause: cannot make pause-control={}", .path.display())]
    Bind { path: PathBuf, source: io::Error },
    #[error("filter pause: pause-control={} is there and not a socket", .0.display())]
    NotASocket(PathBuf),
    #[error("filter pause: pause-control={}: another process listens there", .0.display())]
    InUse(PathBuf),
}

#[derive(Debug)]
pub(super) struct Socket {
    listener: UnixListener,
    name: Name,
}

/// The path of the socket, which `remove` removes only while the socket is ours.
#[derive(Debug, Clone)]
pub(super) struct Name {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl Socket {
    /// Binds the socket, and replaces one on which no process listens any more.
    pub(super) fn bind(path: PathBuf) -> Result<Self, SocketError> {
        if let Ok(found) = fs::symlink_metadata(&path) {
            if !found.file_type().is_socket() {
                return Err(SocketError::NotASocket(path));
            }
            if Blocking::connect(&path).is_ok() {
                return Err(SocketError::InUse(path));
            }
            // Any error here comes again when the socket is bound.
            fs::remove_file(&path).ok();
        }
        let bound = UnixListener::bind(&path)
            .and_then(|listener| Ok((listener, fs::symlink_metadata(&path)?)));
        match bound {
            Ok((listener, made)) => {
                Ok(Self { listener, name: Name { path, identity: (made.dev(), made.ino()) } })
            }
            Err(source) => Err(SocketError::Bind { path, source }),
        }
    }

    pub(super) fn name(&self) -> Name {
        self.name.clone()
    }

    /// Accepts and answers clients until the agent ends.
    pub(super) async fn serve(self, state: Arc<State>) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    tokio::spawn(answer(stream, Arc::clone(&state)));
                }
                Err(error) => {
                    tracing::error!("filter pause: {}: {error}", self.name.path.display());
                    // Most likely the process is out of descriptors, and some will be closed soon.
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Name {
    /// Removes the socket, unless another process has put something else at its path.
    pub(super) fn remove(&self) {
        let found = fs::symlink_metadata(&self.path);
        if found.is_ok_and(|found| (found.dev(), found.ino()) == self.identity) {
            fs::remove_file(&self.path).ok();
        }
    }
}

/// Serves one client until it closes. Nothing that the client does is an error of the agent.
async fn answer(stream: UnixStream, state: Arc<State>) {
    let mut letters = [0; 64];
    while stream.readable().await.is_ok() {
        let n = match stream.try_read(&mut letters) {
            Ok(0) => return,
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => return,
        };
        for letter in &letters[..n] {
            let reply = match letter {
                b'p' => {
                    state.pause().await;
                    tracing::info!("paused: requests wait (filter pause)");
                    b'P'
                }
                b'r' => {
                    state.resume();
                    tracing::info!("resumed (filter pause)");
                    b'R'
                }
                b'\n' | b'\t' | b' ' => continue,
                _ => b'X',
            };
            if stream.writable().await.is_err() {
                return;
            }
            // A client that does not read its answers loses them.
            stream.try_write(&[reply]).ok();
        }
    }
}
