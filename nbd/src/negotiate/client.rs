//! The client's end of the negotiation.
//!
//! ```text
//!  start -> Client --Ready(Ready)--> list, info, go, abort
//!             ^                          |
//!             |                          v
//!             +------- Feed ---------- Client --> Listed(Ready), Told(Ready), Refused(Ready), ...
//!                                        |
//!                                        +------> Done(Negotiated)         any time: End
//! ```
//!
//! The client asks one question at a time, as the specification demands. It bounds what a server may send:
//! the length of a reply, the number of replies to an option, and the memory that it keeps of them.

use super::{
    LIST_BYTES, LIST_LIMIT, Negotiated, Purpose,
    phase::{Agreed, Phase, Turn},
    ready::{ClientTls, Ready},
    told::{Described, Told, describe},
};
use crate::{
    AgreedContext, Framing, Refusal, Violation,
    wire::{
        ClientFlags, ContextEntry, ExportReply, Greeting, HandshakeFlags, InfoQuery, InfoType,
        MAX_STRING, OptionCode, OptionHeader, OptionReplyHeader, ReplyCode, ServerEntry,
        put_option,
    },
};

/// The longest option reply that the client takes, in bytes of data. All known kinds fit in 8200.
pub const REPLY_LIMIT: u32 = 16 << 10;

/// The state of the negotiation after a step.
#[derive(Debug)]
#[must_use = "it contains the machine"]
pub enum ClientStep {
    /// More bytes are needed.
    Feed(Client),
    /// The framing is agreed. The caller asks the next question.
    Ready(Ready),
    /// The answer to `Ready::list`.
    Listed(Ready, Vec<Listed>),
    /// The answer to `Ready::info`.
    Told(Ready, Described),
    /// The answer to `Ready::contexts`.
    Contexts(Ready, Vec<String>),
    /// The server is ready for TLS, and the caller performs the handshake. It has to refuse input that was
    /// not consumed: those bytes came in plain text.
    StartTls(ClientTls),
    /// The server refused. Another question may follow; after ERR_SHUTDOWN only `abort`.
    Refused(Ready, Refusal),
    /// The answer to `Ready::go`. The input that was not consumed belongs to the transmission.
    Done(Negotiated, Described),
    /// The server broke the protocol. Close the connection.
    End(Violation),
}

/// One export of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The name, as `Ready::go` takes it.
    pub name: String,
    /// The description for people; may be empty.
    pub description: String,
}

/// The client's end, waiting for bytes.
#[derive(Debug)]
pub struct Client {
    agreed: Agreed,
    phase: Phase,
    /// Replies to the current option so far.
    replies: usize,
}

impl Client {
    /// The size of an input buffer that holds every reply that the client takes, in bytes.
    pub const INPUT: usize = OptionReplyHeader::LEN + REPLY_LIMIT as usize;

    /// Starts a negotiation. The client asks for the framing `wish`, and falls back to what the server has.
    /// The server sends the first bytes.
    pub const fn start(wish: Framing) -> Self {
        Self::begin(wish, false)
    }

    /// As [`start`](Self::start), but the client sends nothing before TLS except the request for it.
    pub const fn start_secure(wish: Framing) -> Self {
        Self::begin(wish, true)
    }

    const fn begin(wish: Framing, secure: bool) -> Self {
        let agreed = Agreed { wish, framing: Framing::Simple, fixed: false, zeroes: true, secure };
        Self::new(agreed, Phase::Greeting)
    }

    pub(super) const fn new(agreed: Agreed, phase: Phase) -> Self {
        Self { agreed, phase, replies: 0 }
    }

    pub(super) fn go(
        agreed: Agreed,
        name: String,
        contexts: Vec<AgreedContext>,
        out: &mut Vec<u8>,
    ) -> Self {
        put_info(OptionCode::GO, &name, out);
        Self::new(agreed, Phase::Go { name, contexts, told: Told::default() })
    }

    pub(super) fn export_name(
        agreed: Agreed,
        name: String,
        contexts: Vec<AgreedContext>,
        out: &mut Vec<u8>,
    ) -> Self {
        put_option(OptionCode::EXPORT_NAME, out, |out| out.extend_from_slice(name.as_bytes()));
        Self::new(agreed, Phase::ExportName { name, contexts })
    }

