//! The server's side of the haggling.

use super::{
    Ending, Export, MAX_OPTION, MAX_SKIP, Negotiated, Offers, Purpose, Refusal,
    contexts::{self, ALLOCATION_ID, Selected, invalid},
};
use crate::{
    Framing, Terms, Violation,
    wire::{
        BASE_ALLOCATION, ClientFlags, HandshakeFlags, InfoType, MAX_STRING, Magic, NBD_MAGIC,
        OPTION_MAGIC, OPTION_REPLY_MAGIC, OptionCode, Reader, ReplyCode, TransmissionFlags,
    },
};

/// Bytes of an option's header.
const HEADER: usize = 16;

/// Most exports that a LIST names; beyond it nobody reads.
const MAX_LISTED: usize = 10_000;

/// What the next bytes are.
#[derive(Debug)]
enum Due {
    ClientFlags,
    Option,
    /// So much of a refused option's data, then the refusal.
    Skip {
        left: u32,
        option: OptionCode,
        refusal: Refusal,
    },
}

/// The negotiation, waiting for bytes.
#[derive(Debug)]
pub struct Server {
    due: Due,
    offers: Offers,
    draining: bool,
    no_zeroes: bool,
    framing: Framing,
    selected: Option<Selected>,
}

/// What a step came to.
#[derive(Debug)]
pub enum Step {
    /// More bytes are needed than there were.
    Feed(Server),
    /// A question that the caller has to answer.
    Ask(Ask),
    /// An export was agreed on; the next byte belongs to its transmission.
    Done(Negotiated),
    /// It came to nothing. What was put out before has still to be sent.
    End(Ending),
}

/// A question to the caller.
#[derive(Debug)]
pub enum Ask {
    /// Which exports are there?
    List(AskList),
    /// What is this export?
    Export(AskExport),
}

/// NBD_OPT_LIST, to be answered.
#[derive(Debug)]
pub struct AskList(Server);

/// A question about one export, to be answered.
#[derive(Debug)]
pub struct AskExport {
    server: Server,
    purpose: Purpose,
    name: String,
    /// INFO, GO: what the client wants to know.
    infos: Vec<InfoType>,
    /// LIST_META_CONTEXT, SET_META_CONTEXT: `base:allocation` is asked for.
    allocation: bool,
}

/// What to do after an option, short of a question.
enum Next {
    Go(Server),
    Stop(Step),
}

impl Server {
    /// Puts out the greeting.
    pub fn start(offers: Offers, out: &mut Vec<u8>) -> Self {
        out.extend_from_slice(&NBD_MAGIC.to_be_bytes());
        out.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
        let flags = HandshakeFlags::FIXED_NEWSTYLE | HandshakeFlags::NO_ZEROES;
        out.extend_from_slice(&flags.bits().to_be_bytes());
        Self {
            due: Due::ClientFlags,
            offers,
            draining: false,
            no_zeroes: false,
            framing: Framing::Simple,
            selected: None,
        }
    }

    /// From now on the next option is answered ERR_SHUTDOWN, and that is the end.
    pub const fn drain(&mut self) {
        self.draining = true;
    }

    /// Eats whole messages from the front of `input` (everything that has not been eaten before)
    /// and says how many bytes that were.
    pub fn step(mut self, input: &[u8], out: &mut Vec<u8>) -> (usize, Step) {
        let mut rest = input;
        let step = loop {
            match self.one(&mut rest, out) {
                Ok(Next::Go(server)) => self = server,
                Ok(Next::Stop(step)) => break step,
                Err(violation) => break Step::End(Ending::Violation(violation)),
            }
        };
        (input.len() - rest.len(), step)
    }

