//! Translates answers of the disk to replies of the protocol.

use disk::{Answer, DiskError, Piece, Slice};
use nbd::{
    Payload,
    transmit::{Checked, Extent, ReadPiece, Replies},
    wire::{Errno, ExtentFlags, Request},
};

use super::{
    super::{blocking::Finished, errno::errno},
    Transmission,
};

/// Queues the reply for the disk's answer.
pub(super) fn answer(
    replies: &mut Replies<'_, Lent>,
    request: &Request,
    checked: Checked,
    got: &mut Answer,
) {
    match checked {
        Checked::Read { len, df, .. } => {
            let covered: u64 = got.pieces.iter().map(Piece::len).sum();
            if covered != u64::from(len) {
                // A header followed by a different number of bytes than it announces would shift the stream, and the
                // client would take data for headers.
                tracing::error!(covered, len, "our bug: a disk answered a read by halves");
                return replies.error(request, Errno::EIO, "the disk answered by halves");
            }
            let pieces = got.pieces.drain(..).map(|piece| match piece {
                Piece::Bytes(slice) => ReadPiece::Data(Lent(slice)),
                Piece::Hole(len) => ReadPiece::Hole(len),
            });
            replies.read(request, df, pieces);
        }
        Checked::Extents { one, .. } => {
            // `base:allocation` is the only context with extents that the agent offers.
            replies.extents(request, one, |_| {
                got.extents.iter().map(|extent| {
                    let mut flags = ExtentFlags::empty();
                    flags.set(ExtentFlags::HOLE, extent.hole);
                    flags.set(ExtentFlags::ZERO, extent.zero);
                    Extent { len: extent.len, flags }
                })
            });
            got.extents.clear();
        }
        _ => replies.done(request),
    }
}

/// Bytes that a request moves without sending them. They count in its turn.
pub(super) fn moved(checked: Checked) -> u64 {
    match checked {
        Checked::Write { len, .. } => len.into(),
        _ => 0,
    }
}

/// Bytes of a disk, as a `Payload` for the queue of replies.
#[derive(Debug)]
pub(super) struct Lent(Slice);

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        self.0.as_ref()
    }
}

impl Payload for Lent {
    fn held(&self) -> u64 {
        self.0.held()
    }

    fn compact(&mut self) {
        self.0.compact();
    }
}

impl Transmission {
    /// Answers a request that failed in the disk.
    pub(super) fn fail(&mut self, request: &Request, error: &DiskError) {
        let text = error.with_cause();
        tracing::debug!(cookie = request.cookie, "request failed: {text}");
        self.failures.disk(error);
        self.traffic.failed += 1;
        let mut replies = Replies { out: &mut self.out, terms: self.receiver.terms() };
        replies.error(request, errno(error), &text);
    }

    /// Answers the requests that came back from other threads.
    pub(super) fn reap(&mut self) {
        for Finished { request, checked, result, pages, .. } in self.blocking.reap() {
            // Before the client learns of it: the client may rely on the memory being free.
            drop(pages);
            match result {
                Ok(mut got) => {
                    let mut replies = Replies { out: &mut self.out, terms: self.receiver.terms() };
                    answer(&mut replies, &request, checked, &mut got);
                    self.traffic.count(checked);
                }
                Err(error) => self.fail(&request, &error),
            }
        }
    }
}
