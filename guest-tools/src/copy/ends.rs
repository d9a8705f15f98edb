//! The two open sides of a copy. Each worker has its own pair. A connection belongs to one worker;
//! files are shared.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
};

use nbd::wire::TransmissionFlags;
use nbd_client::{Client, Connector};
use nix::poll::{PollFd, PollFlags};

use super::{
    error::CopyError,
    local::{Kind, Local},
    word::Word,
};

/// One side of a copy.
#[derive(Debug)]
pub(super) enum Side {
    Client(Box<Client>),
    /// A regular file or a block device.
    File(Arc<Local>),
    /// Read or written once, in order.
    Stream(Arc<Local>),
    /// Discards everything.
    Null,
}

impl Side {
    fn local(local: Local) -> Self {
        match local.kind {
            Kind::Stream => Self::Stream(Arc::new(local)),
            _ => Self::File(Arc::new(local)),
        }
    }

    /// Opens a side for reading.
    pub(super) fn source(connector: &Connector, word: &Word) -> Result<Self, CopyError> {
        Ok(match word {
            Word::Uri(uri) => Self::Client(Box::new(connector.open(uri)?)),
            Word::Path(path) => Self::local(Local::source(path)?),
            Word::Stdio => Self::local(Local::stdio(io::stdin(), "standard input")?),
            Word::Null => Self::Null,
        })
    }

    /// Opens a side for reading again after the copy. An export must have the size that it had before.
    pub(super) fn reopen(
        connector: &Connector,
        word: &Word,
        before: Option<u64>,
    ) -> Result<Self, CopyError> {
        match (word, before) {
            (Word::Uri(uri), Some(size)) => {
                Ok(Self::Client(Box::new(connector.reopen(uri, size)?)))
            }
            _ => Self::source(connector, word),
        }
    }

    /// Opens a side for writing. Nothing is changed yet, except that a missing file is created.
    pub(super) fn target(connector: &Connector, word: &Word) -> Result<Self, CopyError> {
        Ok(match word {
            Word::Uri(uri) => {
                let client = connector.open(uri)?;
                if client.terms().flags.contains(TransmissionFlags::READ_ONLY) {
                    client.close();
                    return Err(CopyError::ReadOnly(uri.to_string()));
                }
                Self::Client(Box::new(client))
            }
            Word::Path(path) => Self::local(Local::target(path)?),
            Word::Stdio => Self::local(Local::stdio(io::stdout(), "standard output")?),
            Word::Null => Self::Null,
        })
    }

    /// Opens the same side for one more worker.
    pub(super) fn again(&self, connector: &Connector, word: &Word) -> Result<Self, CopyError> {
        Ok(match (self, word) {
            (Self::Client(client), Word::Uri(uri)) => {
                let again = connector.reopen(uri, client.described().size)?;
                let (before, now) = (client.terms(), again.terms());
                if before.flags != now.flags || before.blocks != now.blocks {
                    let uri = uri.to_string();
                    again.close();
                    return Err(CopyError::Unlike(uri));
                }
                Self::Client(Box::new(again))
            }
            (Self::File(local), _) => Self::File(Arc::clone(local)),
            (Self::Stream(local), _) => Self::Stream(Arc::clone(local)),
            (Self::Client(_) | Self::Null, _) => Self::Null,
        })
    }

    /// The size in bytes; `None` for a stream.
    pub(super) fn size(&self) -> Option<u64> {
        match self {
            Self::Client(client) => Some(client.terms().size),
            Self::File(local) => Some(local.size),
            Self::Stream(_) | Self::Null => None,
        }
    }

    /// The most bytes that fit, if there is a limit. A regular file grows.
    pub(super) fn room(&self) -> Option<u64> {
        match self {
            Self::File(local) if local.kind == Kind::Regular => None,
            _ => self.size(),
        }
    }

    /// Whether it can be opened several times, with a flush of one covering all.
    pub(super) fn is_multiple(&self) -> bool {
        match self {
            Self::Client(client) => {
                client.terms().flags.contains(TransmissionFlags::CAN_MULTI_CONN)
            }
            Self::File(_) | Self::Null => true,
            Self::Stream(_) => false,
        }
    }

    /// Offsets and lengths must be multiples of this number of bytes.
    pub(super) fn minimum(&self) -> u64 {
        match self {
            Self::Client(client) => u64::from(client.terms().blocks.minimum.max(1)),
            _ => 1,
        }
    }

    /// The preferred block, in bytes.
    pub(super) fn preferred(&self) -> u64 {
        match self {
            Self::Client(client) => u64::from(client.terms().blocks.preferred),
            _ => 1,
        }
    }

    /// The longest read or write, in bytes.
    pub(super) fn longest(&self) -> u64 {
        match self {
            Self::Client(client) => client.longest_payload(),
            _ => u64::MAX,
        }
    }

    /// Fails if a local file has been changed since it was opened, as far as can be found out.
    pub(super) fn is_unchanged(&self) -> Result<(), CopyError> {
        match self {
            Self::File(local) | Self::Stream(local) => local.is_unchanged(),
            Self::Client(_) | Self::Null => Ok(()),
        }
    }

    /// The local file; `None` for an export.
    pub(super) fn file(&self) -> Option<&File> {
        match self {
            Self::File(local) | Self::Stream(local) => Some(&local.file),
            Self::Client(_) | Self::Null => None,
        }
    }

    /// How many requests wait for the server's answer.
    pub(super) fn under_way(&self) -> usize {
        match self {
            Self::Client(client) => client.under_way(),
            _ => 0,
        }
    }

    pub(super) fn client(&mut self) -> Option<&mut Client> {
        match self {
            Self::Client(client) => Some(client),
            _ => None,
        }
    }

    pub(super) fn linked(&self) -> Option<&Client> {
        match self {
            Self::Client(client) => Some(client),
            _ => None,
        }
    }

    /// What to poll while the server owes an answer.
    pub(super) fn poll(&self) -> Option<PollFd<'_>> {
        match self {
            Self::Client(client) if client.under_way() > 0 => {
                Some(PollFd::new(client.as_fd(), client.interest()))
            }
            _ => None,
        }
    }

    /// What to poll before a stream is read.
    pub(super) fn poll_stream(&self) -> Option<PollFd<'_>> {
        match self {
            Self::Stream(local) => Some(PollFd::new(local.file.as_fd(), PollFlags::POLLIN)),
            _ => None,
        }
    }

    /// Ends a session in which everything has been answered.
    pub(super) fn close(self) {
        if let Self::Client(client) = self {
            client.close();
        }
    }

    /// Waits for all answers and ends the session.
    pub(super) fn settle(self) {
        if let Self::Client(mut client) = self {
            client.settle();
            client.close();
        }
    }
}

/// Polls a descriptor until it is readable or hung up.
pub(super) fn until(fd: &impl AsFd) -> PollFd<'_> {
    let fd: BorrowedFd<'_> = fd.as_fd();
    PollFd::new(fd, PollFlags::POLLIN)
}
