//! What every test needs whose guest's vsock device ends in an agent of this machine: the images, and a directory
//! for sockets and disks.

use std::path::{Path, PathBuf};

use images::Images;
use tempfile::TempDir;

use crate::{Failure, Outcome, agent::Agent, need, vhost_user::listen};

/// The images, and a directory that is removed when the value is dropped.
#[derive(Debug)]
pub struct Lab {
    images: Images,
    dir: TempDir,
}

impl Lab {
    /// `None` if `LAB=skip` turns the guests of this test off.
    pub fn open(test: &str) -> Outcome<Option<Self>> {
        if !need::guests(test)? {
            return Ok(None);
        }
        let images = Images::of_this_workspace()?;
        let dir = tempfile::tempdir().map_err(|e| Failure::of("no directory", &e))?;
        Ok(Some(Self { images, dir }))
    }

    /// The images of this workspace.
    pub fn images(&self) -> &Images {
        &self.images
    }

    /// A path in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts an agent, and waits until it listens.
    pub fn agent(&self, words: impl IntoIterator<Item = impl AsRef<str>>) -> Outcome<Agent> {
        Agent::start(&self.images, words)
    }

    /// Like [`Self::agent`], for the VM that uses this socket.
    pub fn agent_for(&self, socket: &Path, words: &[&str]) -> Outcome<Agent> {
        self.agent([&[&*listen(socket)], words].concat())
    }
}
