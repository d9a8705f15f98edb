//! The server's end of the negotiation. The diagram is in `mod.rs`.

use super::{
    OPTION_LIMIT, Offers, SKIP_LIMIT,
    ask::{Ask, AskExport, AskList, Purpose, Wanted},
    context::Selection,
    starttls::{Channel, StartTls},
};
use crate::{
    Framing, Refusal, Violation,
    wire::{
        ClientFlags, ContextQuery, Greeting, HandshakeFlags, InfoQuery, MAX_STRING, OptionCode,
        OptionHeader, Reader, ReplyCode, Truncated, put_option_reply,
    },
};

/// The state of the negotiation after a step or an answer.
#[derive(Debug)]
#[must_use = "it contains the machine"]
pub enum Step {
    /// More bytes are needed.
    Feed(Server),
    /// The client asks something that the caller has to answer.
    Ask(Ask),
    /// The caller sends what is in `out` and performs the TLS handshake. The bytes after that are for the
    /// machine that `StartTls` gives.
    StartTls(StartTls),
    /// An export is agreed. The input that was not consumed belongs to the transmission.
    Done(super::Negotiated),
    /// The negotiation has ended. Close the connection after `out` has been sent.
    End(Ending),
}

/// Why a negotiation ended without a transmission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The client sent NBD_OPT_ABORT, and the server acknowledged it.
    Aborted,
    /// NBD_OPT_EXPORT_NAME arrived while draining. The only way to refuse it is to close.
    ShutDown,
    /// The caller refused an NBD_OPT_EXPORT_NAME. The only way to tell the client is to close.
    Refused(Refusal),
    /// The client broke the protocol.
    Violation(Violation),
}

/// The server's end, waiting for bytes.
#[derive(Debug)]
pub struct Server {
    pub(super) phase: Phase,
    pub(super) channel: Channel,
    pub(super) offers: Offers,
    pub(super) client: ClientFlags,
    pub(super) framing: Framing,
    pub(super) selection: Selection,
    pub(super) draining: bool,
}

#[derive(Debug)]
pub(super) enum Phase {
    /// The client's flags come next.
    Flags,
    /// An option comes next.
    Options,
    /// The rest of a long option's data comes next. It is skipped, and then the option is answered.
    Skip { option: OptionCode, left: u32 },
}

/// The result of one message.
pub(super) enum Turn {
    Hungry(Server),
    Again(Server),
    Stop(Step),
}

impl Server {
    /// The size of an input buffer that holds every option that the server takes, in bytes.
    pub const INPUT: usize = OptionHeader::LEN + OPTION_LIMIT as usize;

    /// Starts a negotiation. Appends the greeting to `out`.
    pub fn start(offers: Offers, out: &mut Vec<u8>) -> Self {
        let mut flags = HandshakeFlags::empty();
        flags.set(HandshakeFlags::FIXED_NEWSTYLE, offers.fixed);
        flags.set(HandshakeFlags::NO_ZEROES, offers.no_zeroes);
        Greeting { flags }.put(out);
        Self {
            phase: Phase::Flags,
            channel: Channel::Plain,
            offers,
            client: ClientFlags::empty(),
            framing: Framing::Simple,
            selection: Selection::default(),
            draining: false,
        }
    }

    /// Consumes bytes from the front of `input`, which begins with all bytes that were not consumed before.
    /// Returns how many it consumed, and the new state. Appends answers to `out`; the caller sends them
    /// also when the negotiation has ended.
    pub fn step(self, input: &[u8], out: &mut Vec<u8>) -> (usize, Step) {
        let mut server = self;
        let mut rest = input;
        let step = loop {
            match server.turn(&mut rest, out) {
                Ok(Turn::Hungry(server)) => break Step::Feed(server),
                Ok(Turn::Again(again)) => server = again,
                Ok(Turn::Stop(step)) => break step,
                Err(violation) => break Step::End(Ending::Violation(violation)),
            }
        };
        (input.len() - rest.len(), step)
    }

    /// From now on the server refuses every option with ERR_SHUTDOWN, except ABORT, which it acknowledges.
    /// The specification lets the client leave first, so the caller sets a deadline for that.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Whether the client expects the 124 zeroes.
    pub(super) fn sends_zeroes(&self) -> bool {
        !self.client.contains(ClientFlags::NO_ZEROES)
    }

