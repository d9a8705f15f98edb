//! Between the protocol's words and the disk's: a request down, an answer up.

use nbd::{
    Gather, Terms,
    transmit::{Checked, Extent, ReadPiece, Replies},
    wire::{Errno, ExtentFlags, Request},
};

use super::super::{Traffic, blocking::Finished, errno::errno};
use disk::{Answer, Data, DiskError, Op, Piece, Slice};

/// The request in the disk's words.
pub(in crate::session) fn op(checked: Checked, data: Data<'_>) -> Op<'_> {
    match checked {
        Checked::Read { at, len, .. } => Op::Read { at, len },
        Checked::Write { at, fua, .. } => Op::Write { at, data, fua },
        Checked::Trim { at, len, fua } => Op::Trim { at, len, fua },
        Checked::Zero { at, len, fua, may_trim, fast } => Op::Zero { at, len, fua, may_trim, fast },
        Checked::Cache { at, len } => Op::Cache { at, len },
        Checked::Extents { at, len, one } => Op::Extents { at, len, one },
        // `Disconnect` never reaches a disk; to flush would do no harm.
        _ => Op::Flush,
    }
}

/// The disk's answer in the protocol's words.
pub(super) fn answer(
    replies: &mut Replies<'_, Slice>,
    request: &Request,
    checked: Checked,
    got: &mut Answer,
) {
    match checked {
        Checked::Read { len, df, .. } => {
            let covered: u64 = got.pieces.iter().map(Piece::len).sum();
            if covered != u64::from(len) {
                // A header with other bytes behind it than it says would put the stream out of
                // step, and the client would take data for headers.
                tracing::error!(covered, len, "our bug: a disk answered a read by halves");
                return replies.error(request, Errno::EIO, "the disk answered by halves");
            }
            let pieces = got.pieces.drain(..).map(|piece| match piece {
                Piece::Bytes(slice) => ReadPiece::Data(slice),
                Piece::Hole(len) => ReadPiece::Hole(len),
            });
            replies.read(request, df, pieces);
        }
        Checked::Extents { one, .. } => {
            let extents = got.extents.drain(..).map(|extent| {
                let mut flags = ExtentFlags::empty();
                flags.set(ExtentFlags::HOLE, extent.hole);
                flags.set(ExtentFlags::ZERO, extent.zero);
                Extent { len: extent.len, flags }
            });
            replies.extents(request, one, extents);
        }
        _ => replies.done(request),
    }
}

pub(super) fn refuse(terms: &Terms, out: &mut Gather<Slice>, request: &Request, error: &DiskError) {
    tracing::debug!(cookie = request.cookie, %error, source = ?error.source, "request failed");
    let text = match &error.source {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    Replies { out, terms }.error(request, errno(error), &text);
}

/// What came back from the blocking pool is answered.
pub(super) fn finish(
    terms: &Terms,
    out: &mut Gather<Slice>,
    traffic: &mut Traffic,
    finished: Finished,
) {
    let Finished { request, checked, result } = finished;
    match result {
        Ok(mut got) => {
            answer(&mut Replies { out, terms }, &request, checked, &mut got);
            traffic.count(checked);
        }
        Err(error) => refuse(terms, out, &request, &error),
    }
}
