//! Whether a request may be executed: one pure function from terms and header to a verdict.

use crate::{
    Framing, Terms, Violation,
    wire::{Command, CommandFlags, Errno, Request, TransmissionFlags},
};

/// The longest payload of one request or reply, in bytes: 64 MiB. That is twice the usual advertised
/// maximum, because clients that do not ask for block sizes send as much as other servers take.
pub const MAX_PAYLOAD: u32 = 64 << 20;

/// The longest payload of a refused request that is skipped, in bytes. At a longer one the server closes.
pub const MAX_DRAIN: u64 = u32::MAX as u64;

/// A request that may be executed: its range lies within the export, and the server has offered it. A length
/// of 0 is possible, except where noted, and has no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Checked {
    /// NBD_CMD_READ.
    Read {
        /// The offset, in bytes.
        at: u64,
        /// The length, in bytes. At most [`MAX_PAYLOAD`].
        len: u32,
        /// The reply must be one chunk.
        df: bool,
    },
    /// NBD_CMD_WRITE.
    Write {
        /// The offset, in bytes.
        at: u64,
        /// The length, in bytes. At most [`MAX_PAYLOAD`].
        len: u32,
        /// The data has to be durable before the reply.
        fua: bool,
    },
    /// NBD_CMD_FLUSH.
    Flush,
    /// NBD_CMD_TRIM.
    Trim {
        /// The offset, in bytes.
        at: u64,
        /// The length, in bytes.
        len: u64,
        /// The data has to be durable before the reply.
        fua: bool,
    },
    /// NBD_CMD_WRITE_ZEROES.
    Zero {
        /// The offset, in bytes.
        at: u64,
        /// The length, in bytes.
        len: u64,
        /// The data has to be durable before the reply.
        fua: bool,
        /// The range may become a hole.
        may_trim: bool,
        /// Fail with ENOTSUP if it is not faster than a write.
        fast: bool,
    },
    /// NBD_CMD_CACHE.
    Cache {
        /// The offset, in bytes.
        at: u64,
        /// The length, in bytes.
        len: u64,
    },
    /// NBD_CMD_BLOCK_STATUS. The answer has the extents of every agreed context.
    Extents {
        /// The offset, in bytes.
        at: u64,
        /// The length, in bytes. At least 1.
        len: u64,
        /// Only the first extent of each context.
        one: bool,
    },
    /// NBD_CMD_DISC.
    Disconnect,
}

impl Checked {
    /// The rest of a trim, zero or cache request after the first `bytes` of it are done. Other requests stay
    /// as they are.
    #[must_use]
    pub fn after(self, bytes: u64) -> Self {
        match self {
            Self::Trim { at, len, fua } => {
                Self::Trim { at: at.saturating_add(bytes), len: len.saturating_sub(bytes), fua }
            }
            Self::Zero { at, len, fua, may_trim, fast } => {
                let (at, len) = (at.saturating_add(bytes), len.saturating_sub(bytes));
                Self::Zero { at, len, fua, may_trim, fast }
            }
            Self::Cache { at, len } => {
                Self::Cache { at: at.saturating_add(bytes), len: len.saturating_sub(bytes) }
            }
            other => other,
        }
    }
}

/// Why the server refuses a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// The error number of the reply.
    pub errno: Errno,
    /// The text of the reply, where the framing has room for one.
    pub text: &'static str,
}

const fn refused(errno: Errno, text: &'static str) -> Refused {
    Refused { errno, text }
}

/// The length of the payload that follows a request, in bytes, also when the request is refused.
///
/// # Errors
/// [`Violation::PayloadTooLong`] if the payload exceeds [`MAX_DRAIN`].
#[inline]
pub fn payload_len(terms: &Terms, request: &Request) -> Result<u64, Violation> {
    let has_payload = request.command == Command::WRITE
        || (terms.framing == Framing::Extended
            && request.flags.contains(CommandFlags::PAYLOAD_LEN));
    if !has_payload {
        return Ok(0);
    }
    if request.len > MAX_DRAIN {
        return Err(Violation::PayloadTooLong { len: request.len, limit: MAX_DRAIN });
    }
    Ok(request.len)
}