    /// What the server has to send next, for the text of an error when it closes instead.
    pub const fn awaited(&self) -> &'static str {
        match self.phase {
            Phase::Greeting => "its greeting",
            Phase::ExportName { .. } => {
                "its answer to NBD_OPT_EXPORT_NAME, which is how a server refuses an export"
            }
            Phase::StartTls => "its answer to NBD_OPT_STARTTLS",
            Phase::Extended => "its answer to NBD_OPT_EXTENDED_HEADERS",
            Phase::Structured => "its answer to NBD_OPT_STRUCTURED_REPLY",
            Phase::List { .. } => "its list of exports",
            Phase::Info { .. } => "its answer to NBD_OPT_INFO",
            Phase::ContextNames { .. } => "its answer to NBD_OPT_LIST_META_CONTEXT",
            Phase::Contexts { .. } => "its answer to NBD_OPT_SET_META_CONTEXT",
            Phase::Go { .. } => "its answer to NBD_OPT_GO",
            Phase::Barred => "nothing",
        }
    }

    /// Consumes bytes from the front of `input`, which begins with all bytes that were not consumed before.
    /// Returns how many it consumed, and the new state. Appends options to `out`; the caller sends them
    /// also when the negotiation has ended.
    pub fn step(self, input: &[u8], out: &mut Vec<u8>) -> (usize, ClientStep) {
        let mut client = self;
        let mut rest = input;
        let step = loop {
            match client.turn(&mut rest, out) {
                Ok(Turn::Hungry(client)) => break ClientStep::Feed(client),
                Ok(Turn::Again(again)) => client = again,
                Ok(Turn::Stop(step)) => break step,
                Err(violation) => break ClientStep::End(violation),
            }
        };
        (input.len() - rest.len(), step)
    }

    fn turn(mut self, rest: &mut &[u8], out: &mut Vec<u8>) -> Result<Turn, Violation> {
        let option = match &self.phase {
            Phase::Greeting => return self.greeting(rest, out),
            Phase::ExportName { .. } => return self.export_reply(rest),
            Phase::Barred => {
                let text = "the server does not speak fixed newstyle: it can neither list nor describe exports, and has no TLS";
                let refusal = Refusal::unsupported(text);
                return Ok(Turn::Stop(ClientStep::Refused(Ready(self.agreed), refusal)));
            }
            Phase::StartTls => OptionCode::STARTTLS,
            Phase::Extended => OptionCode::EXTENDED_HEADERS,
            Phase::Structured => OptionCode::STRUCTURED_REPLY,
            Phase::List { .. } => OptionCode::LIST,
            Phase::Info { .. } => OptionCode::INFO,
            Phase::ContextNames { .. } => OptionCode::LIST_META_CONTEXT,
            Phase::Contexts { .. } => OptionCode::SET_META_CONTEXT,
            Phase::Go { .. } => OptionCode::GO,
        };
        let Some(header) = OptionReplyHeader::peek(rest)? else { return Ok(Turn::Hungry(self)) };
        let OptionReplyHeader { option: answered, code, len } = header;
        if answered != option {
            return Err(Violation::WrongOption { asked: option, answered });
        }
        if len > REPLY_LIMIT {
            return Err(Violation::ReplyTooLong { len: len.into(), limit: REPLY_LIMIT.into() });
        }
        let whole = OptionReplyHeader::LEN + usize::try_from(len).unwrap_or(usize::MAX);
        let Some(data) = rest.get(OptionReplyHeader::LEN..whole) else {
            return Ok(Turn::Hungry(self));
        };
        *rest = rest.get(whole..).unwrap_or_default();
        self.replies += 1;
        // The last one ends the list.
        if self.replies > LIST_LIMIT + 1 {
            return Err(Violation::TooManyReplies { option, limit: LIST_LIMIT });
        }
        if code.is_error() {
            return self.refused(Refusal::received(code, data), out);
        }
        self.reply(code, data, out)
    }

    fn greeting(mut self, rest: &mut &[u8], out: &mut Vec<u8>) -> Result<Turn, Violation> {
        let Some(Greeting { flags: server }) = Greeting::peek(rest)? else {
            return Ok(Turn::Hungry(self));
        };
        *rest = rest.get(Greeting::LEN..).unwrap_or_default();
        self.agreed.fixed = server.contains(HandshakeFlags::FIXED_NEWSTYLE);
        self.agreed.zeroes = !server.contains(HandshakeFlags::NO_ZEROES);
        let mut flags = ClientFlags::empty();
        flags.set(ClientFlags::FIXED_NEWSTYLE, self.agreed.fixed);
        flags.set(ClientFlags::NO_ZEROES, !self.agreed.zeroes);
        flags.put(out);
        if self.agreed.secure {
            // A server without fixed newstyle cannot be asked for TLS.
            if !self.agreed.fixed {
                return Ok(Turn::Again(Self::new(self.agreed, Phase::Barred)));
            }
            put_option(OptionCode::STARTTLS, out, |_| ());
            return Ok(Turn::Again(Self::new(self.agreed, Phase::StartTls)));
        }
        Ok(Self::agree_framing(self.agreed, out))
    }

    /// Asks for the framing that the caller wants.
    pub(super) fn agree_framing(agreed: Agreed, out: &mut Vec<u8>) -> Turn {
        if !agreed.fixed || agreed.wish == Framing::Simple {
            return Turn::Stop(ClientStep::Ready(Ready(agreed)));
        }
        if agreed.wish == Framing::Extended {
            put_option(OptionCode::EXTENDED_HEADERS, out, |_| ());
            return Turn::Again(Self::new(agreed, Phase::Extended));
        }
        put_option(OptionCode::STRUCTURED_REPLY, out, |_| ());
        Turn::Again(Self::new(agreed, Phase::Structured))
    }

    /// Takes a reply that is not an error.
    fn reply(mut self, code: ReplyCode, data: &[u8], out: &mut Vec<u8>) -> Result<Turn, Violation> {
        let unfit = |why| Violation::ReplyData { reply: code, why };
        match (&mut self.phase, code) {
            (Phase::List { found, bytes }, ReplyCode::SERVER) => {
                let ServerEntry { name, description } = ServerEntry::parse(data).map_err(unfit)?;
                *bytes += data.len();
                if *bytes > 2 * LIST_BYTES {
                    let (option, limit) = (OptionCode::LIST, 2 * LIST_BYTES);
                    return Err(Violation::TooManyReplies { option, limit });
                }
                let (name, description) = (name.to_owned(), description.to_owned());
                found.push(Listed { name, description });
                return Ok(Turn::Again(self));
            }
            (Phase::Info { told } | Phase::Go { told, .. }, ReplyCode::INFO) => {
                told.take(data).map_err(unfit)?;
                return Ok(Turn::Again(self));
            }
            (Phase::ContextNames { found, bytes }, ReplyCode::META_CONTEXT) => {
                *bytes += data.len();
                if *bytes > LIST_BYTES {
                    let (option, limit) = (OptionCode::LIST_META_CONTEXT, LIST_BYTES);
                    return Err(Violation::TooManyReplies { option, limit });
                }
                found.push(ContextEntry::parse(data).map_err(unfit)?.name.to_owned());
                return Ok(Turn::Again(self));
            }
            (Phase::Contexts { wanted, contexts, .. }, ReplyCode::META_CONTEXT) => {
                let entry = ContextEntry::parse(data).map_err(unfit)?;
                select(wanted, contexts, entry)?;
                return Ok(Turn::Again(self));
            }
            (_, ReplyCode::ACK) => {}
            (_, other) => return Err(Violation::UnexpectedReply(other)),
        }
        let mut agreed = self.agreed;
        Ok(match self.phase {
            Phase::Extended | Phase::Structured => {
                let extended = matches!(self.phase, Phase::Extended);
                agreed.framing = if extended { Framing::Extended } else { Framing::Structured };
                Turn::Stop(ClientStep::Ready(Ready(agreed)))
            }
            Phase::StartTls => Turn::Stop(ClientStep::StartTls(ClientTls(agreed))),
            Phase::ContextNames { found, .. } => {
                Turn::Stop(ClientStep::Contexts(Ready(agreed), found))
            }
            Phase::List { found, .. } => Turn::Stop(ClientStep::Listed(Ready(agreed), found)),
            Phase::Info { told } => {
                let described = told.finish(agreed.framing)?;
                Turn::Stop(ClientStep::Told(Ready(agreed), described))
            }
            Phase::Contexts { name, contexts, .. } => {
                Turn::Again(Self::go(agreed, name, contexts, out))
            }
            Phase::Go { name, contexts, told } => {
                let described = told.finish(agreed.framing)?;
                let negotiated = described.negotiated(agreed.framing, contexts, name, Purpose::Go);
                Turn::Stop(ClientStep::Done(negotiated, described))
            }
            Phase::Greeting | Phase::ExportName { .. } | Phase::Barred => {
                return Err(Violation::UnexpectedReply(code));
            }
        })
    }

    /// Takes a reply that is an error. The client continues without what is optional.
    fn refused(self, refusal: Refusal, out: &mut Vec<u8>) -> Result<Turn, Violation> {
        let agreed = self.agreed;
        let fatal = matches!(refusal.code(), ReplyCode::ERR_SHUTDOWN | ReplyCode::ERR_TLS_REQD);
        Ok(match self.phase {
            Phase::Extended if !fatal => {
                put_option(OptionCode::STRUCTURED_REPLY, out, |_| ());
                Turn::Again(Self::new(agreed, Phase::Structured))
            }
            Phase::Structured if !fatal => Turn::Stop(ClientStep::Ready(Ready(agreed))),
            Phase::Contexts { name, .. } if !fatal => {
                Turn::Again(Self::go(agreed, name, Vec::new(), out))
            }
            Phase::Go { name, contexts, .. } if refusal.code() == ReplyCode::ERR_UNSUP => {
                if agreed.framing == Framing::Extended {
                    let text = "NBD_OPT_GO is unsupported where extended headers are";
                    return Err(Violation::Unexpected(text));
                }
                Turn::Again(Self::export_name(agreed, name, contexts, out))
            }
            _ => Turn::Stop(ClientStep::Refused(Ready(agreed), refusal)),
        })
    }

    fn export_reply(self, rest: &mut &[u8]) -> Result<Turn, Violation> {
        let Some(ExportReply { size, flags }) = ExportReply::peek(rest, self.agreed.zeroes) else {
            return Ok(Turn::Hungry(self));
        };
        let len = ExportReply::wire_len(self.agreed.zeroes);
        *rest = rest.get(len..).unwrap_or_default();
        let framing = self.agreed.framing;
        let described = describe(size, flags, framing)?;
        Ok(match self.phase {
            Phase::ExportName { name, contexts } => {
                let purpose = Purpose::ExportName;
                let negotiated = described.negotiated(framing, contexts, name, purpose);
                Turn::Stop(ClientStep::Done(negotiated, described))
            }
            _ => return Err(Violation::Unexpected("an export where none was asked for")),
        })
    }
}

/// Takes in one granted context. A context that the client did not want is ignored, and the last id
/// that the server names for a context counts.
fn select(
    wanted: &[String],
    contexts: &mut Vec<AgreedContext>,
    entry: ContextEntry<'_>,
) -> Result<(), Violation> {
    let ContextEntry { id, name } = entry;
    if !wanted.iter().any(|wanted| wanted == name) {
        return Ok(());
    }
    contexts.retain(|context| context.name != name);
    if contexts.iter().any(|context| context.id == id) {
        return Err(Violation::Unexpected("two metadata contexts with the same id"));
    }
    contexts.push(AgreedContext::new(id, name));
    Ok(())
}

/// Appends INFO or GO. A client that asks for block sizes promises to keep to them.
pub(super) fn put_info(option: OptionCode, name: &str, out: &mut Vec<u8>) {
    let wanted = vec![InfoType::NAME, InfoType::DESCRIPTION, InfoType::BLOCK_SIZE];
    put_option(option, out, |out| InfoQuery { name, wanted }.put(out));
}

// The longest usual option that this end sends: an export's name in a context query, with a short context.
const _: () = assert!(OptionHeader::LEN + MAX_STRING + 64 < super::OPTION_LIMIT as usize);
