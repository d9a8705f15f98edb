//! The questions of a client that only the server's caller can answer: which exports there are, and how one
//! of them is described. An answer gives the machine back.

use super::{
    Export, LIST_BYTES, LIST_LIMIT, Negotiated,
    context::{Selection, list, select},
    server::{Ending, Server, Step},
};
use crate::{
    AgreedContext, Framing, Refusal, Terms,
    wire::{
        ContextEntry, ContextQuery, ExportReply, Info, InfoType, MAX_STRING, OptionCode, ReplyCode,
        ServerEntry, TransmissionFlags, fit, put_option_reply,
    },
};

/// A question that the caller has to answer before the negotiation continues.
#[derive(Debug)]
#[must_use = "an answer gives the machine back"]
pub enum Ask {
    /// The names of all exports.
    List(AskList),
    /// The description of one export.
    Export(AskExport),
}

/// The client asks for the names of the exports (NBD_OPT_LIST).
#[derive(Debug)]
#[must_use = "an answer gives the machine back"]
pub struct AskList {
    pub(super) server: Server,
}

impl AskList {
    /// Answers with names and descriptions, or refuses. A name that the protocol cannot carry is left out. A
    /// list longer than [`LIST_LIMIT`] or [`LIST_BYTES`] ends in ERR_TOO_BIG.
    pub fn answer<'a>(
        self,
        exports: Result<impl IntoIterator<Item = (&'a str, Option<&'a str>)>, Refusal>,
        out: &mut Vec<u8>,
    ) -> Step {
        let exports = match exports {
            Ok(exports) => exports,
            Err(refusal) => return self.refuse(&refusal, out),
        };
        let start = out.len();
        let named = exports.into_iter().filter(|(name, _)| fit(name).len() == name.len());
        for (index, (name, description)) in named.enumerate() {
            if index == LIST_LIMIT || out.len() - start > LIST_BYTES {
                let text = "more exports than one list carries; ask for them by name";
                return self.refuse(&Refusal::too_big(text), out);
            }
            put_option_reply(OptionCode::LIST, ReplyCode::SERVER, out, |out| {
                ServerEntry { name, description: fit(description.unwrap_or_default()) }.put(out);
            });
        }
        put_option_reply(OptionCode::LIST, ReplyCode::ACK, out, |_| ());
        Step::Feed(self.server)
    }

    /// Refuses.
    pub fn refuse(self, refusal: &Refusal, out: &mut Vec<u8>) -> Step {
        refusal.put(OptionCode::LIST, out);
        Step::Feed(self.server)
    }
}

/// The client's purpose in asking for an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// To get its description (NBD_OPT_INFO).
    Info,
    /// To use it (NBD_OPT_GO).
    Go,
    /// To use it, where a refusal closes the connection (NBD_OPT_EXPORT_NAME).
    ExportName,
    /// To list its metadata contexts (NBD_OPT_LIST_META_CONTEXT).
    ListContexts,
    /// To select metadata contexts of it (NBD_OPT_SET_META_CONTEXT).
    SetContexts,
}

impl Purpose {
    const fn option(self) -> OptionCode {
        match self {
            Self::Info => OptionCode::INFO,
            Self::Go => OptionCode::GO,
            Self::ExportName => OptionCode::EXPORT_NAME,
            Self::ListContexts => OptionCode::LIST_META_CONTEXT,
            Self::SetContexts => OptionCode::SET_META_CONTEXT,
        }
    }
}

/// The parts of the description that only some clients ask for.
#[derive(Debug)]
pub(super) enum Wanted {
    /// NBD_OPT_INFO, NBD_OPT_GO: these texts.
    Infos { name: bool, description: bool },
    /// NBD_OPT_LIST_META_CONTEXT, NBD_OPT_SET_META_CONTEXT: the option's data, which is a
    /// `ContextQuery`. Kept as bytes, so that many short queries take no more memory than they had on the wire.
    Contexts(Vec<u8>),
}

/// The client asks for one export.
#[derive(Debug)]
#[must_use = "an answer gives the machine back"]
pub struct AskExport {
    pub(super) server: Server,
    pub(super) purpose: Purpose,
    pub(super) name: String,
    pub(super) wanted: Wanted,
}

impl AskExport {
    /// The export's name as the client sent it; empty for the default export.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The client's purpose.
    pub const fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// The queries of NBD_OPT_LIST_META_CONTEXT or NBD_OPT_SET_META_CONTEXT, in the client's order;
    /// nothing for the other purposes. A server that registers a [`Context::fact`](super::Context::fact)
    /// which depends on the query reads it here.
    pub fn queries(&self) -> Vec<&str> {
        match &self.wanted {
            Wanted::Contexts(data) => {
                // `Server::option` has parsed it before.
                ContextQuery::parse(data).map(|query| query.queries).unwrap_or_default()
            }
            Wanted::Infos { .. } => Vec::new(),
        }
    }

