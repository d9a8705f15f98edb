//! vhost-user (QEMU's docs/interop/vhost-user.rst): the protocol by which a VMM sets up its guest's device.
//!
//! `transport` receives messages and their descriptors, `message` parses them, `handler` executes them. A message that
//! this device does not offer is refused by name, and the VMM that sent it is no longer served, since its other
//! messages cannot be relied on either.

pub(crate) mod handler;
pub(crate) mod message;
pub(crate) mod transport;

use std::io;

use thiserror::Error;

use self::message::Kind;

/// Why a VMM is no longer served. The messages say what it did.
#[derive(Debug, Error)]
pub(crate) enum Refused {
    #[error("the VMM sent bytes that are no vhost-user message (version {0:#x}, length {1})")]
    Header(u32, u32),
    #[error("the VMM sent message {0}, which this device does not offer")]
    Unknown(u32),
    #[error("the VMM's {0} has {1} bytes or a value that the message cannot have")]
    Malformed(Kind, usize),
    #[error("the VMM sent {0} descriptors with a message, which are too many")]
    Descriptors(usize),
    #[error("the VMM's {0} came with {1} descriptors, not {2}")]
    Files(Kind, usize, usize),
    #[error("the VMM sent {0} without having taken the feature that it belongs to")]
    NotTaken(Kind),
    #[error("the VMM's {0} takes features that were not offered: {1:#x}")]
    NotOffered(Kind, u64),
    #[error("the VMM's {0} is about queue {1}; there are 0 and 1")]
    NoQueue(Kind, u32),
    #[error("the VMM's {0} changes queue {1}, which runs; stop it with GET_VRING_BASE first")]
    Runs(Kind, u32),
    #[error("the VMM's {0}: {1} is not the size of a queue; powers of two up to 1024 are")]
    Size(Kind, u32),
    #[error("the VMM's {0}: the rings are not in the guest's memory, or not aligned")]
    Place(Kind),
    #[error("the VMM's {0}: {1}")]
    Memory(Kind, MemoryError),
    #[error("the VMM's {0}: {1}")]
    System(Kind, io::Error),
}

/// Why a guest's memory was refused.
#[derive(Debug, Error)]
pub(crate) enum MemoryError {
    #[error("region {0} is empty, or ends beyond the last address")]
    Range(usize),
    #[error("regions overlap")]
    Overlap,
    #[error("region {at} ends at byte {end} of a file that has {len}")]
    File { at: usize, end: u64, len: u64 },
    #[error(
        "the guest's memory is a file that another process or machine may have to fill: give QEMU \
         '-object memory-backend-memfd,share=on,...'"
    )]
    Foreign,
    #[error("the guest's memory ends amid a huge page")]
    HugePage,
    #[error("{wanted} bytes are more than one VM may have here ({most})")]
    VmLimit { wanted: u64, most: u64 },
    #[error("{wanted} bytes of address space are not left for this VM: all VMs have {used}")]
    AllLimit { wanted: u64, used: u64 },
    #[error(transparent)]
    System(#[from] io::Error),
}
