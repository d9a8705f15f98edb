//! Received bytes to requests, and requests to the disk.
//!
//! A small write is answered out of the receive buffer; a large one is received into pages that
//! the disk can keep; the payload of a refused one is skipped.

use std::{
    io::{self, IoSliceMut},
    sync::Arc,
};

use nbd::{
    Framing, Violation,
    transmit::{self, Checked, Refused, Replies, check, payload_len},
    wire::{Command, Request},
};

use super::{
    super::{End, pool, protocol},
    Transmission, reply,
};
use disk::{Data, Op, Pages, Slice, Turn};

/// Payload up to which a write waits in the receive buffer until it is whole, in bytes.
const IN_PLACE: usize = 16 * 1024;
/// Most bytes received behind a large write's payload: they may be the next large write's, which
/// then lands in its pages without a copy.
const BEHIND_PAYLOAD: usize = 4096;
/// Where the next received byte belongs.
#[derive(Debug)]
pub(super) enum Intake {
    /// To a request's header, or to the payload of a small write behind it.
    Header,
    /// To a large write.
    Payload { request: Request, checked: Checked, pages: Pages },
    /// To the payload of a request that is refused.
    Skip { left: u64, request: Request, refused: Refused },
    /// The client has said its last.
    Closed(End),
}

/// What the next request waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// More bytes from the client.
    Input,
    /// Room: replies to be sent, or requests to come back from the blocking pool.
    Room,
    /// There will be none.
    Nothing,
}

impl Transmission {
    /// Answers or launches every whole request that has been received and that there is room for;
    /// says what the next one waits for.
    pub(super) fn take_in(&mut self) -> Result<Want, Violation> {
        while self.has_room() {
            match &mut self.intake {
                Intake::Closed(_) => return Ok(Want::Nothing),
                Intake::Skip { left, request, refused } => {
                    let n = usize::try_from(*left).unwrap_or(usize::MAX).min(self.buffer.len());
                    self.buffer.consume(n);
                    *left -= n as u64;
                    if *left > 0 {
                        return Ok(Want::Input);
                    }
                    let (request, refused) = (*request, *refused);
                    self.intake = Intake::Header;
                    let (cookie, errno) = (request.cookie, refused.errno);
                    tracing::debug!(cookie, %errno, "request refused: {}", refused.text);
                    self.replies().error(&request, refused.errno, refused.text);
                }
                Intake::Payload { pages, .. } => {
                    let n = pages.copy_in(self.buffer.filled());
                    self.buffer.consume(n);
                    if pages.missing() > 0 {
                        return Ok(Want::Input);
                    }
                    let intake = std::mem::replace(&mut self.intake, Intake::Header);
                    if let Intake::Payload { request, checked, mut pages } = intake {
                        self.large_writes = true;
                        self.answer(&request, checked, Some(Payload::Pages(&mut pages)));
                    }
                }
                Intake::Header => {
                    if !self.take_header()? {
                        return Ok(Want::Input);
                    }
                }
            }
        }
        let closed = matches!(self.intake, Intake::Closed(_));
        Ok(if closed { Want::Nothing } else { Want::Room })
    }

    /// One request from the front of the buffer; false if it is not all there.
    fn take_header(&mut self) -> Result<bool, Violation> {
        let extended = self.terms.framing == Framing::Extended;
        let Some(request) = Request::peek(self.buffer.filled(), extended)? else {
            return Ok(false);
        };
        let header = Request::wire_len(extended);
        if request.command == Command::WRITE && request.len > self.write_endured {
            protocol::request(self.connection, &request);
            self.buffer.consume(header);
            self.traffic.requests += 1;
            // Not answered, and the payload not taken in; what came before it is.
            self.intake = Intake::Closed(End::TooLong(request.len));
            return Ok(true);
        }
        let payload = payload_len(&self.terms, &request)?;
        match check(&self.terms, &request) {
            Err(refused) => {
                protocol::request(self.connection, &request);
                self.buffer.consume(header);
                self.intake = Intake::Skip { left: payload, request, refused };
            }
            Ok(Checked::Disconnect) => {
                protocol::request(self.connection, &request);
                self.buffer.consume(header);
                self.intake = Intake::Closed(End::Disconnected);
            }
            Ok(checked @ Checked::Write { at, len, .. }) => {
                let len = len as usize;
                if self.buffer.len() >= header + len {
                    self.large_writes = false;
                    self.buffer.consume(header);
                    self.answer(&request, checked, Some(Payload::Received(len)));
                    self.buffer.consume(len);
                } else if len <= IN_PLACE {
                    return Ok(false);
                } else {
                    self.buffer.consume(header);
                    let pages = Pages::room(at, len);
                    self.intake = Intake::Payload { request, checked, pages };
                }
            }
            Ok(checked) => {
                self.buffer.consume(header);
                self.answer(&request, checked, None);
            }
        }
        self.traffic.requests += 1;
        Ok(true)
    }