    fn one(mut self, input: &mut &[u8], out: &mut Vec<u8>) -> Result<Next, Violation> {
        match self.due {
            Due::ClientFlags => {
                let mut reader = Reader::new(input);
                let Ok(bits) = reader.u32() else { return Ok(Next::Stop(Step::Feed(self))) };
                *input = reader.rest();
                let flags = ClientFlags::from_bits_retain(bits);
                let known = ClientFlags::FIXED_NEWSTYLE | ClientFlags::NO_ZEROES;
                if !known.contains(flags) {
                    return Err(Violation::ClientFlags(bits));
                }
                self.no_zeroes = flags.contains(ClientFlags::NO_ZEROES);
                self.due = Due::Option;
                Ok(Next::Go(self))
            }
            Due::Skip { left, option, refusal } => {
                let have = u32::try_from(input.len()).unwrap_or(u32::MAX).min(left);
                *input = input.get(have as usize..).unwrap_or_default();
                if have < left {
                    self.due = Due::Skip { left: left - have, option, refusal };
                    return Ok(Next::Stop(Step::Feed(self)));
                }
                self.due = Due::Option;
                refuse(out, option, &refusal);
                Ok(Next::Go(self))
            }
            Due::Option => self.take_option(input, out),
        }
    }

    fn take_option(mut self, input: &mut &[u8], out: &mut Vec<u8>) -> Result<Next, Violation> {
        let mut reader = Reader::new(input);
        let Ok(magic) = reader.u64() else { return Ok(Next::Stop(Step::Feed(self))) };
        if magic != OPTION_MAGIC {
            return Err(Violation::Magic { expected: Magic::Option, got: magic });
        }
        if input.len() < HEADER {
            return Ok(Next::Stop(Step::Feed(self)));
        }
        let option = OptionCode(reader.u32()?);
        let len = reader.u32()?;
        if len > MAX_SKIP {
            return Err(Violation::OptionTooLong { len, limit: MAX_SKIP });
        }
        if len > MAX_OPTION {
            if option == OptionCode::EXPORT_NAME {
                return Err(Violation::ExportNameRefused);
            }
            *input = reader.rest();
            let text = format!("an option of {len} bytes, over the limit of {MAX_OPTION}");
            let refusal = Refusal::new(ReplyCode::ERR_TOO_BIG, text);
            self.due = Due::Skip { left: len, option, refusal };
            return Ok(Next::Go(self));
        }
        let Ok(data) = reader.take(len as usize) else {
            return Ok(Next::Stop(Step::Feed(self)));
        };
        *input = reader.rest();
        self.answer_option(option, data, out)
    }