    fn turn(mut self, rest: &mut &[u8], out: &mut Vec<u8>) -> Result<Turn, Violation> {
        match self.phase {
            Phase::Flags => {
                let Some(flags) = ClientFlags::peek(rest) else { return Ok(Turn::Hungry(self)) };
                consume(rest, ClientFlags::LEN);
                let mut known = ClientFlags::empty();
                known.set(ClientFlags::FIXED_NEWSTYLE, self.offers.fixed);
                known.set(ClientFlags::NO_ZEROES, self.offers.no_zeroes);
                if !known.contains(flags) {
                    return Err(Violation::ClientFlags(flags.bits()));
                }
                self.client = flags;
                self.phase = Phase::Options;
                Ok(Turn::Again(self))
            }
            Phase::Options => {
                let Some(header) = OptionHeader::peek(rest)? else { return Ok(Turn::Hungry(self)) };
                let OptionHeader { option, len } = header;
                if len > SKIP_LIMIT {
                    return Err(Violation::OptionTooLong { len, limit: SKIP_LIMIT });
                }
                if len > OPTION_LIMIT {
                    if option == OptionCode::EXPORT_NAME {
                        return Err(Violation::ExportName("its name is over the limit"));
                    }
                    consume(rest, OptionHeader::LEN);
                    self.phase = Phase::Skip { option, left: len };
                    return Ok(Turn::Again(self));
                }
                let whole = OptionHeader::LEN + usize::try_from(len).unwrap_or(usize::MAX);
                let Some(data) = rest.get(OptionHeader::LEN..whole) else {
                    return Ok(Turn::Hungry(self));
                };
                consume(rest, whole);
                let before = out.len();
                let turn = self.option(option, data, out);
                // A client that keeps to the protocol sends nothing before the acknowledgement. These
                // bytes are plain text that would be taken for the first bytes inside TLS.
                if matches!(turn, Ok(Turn::Stop(Step::StartTls(_)))) && !rest.is_empty() {
                    out.truncate(before);
                    return Err(Violation::BehindStartTls(rest.len()));
                }
                turn
            }
            Phase::Skip { option, left } => {
                let there = u32::try_from(rest.len()).unwrap_or(u32::MAX).min(left);
                consume(rest, usize::try_from(there).unwrap_or(usize::MAX));
                let left = left - there;
                if left > 0 {
                    self.phase = Phase::Skip { option, left };
                    return Ok(Turn::Hungry(self));
                }
                self.phase = Phase::Options;
                self.skipped(option, out)
            }
        }
    }