/// Judges a request ("Request types", "Command flags", "Error values").
///
/// # Errors
/// The error to answer with. The connection continues.
#[inline]
pub fn check(terms: &Terms, request: &Request) -> Result<Checked, Refused> {
    let Request { flags, command, offset: at, len, .. } = *request;
    if command == Command::DISC {
        return Ok(Checked::Disconnect);
    }
    let can = |flag| terms.flags.contains(flag);
    let mut known = CommandFlags::empty();
    // "the server MUST accept all commands with this bit set (even by ignoring the bit)"
    known.set(CommandFlags::FUA, can(TransmissionFlags::SEND_FUA));
    match command {
        Command::READ => known.set(CommandFlags::DF, can(TransmissionFlags::SEND_DF)),
        Command::WRITE => {
            known.set(CommandFlags::PAYLOAD_LEN, terms.framing == Framing::Extended);
        }
        Command::WRITE_ZEROES => {
            known |= CommandFlags::NO_HOLE;
            known.set(CommandFlags::FAST_ZERO, can(TransmissionFlags::SEND_FAST_ZERO));
        }
        Command::BLOCK_STATUS => known |= CommandFlags::REQ_ONE,
        Command::FLUSH | Command::TRIM | Command::CACHE => {}
        _ => return Err(refused(Errno::EINVAL, "unknown command")),
    }
    if !known.contains(flags) {
        return Err(refused(
            Errno::EINVAL,
            "a flag that this command does not have, or that was not negotiated",
        ));
    }
    let offered = match command {
        Command::FLUSH => can(TransmissionFlags::SEND_FLUSH),
        Command::TRIM => can(TransmissionFlags::SEND_TRIM),
        Command::WRITE_ZEROES => can(TransmissionFlags::SEND_WRITE_ZEROES),
        Command::CACHE => can(TransmissionFlags::SEND_CACHE),
        Command::BLOCK_STATUS => !terms.contexts.is_empty(),
        _ => true,
    };
    let changes = matches!(command, Command::WRITE | Command::TRIM | Command::WRITE_ZEROES);
    if changes && can(TransmissionFlags::READ_ONLY) {
        return Err(refused(Errno::EPERM, "the export is read-only"));
    }
    if !offered {
        return Err(refused(Errno::EINVAL, "a command that was not negotiated for this export"));
    }
    if command == Command::FLUSH {
        return if at == 0 && len == 0 {
            Ok(Checked::Flush)
        } else {
            Err(refused(Errno::EINVAL, "a flush with an offset or a length"))
        };
    }
    check_range(terms, command, at, len)?;
    let fua = flags.contains(CommandFlags::FUA);
    match command {
        Command::READ => {
            let df = flags.contains(CommandFlags::DF);
            let errno = if df { Errno::EOVERFLOW } else { Errno::EINVAL };
            let len = short(len, errno, "a read over 64 MiB")?;
            Ok(Checked::Read { at, len, df })
        }
        Command::WRITE => {
            let len = short(len, Errno::EINVAL, "a write over 64 MiB")?;
            Ok(Checked::Write { at, len, fua })
        }
        Command::TRIM => Ok(Checked::Trim { at, len, fua }),
        Command::WRITE_ZEROES => Ok(Checked::Zero {
            at,
            len,
            fua,
            may_trim: !flags.contains(CommandFlags::NO_HOLE),
            fast: flags.contains(CommandFlags::FAST_ZERO),
        }),
        Command::CACHE => Ok(Checked::Cache { at, len }),
        // BLOCK_STATUS is the only command left.
        _ if len == 0 => Err(refused(Errno::EINVAL, "a block status of no bytes")),
        _ => Ok(Checked::Extents { at, len, one: flags.contains(CommandFlags::REQ_ONE) }),
    }
}

fn short(len: u64, errno: Errno, text: &'static str) -> Result<u32, Refused> {
    match u32::try_from(len) {
        Ok(len) if len <= MAX_PAYLOAD => Ok(len),
        _ => Err(refused(errno, text)),
    }
}

fn check_range(terms: &Terms, command: Command, at: u64, len: u64) -> Result<(), Refused> {
    if at.checked_add(len).is_none_or(|end| end > terms.size) {
        let grows = matches!(command, Command::WRITE | Command::WRITE_ZEROES);
        let errno = if grows { Errno::ENOSPC } else { Errno::EINVAL };
        return Err(refused(errno, "a range past the end of the export"));
    }
    let minimum = u64::from(terms.unit.max(1));
    if minimum > 1 && (!at.is_multiple_of(minimum) || !len.is_multiple_of(minimum)) {
        return Err(refused(Errno::EINVAL, "a range that is not a multiple of the block size"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