    fn answer_option(
        self,
        option: OptionCode,
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Next, Violation> {
        if option == OptionCode::ABORT {
            // "the server MUST ... reply with NBD_REP_ACK"; with data or without.
            reply(out, option, ReplyCode::ACK, &[]);
            return Ok(Next::Stop(Step::End(Ending::Aborted)));
        }
        if self.draining {
            if option != OptionCode::EXPORT_NAME {
                refuse(out, option, &Refusal::shutdown());
            }
            return Ok(Next::Stop(Step::End(Ending::ShutDown)));
        }
        if option == OptionCode::EXPORT_NAME {
            return match str::from_utf8(data) {
                Ok(name) if name.len() <= MAX_STRING && !name.contains('\0') => {
                    let name = name.to_owned();
                    Ok(self.ask(Purpose::ExportName, name, Vec::new(), false))
                }
                _ => Err(Violation::ExportNameRefused),
            };
        }
        Ok(match self.negotiable(option, data, out) {
            Ok(next) => next,
            Err((server, refusal)) => {
                refuse(out, option, &refusal);
                Next::Go(server)
            }
        })
    }

    /// Options that can be refused by a reply.
    fn negotiable(
        mut self,
        option: OptionCode,
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Next, (Self, Refusal)> {
        let known = match option {
            OptionCode::STRUCTURED_REPLY => self.offers.structured,
            OptionCode::EXTENDED_HEADERS => self.offers.structured && self.offers.extended,
            OptionCode::LIST_META_CONTEXT | OptionCode::SET_META_CONTEXT => self.offers.contexts,
            OptionCode::LIST | OptionCode::INFO | OptionCode::GO | OptionCode::STARTTLS => true,
            _ => false,
        };
        if !known {
            let text = format!("option {option} is not known here");
            return Err((self, Refusal::new(ReplyCode::ERR_UNSUP, text)));
        }
        match option {
            OptionCode::INFO | OptionCode::GO => match parse_go(data) {
                Ok((name, infos)) => {
                    let go = option == OptionCode::GO;
                    let purpose = if go { Purpose::Go } else { Purpose::Info };
                    Ok(self.ask(purpose, name, infos, false))
                }
                Err(refusal) => Err((self, refusal)),
            },
            OptionCode::LIST_META_CONTEXT | OptionCode::SET_META_CONTEXT => {
                let list = option == OptionCode::LIST_META_CONTEXT;
                if !list {
                    // "replaces any previously selected contexts", also when it fails.
                    self.selected = None;
                }
                if self.framing == Framing::Simple {
                    let text = "meta contexts need structured replies, which come first";
                    return Err((self, Refusal::new(ReplyCode::ERR_INVALID, text)));
                }
                match contexts::parse(data, list) {
                    Ok(queries) => {
                        let purpose =
                            if list { Purpose::ListContexts } else { Purpose::SetContexts };
                        Ok(self.ask(purpose, queries.export, Vec::new(), queries.allocation))
                    }
                    Err(refusal) => Err((self, refusal)),
                }
            }
            _ if !data.is_empty() => {
                let text = format!("option {option} has no data, {} bytes came", data.len());
                Err((self, Refusal::new(ReplyCode::ERR_INVALID, text)))
            }
            OptionCode::LIST => Ok(Next::Stop(Step::Ask(Ask::List(AskList(self))))),
            OptionCode::STRUCTURED_REPLY if self.framing == Framing::Extended => {
                // "NBD_OPT_EXTENDED_HEADERS": it includes structured replies.
                let text = "extended headers are in use, which are structured";
                Err((self, Refusal::new(ReplyCode::ERR_EXT_HEADER_REQD, text)))
            }
            OptionCode::STRUCTURED_REPLY => {
                self.framing = Framing::Structured;
                reply(out, option, ReplyCode::ACK, &[]);
                Ok(Next::Go(self))
            }
            OptionCode::EXTENDED_HEADERS => {
                self.framing = Framing::Extended;
                reply(out, option, ReplyCode::ACK, &[]);
                Ok(Next::Go(self))
            }
            // STARTTLS is what is left.
            _ => Err((self, Refusal::policy("this server has no TLS"))),
        }
    }

    fn ask(self, purpose: Purpose, name: String, infos: Vec<InfoType>, allocation: bool) -> Next {
        let ask = AskExport { server: self, purpose, name, infos, allocation };
        Next::Stop(Step::Ask(Ask::Export(ask)))
    }
}

/// The data of INFO or GO: a name, and what the client wants to know.
fn parse_go(data: &[u8]) -> Result<(String, Vec<InfoType>), Refusal> {
    let mut reader = Reader::new(data);
    let name = contexts::name(&mut reader)?;
    let count = reader.u16().map_err(invalid)?;
    let infos: Result<Vec<_>, _> = (0..count).map(|_| reader.u16().map(InfoType)).collect();
    let infos = infos.map_err(invalid)?;
    reader.finish().map_err(invalid)?;
    Ok((name, infos))
}

impl AskList {
    /// Names and descriptions, or a refusal.
    pub fn answer<'a>(
        self,
        answer: Result<impl IntoIterator<Item = (&'a str, Option<&'a str>)>, Refusal>,
        out: &mut Vec<u8>,
    ) -> Step {
        match answer {
            Ok(exports) => {
                for (name, description) in exports.into_iter().take(MAX_LISTED) {
                    let len = u32::try_from(name.len()).unwrap_or(u32::MAX);
                    let description = description.unwrap_or_default();
                    let data = [&len.to_be_bytes(), name.as_bytes(), description.as_bytes()];
                    reply(out, OptionCode::LIST, ReplyCode::SERVER, &data.concat());
                }
                reply(out, OptionCode::LIST, ReplyCode::ACK, &[]);
            }
            Err(refusal) => refuse(out, OptionCode::LIST, &refusal),
        }
        Step::Feed(self.0)
    }
}

impl AskExport {
    /// Which export.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What for. GO and EXPORT_NAME open it, the others only look.
    pub const fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// The export, or a refusal.
    pub fn answer(self, answer: Result<Export, Refusal>, out: &mut Vec<u8>) -> Step {
        let option = match self.purpose {
            Purpose::Info => OptionCode::INFO,
            Purpose::Go => OptionCode::GO,
            Purpose::ExportName => OptionCode::EXPORT_NAME,
            Purpose::ListContexts => OptionCode::LIST_META_CONTEXT,
            Purpose::SetContexts => OptionCode::SET_META_CONTEXT,
        };
        match answer {
            Ok(export) => self.accept(option, export, out),
            Err(_) if self.purpose == Purpose::ExportName => {
                Step::End(Ending::Violation(Violation::ExportNameRefused))
            }
            Err(refusal) => {
                refuse(out, option, &refusal);
                Step::Feed(self.server)
            }
        }
    }