    /// Answers an option whose data is complete.
    fn option(
        mut self,
        option: OptionCode,
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Turn, Violation> {
        if option == OptionCode::SET_META_CONTEXT {
            self.selection.clear();
        }
        let answer = match option {
            OptionCode::ABORT => return Ok(Self::abort(out)),
            OptionCode::EXPORT_NAME => return self.export_name(data),
            _ if self.draining => Err(Refusal::shutdown()),
            // "Fixed newstyle negotiation": without it only EXPORT_NAME is allowed.
            _ if !self.client.contains(ClientFlags::FIXED_NEWSTYLE) => Err(Refusal::invalid(
                "only NBD_OPT_EXPORT_NAME is allowed without NBD_FLAG_C_FIXED_NEWSTYLE",
            )),
            OptionCode::STARTTLS => match self.may_start_tls(data) {
                Ok(()) => return Ok(self.start_tls(out)),
                Err(refusal) => Err(refusal),
            },
            _ if self.needs_tls() => Err(Refusal::tls_required()),
            OptionCode::LIST => match no_data(data) {
                Ok(()) => {
                    return Ok(Turn::Stop(Step::Ask(Ask::List(AskList { server: self }))));
                }
                Err(refusal) => Err(refusal),
            },
            OptionCode::INFO | OptionCode::GO => match info(data) {
                Ok((name, wanted)) => {
                    let purpose =
                        if option == OptionCode::GO { Purpose::Go } else { Purpose::Info };
                    return Ok(self.ask(purpose, name, wanted));
                }
                Err(refusal) => Err(refusal),
            },
            OptionCode::LIST_META_CONTEXT | OptionCode::SET_META_CONTEXT => {
                let purpose = if option == OptionCode::SET_META_CONTEXT {
                    Purpose::SetContexts
                } else {
                    Purpose::ListContexts
                };
                match self.contexts(data) {
                    Ok((name, wanted)) => return Ok(self.ask(purpose, name, wanted)),
                    Err(refusal) => Err(refusal),
                }
            }
            OptionCode::STRUCTURED_REPLY if self.offers.structured => self.structured(data),
            OptionCode::EXTENDED_HEADERS if self.offers.extended => self.extended(data),
            other => Err(unsupported(other)),
        };
        match answer {
            Ok(()) => put_option_reply(option, ReplyCode::ACK, out, |_| ()),
            Err(refusal) => refusal.put(option, out),
        }
        Ok(Turn::Again(self))
    }

    /// Answers an option whose data exceeded `OPTION_LIMIT`.
    fn skipped(mut self, option: OptionCode, out: &mut Vec<u8>) -> Result<Turn, Violation> {
        let refusal = match option {
            OptionCode::LIST
            | OptionCode::STRUCTURED_REPLY
            | OptionCode::EXTENDED_HEADERS
            | OptionCode::STARTTLS
            | OptionCode::ABORT => {
                // The answer depends on whether there was data, not on how much.
                return self.option(option, &[0], out);
            }
            OptionCode::INFO | OptionCode::GO => Refusal::too_big(TOO_LONG),
            OptionCode::LIST_META_CONTEXT | OptionCode::SET_META_CONTEXT
                if self.offers.contexts =>
            {
                Refusal::too_big(TOO_LONG)
            }
            other => unsupported(other),
        };
        if option == OptionCode::SET_META_CONTEXT {
            self.selection.clear();
        }
        let refusal = match () {
            () if self.draining => Refusal::shutdown(),
            () if self.needs_tls() => Refusal::tls_required(),
            () => refusal,
        };
        refusal.put(option, out);
        Ok(Turn::Again(self))
    }

    /// Data with ABORT is ignored.
    fn abort(out: &mut Vec<u8>) -> Turn {
        put_option_reply(OptionCode::ABORT, ReplyCode::ACK, out, |_| ());
        Turn::Stop(Step::End(Ending::Aborted))
    }

    fn export_name(self, data: &[u8]) -> Result<Turn, Violation> {
        if self.draining {
            return Ok(Turn::Stop(Step::End(Ending::ShutDown)));
        }
        if self.needs_tls() {
            return Ok(Turn::Stop(Step::End(Ending::Refused(Refusal::tls_required()))));
        }
        if self.framing == Framing::Extended {
            return Err(Violation::ExportName("extended headers were negotiated"));
        }
        let name = Reader::new(data).string(data.len())?.to_owned();
        Ok(self.ask(Purpose::ExportName, name, Wanted::NOTHING))
    }

    fn structured(&mut self, data: &[u8]) -> Result<(), Refusal> {
        no_data(data)?;
        if self.framing == Framing::Extended {
            return Err(Refusal::new(
                ReplyCode::ERR_EXT_HEADER_REQD,
                "extended headers were negotiated and take precedence",
            ));
        }
        self.framing = Framing::Structured;
        Ok(())
    }

    fn extended(&mut self, data: &[u8]) -> Result<(), Refusal> {
        no_data(data)?;
        self.framing = Framing::Extended;
        Ok(())
    }

    fn contexts(&self, data: &[u8]) -> Result<(String, Wanted), Refusal> {
        if !self.offers.contexts {
            return Err(unsupported(OptionCode::SET_META_CONTEXT));
        }
        if self.framing < Framing::Structured {
            return Err(Refusal::invalid(
                "metadata contexts need NBD_OPT_STRUCTURED_REPLY or NBD_OPT_EXTENDED_HEADERS first",
            ));
        }
        let query = ContextQuery::parse(data).map_err(unfit)?;
        Ok((query.name.to_owned(), Wanted::Contexts(data.to_vec())))
    }

    fn ask(self, purpose: Purpose, name: String, wanted: Wanted) -> Turn {
        Turn::Stop(Step::Ask(Ask::Export(AskExport { server: self, purpose, name, wanted })))
    }
}

const TOO_LONG: &str = "the option's data is over the limit of 8 KiB";

fn info(data: &[u8]) -> Result<(String, Wanted), Refusal> {
    let query = InfoQuery::parse(data).map_err(unfit)?;
    Ok((query.name.to_owned(), Wanted::from_infos(&query.wanted)))
}

pub(super) fn no_data(data: &[u8]) -> Result<(), Refusal> {
    if data.is_empty() { Ok(()) } else { Err(Refusal::invalid("this option takes no data")) }
}

fn unsupported(option: OptionCode) -> Refusal {
    Refusal::unsupported(format!("{option} is not supported by this server"))
}

/// Refuses data that does not parse.
fn unfit(why: Truncated) -> Refusal {
    match why {
        Truncated::StringTooLong(len) => Refusal::too_big(format!(
            "a string of {len} bytes in the option's data, over the limit of {MAX_STRING}"
        )),
        other => Refusal::invalid(format!("the option's data does not parse: {other}")),
    }
}

/// Removes the first `len` bytes.
fn consume(rest: &mut &[u8], len: usize) {
    *rest = rest.get(len..).unwrap_or_default();
}