    /// Does a request now, or hands it to the blocking pool.
    fn answer(&mut self, request: &Request, checked: Checked, payload: Option<Payload<'_>>) {
        protocol::request(self.connection, request);
        self.turn += 4096;
        if request.len == 0 && !matches!(checked, Checked::Flush) {
            return self.empty(request, checked);
        }
        self.answer.clear();
        let data = match payload {
            None => Data::Bytes(&[]),
            Some(Payload::Received(len)) => Data::Bytes(&self.buffer.filled()[..len]),
            Some(Payload::Pages(pages)) => Data::Pages(pages),
        };
        let mut op = reply::op(checked, data);
        let turn = if self.blocking.holds {
            Ok(Turn::Later)
        } else {
            self.disk.attempt(&mut op, &mut self.answer)
        };
        match turn {
            Ok(Turn::Done) => {
                let mut replies = Replies { out: &mut self.out, terms: &self.terms };
                let before = replies.out.len();
                reply::answer(&mut replies, request, checked, &mut self.answer);
                self.turn += self.out.len() - before;
                self.traffic.count(checked);
            }
            Ok(Turn::Later) => {
                let asked = op.asked();
                let pages = match op {
                    Op::Write { data: Data::Bytes(bytes), at, .. } => {
                        Some(Pages::copied(at, bytes))
                    }
                    Op::Write { data: Data::Pages(pages), .. } => Some(std::mem::take(pages)),
                    _ => None,
                };
                self.blocking.launch(Arc::clone(&self.disk), *request, checked, asked, pages);
            }
            Err(error) => reply::refuse(&self.terms, &mut self.out, request, &error),
        }
    }

    /// A request of no bytes does nothing, successfully.
    fn empty(&mut self, request: &Request, checked: Checked) {
        if let Checked::Read { df, .. } = checked {
            self.replies().read(request, df, std::iter::empty());
        } else {
            self.replies().done(request);
        }
    }

    fn replies(&mut self) -> Replies<'_, Slice> {
        Replies { out: &mut self.out, terms: &self.terms }
    }

    /// Receives what is there into where it belongs.
    pub(super) fn receive(&mut self) -> io::Result<()> {
        pool::grow(&mut self.buffer);
        let mut behind = if self.large_writes { BEHIND_PAYLOAD } else { usize::MAX };
        let mut expected = 0;
        let n = if let Intake::Payload { pages, .. } = &mut self.intake {
            behind = BEHIND_PAYLOAD;
            expected = pages.missing();
            let mut runs: Vec<_> = pages.unfilled().map(IoSliceMut::new).collect();
            let room: usize = runs.iter().map(|run| run.len()).sum();
            if room == expected {
                let spare = self.buffer.spare();
                let len = spare.len().min(behind);
                runs.push(IoSliceMut::new(&mut spare[..len]));
            }
            let n = self.stream.try_recv(&mut runs)?;
            drop(runs);
            let direct = n.min(expected);
            pages.fill(direct);
            self.buffer.added(n - direct);
            n
        } else {
            let spare = self.buffer.spare();
            let len = spare.len().min(behind);
            let n = self.stream.try_recv(&mut [IoSliceMut::new(&mut spare[..len])])?;
            self.buffer.added(n);
            n
        };
        if n == 0 {
            let whole = expected == 0 && self.buffer.is_empty();
            self.blocking.client_gone();
            self.intake = Intake::Closed(if whole { End::Closed } else { End::ClosedInside });
        } else {
            self.spin.hit(expected > 0);
        }
        Ok(())
    }
}

/// Where the bytes of a write are.
enum Payload<'a> {
    /// So many, at the front of the receive buffer.
    Received(usize),
    Pages(&'a mut Pages),
}

const _: () = assert!(transmit::MAX_PAYLOAD as usize > IN_PLACE && pool::SMALL > IN_PLACE + 32);