    /// Answers with the export's description, or refuses. The result is `Done` if the purpose was to use the
    /// export and it was granted, `End` if it was refused and only closing can tell the client so, else
    /// `Feed`.
    pub fn answer(self, export: Result<Export, Refusal>, out: &mut Vec<u8>) -> Step {
        match export {
            Ok(export) => self.grant(&export, out),
            Err(refusal) => self.refuse(refusal, out),
        }
    }

    fn refuse(self, refusal: Refusal, out: &mut Vec<u8>) -> Step {
        if self.purpose == Purpose::ExportName {
            return Step::End(Ending::Refused(refusal));
        }
        refusal.put(self.purpose.option(), out);
        Step::Feed(self.server)
    }

    fn grant(mut self, export: &Export, out: &mut Vec<u8>) -> Step {
        let option = self.purpose.option();
        match self.purpose {
            Purpose::Info => self.put_infos(export, out),
            Purpose::Go => {
                self.put_infos(export, out);
                return Step::Done(self.settle(export));
            }
            Purpose::ExportName => {
                let (size, flags) = (export.size, self.flags(export));
                ExportReply { size, flags }.put(self.server.sends_zeroes(), out);
                return Step::Done(self.settle(export));
            }
            Purpose::ListContexts => {
                for name in list(&export.contexts, &self.queries()) {
                    put_context(option, ContextEntry { id: 0, name }, out);
                }
                put_option_reply(option, ReplyCode::ACK, out, |_| ());
            }
            Purpose::SetContexts => {
                let contexts = select(&export.contexts, &self.queries());
                for AgreedContext { id, name } in &contexts {
                    put_context(option, ContextEntry { id: *id, name }, out);
                }
                put_option_reply(option, ReplyCode::ACK, out, |_| ());
                self.server.selection = Selection::new(self.name, contexts);
            }
        }
        Step::Feed(self.server)
    }

    /// Tells EXPORT and BLOCK_SIZE to every client: the first is required, and the second may differ from
    /// what a client assumes. Tells NAME and DESCRIPTION only to a client that asked.
    fn put_infos(&self, export: &Export, out: &mut Vec<u8>) {
        let option = self.purpose.option();
        let mut put = |info: Info<'_>| {
            put_option_reply(option, ReplyCode::INFO, out, |out| info.put(out));
        };
        put(Info::Export { size: export.size, flags: self.flags(export) });
        put(Info::BlockSize(export.blocks));
        if let Wanted::Infos { name: true, .. } = self.wanted {
            let name = export.name.as_deref().filter(|name| name.len() <= MAX_STRING);
            put(Info::Name(name.map_or(&*self.name, fit)));
        }
        if let Wanted::Infos { description: true, .. } = self.wanted
            && let Some(description) = &export.description
        {
            put(Info::Description(fit(description)));
        }
        put_option_reply(option, ReplyCode::ACK, out, |_| ());
    }

    /// HAS_FLAGS is always set, SEND_DF exactly when replies can be fragmented ("Transmission flags").
    fn flags(&self, export: &Export) -> TransmissionFlags {
        let framing = self.server.framing;
        let mut flags = export.flags | TransmissionFlags::HAS_FLAGS;
        flags.set(TransmissionFlags::SEND_DF, framing >= Framing::Structured);
        if framing < Framing::Extended {
            flags.remove(TransmissionFlags::BLOCK_STATUS_PAYLOAD);
        }
        if !flags.contains(TransmissionFlags::SEND_WRITE_ZEROES) {
            flags.remove(TransmissionFlags::SEND_FAST_ZERO);
        }
        flags
    }

    fn settle(self, export: &Export) -> Negotiated {
        let flags = self.flags(export);
        let Self { server, purpose, name, .. } = self;
        let contexts = server.selection.take_for(&name, &export.contexts);
        let terms = Terms {
            size: export.size,
            flags,
            framing: server.framing,
            contexts,
            blocks: export.blocks,
            unit: export.unit,
        };
        Negotiated { terms, export_name: name, purpose }
    }
}

impl Wanted {
    /// NBD_OPT_EXPORT_NAME has no place for more.
    pub(super) const NOTHING: Self = Self::Infos { name: false, description: false };

    /// A kind that the client names twice is told once; one without a name is ignored.
    pub(super) fn from_infos(infos: &[InfoType]) -> Self {
        Self::Infos {
            name: infos.contains(&InfoType::NAME),
            description: infos.contains(&InfoType::DESCRIPTION),
        }
    }
}

fn put_context(option: OptionCode, entry: ContextEntry<'_>, out: &mut Vec<u8>) {
    put_option_reply(option, ReplyCode::META_CONTEXT, out, |out| entry.put(out));
}