    fn accept(mut self, option: OptionCode, mut export: Export, out: &mut Vec<u8>) -> Step {
        let structured = self.server.framing > Framing::Simple;
        export.flags |= TransmissionFlags::HAS_FLAGS;
        export.flags.set(TransmissionFlags::SEND_DF, structured);
        match self.purpose {
            Purpose::ListContexts | Purpose::SetContexts => {
                let set = self.purpose == Purpose::SetContexts;
                let allocation = self.allocation && export.allocation;
                if allocation {
                    let id = if set { ALLOCATION_ID } else { 0 };
                    let data = [&id.to_be_bytes(), BASE_ALLOCATION.as_bytes()].concat();
                    reply(out, option, ReplyCode::META_CONTEXT, &data);
                }
                reply(out, option, ReplyCode::ACK, &[]);
                if set {
                    self.server.selected = Some(Selected { export: self.name, allocation });
                }
                Step::Feed(self.server)
            }
            Purpose::Info => {
                self.infos(option, &export, out);
                Step::Feed(self.server)
            }
            Purpose::Go => {
                self.infos(option, &export, out);
                self.done(&export)
            }
            Purpose::ExportName => {
                out.extend_from_slice(&export.size.to_be_bytes());
                out.extend_from_slice(&export.flags.bits().to_be_bytes());
                if !self.server.no_zeroes {
                    out.extend_from_slice(&[0; 124]);
                }
                self.done(&export)
            }
        }
    }

    /// EXPORT and BLOCK_SIZE always; NAME and DESCRIPTION if asked for; then ACK.
    fn infos(&self, option: OptionCode, export: &Export, out: &mut Vec<u8>) {
        let mut info = |kind: InfoType, data: &[u8]| {
            let data = [&kind.0.to_be_bytes(), data].concat();
            reply(out, option, ReplyCode::INFO, &data);
        };
        let size = export.size.to_be_bytes();
        info(InfoType::EXPORT, &[&size[..], &export.flags.bits().to_be_bytes()].concat());
        let blocks = [export.blocks.minimum, export.blocks.preferred, export.blocks.maximum];
        info(InfoType::BLOCK_SIZE, &blocks.map(u32::to_be_bytes).concat());
        if self.infos.contains(&InfoType::NAME) {
            info(InfoType::NAME, export.name.as_deref().unwrap_or(&self.name).as_bytes());
        }
        if self.infos.contains(&InfoType::DESCRIPTION)
            && let Some(description) = &export.description
        {
            info(InfoType::DESCRIPTION, description.as_bytes());
        }
        reply(out, option, ReplyCode::ACK, &[]);
    }

    fn done(self, export: &Export) -> Step {
        // A selection counts only for the export that it was made for.
        let selected = self.server.selected.is_some_and(|s| s.allocation && s.export == self.name);
        Step::Done(Negotiated {
            terms: Terms {
                size: export.size,
                flags: export.flags,
                framing: self.server.framing,
                allocation: selected.then_some(ALLOCATION_ID),
                blocks: export.blocks,
            },
            export: self.name,
        })
    }
}

fn reply(out: &mut Vec<u8>, option: OptionCode, code: ReplyCode, data: &[u8]) {
    out.extend_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.0.to_be_bytes());
    out.extend_from_slice(&code.0.to_be_bytes());
    out.extend_from_slice(&u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(data);
}

fn refuse(out: &mut Vec<u8>, option: OptionCode, refusal: &Refusal) {
    // "a client ... SHOULD" show the text: no longer than a string may be.
    let text = refusal.text.get(..refusal.text.floor_char_boundary(MAX_STRING));
    reply(out, option, refusal.code, text.unwrap_or_default().as_bytes());
}
