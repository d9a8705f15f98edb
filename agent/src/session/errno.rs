//! The only mapping from errors of a disk to error numbers of the protocol.

use nbd::wire::Errno;

use disk::{DiskError, Kind};

/// The number for the reply ("Error values").
pub(super) fn errno(error: &DiskError) -> Errno {
    match error.kind {
        Kind::Denied => Errno::EPERM,
        Kind::Io => Errno::EIO,
        Kind::NoSpace => Errno::ENOSPC,
        Kind::NoMemory => Errno::ENOMEM,
        Kind::Invalid => Errno::EINVAL,
        Kind::Unsupported => Errno::ENOTSUP,
        Kind::TooLarge => Errno::EOVERFLOW,
        Kind::ShutDown => Errno::ESHUTDOWN,
    }
}
