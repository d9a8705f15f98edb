//! A request as an operation of the disk.

use std::panic::{AssertUnwindSafe, catch_unwind};

use disk::{Data, DiskError, Kind, Op, Verb};
use nbd::transmit::Checked;

/// The request as an operation of the disk.
pub(super) fn op(checked: Checked, data: Data<'_>) -> Op<'_> {
    match checked {
        Checked::Read { at, len, .. } => Op::Read { at, len },
        Checked::Write { at, fua, .. } => Op::Write { at, data, fua },
        Checked::Trim { at, len, fua } => Op::Trim { at, len, fua },
        Checked::Zero { at, len, fua, may_trim, fast } => Op::Zero { at, len, fua, may_trim, fast },
        Checked::Cache { at, len } => Op::Cache { at, len },
        Checked::Extents { at, len, one } => Op::Extents { at, len, one },
        // `Disconnect` never reaches a disk; a flush would do no harm.
        _ => Op::Flush,
    }
}

/// Runs an operation of a disk. A panic in it is a bug of the agent, and fails only this request.
pub(super) fn caught<T>(
    verb: Verb,
    range: (u64, u64),
    act: impl FnOnce() -> Result<T, DiskError>,
) -> Result<T, DiskError> {
    catch_unwind(AssertUnwindSafe(act)).unwrap_or_else(|_| {
        let (at, len) = range;
        tracing::error!(at, len, "our bug: a disk panicked in its {verb}");
        Err(DiskError::new(Kind::Io, verb, range))
    })
}
