//! What `-v` shows of the protocol: each message of the negotiation, in the specification's words, and each request. It
//! parses the messages a second time and changes nothing. Without `-v` it does nothing.

use std::{borrow::Cow, fmt::Write};

use agent_contexts::{FencingToken, INSTEAD};
use nbd::wire::{
    ClientFlags, ContextEntry, ContextQuery, ExportReply, Greeting, Info, InfoQuery, OptionCode,
    OptionHeader, OptionReplyHeader, ReplyCode, Request, ServerEntry,
};

use crate::text::quoted;

/// The log of one negotiation.
#[derive(Debug)]
pub(super) struct Negotiation {
    connection: u64,
    watched: bool,
    /// The client's flags have been logged.
    begun: bool,
    /// Bytes of an option's data to skip: the option is longer than the longest that is accepted.
    skip: usize,
    /// The last option was NBD_OPT_EXPORT_NAME, which is answered without a header.
    bare: bool,
}

impl Negotiation {
    pub(super) fn new(connection: u64) -> Self {
        let watched = tracing::enabled!(tracing::Level::DEBUG);
        Self { connection, watched, begun: false, skip: 0, bare: false }
    }

    /// Logs bytes that the state machine has consumed.
    pub(super) fn client(&mut self, mut eaten: &[u8]) {
        if !self.watched {
            return;
        }
        if !self.begun
            && let Some(flags) = ClientFlags::peek(eaten)
        {
            self.begun = true;
            eaten = &eaten[ClientFlags::LEN..];
            self.say(format_args!("client: flags {flags}"));
        }
        while !eaten.is_empty() {
            let unread = self.skip.min(eaten.len());
            self.skip -= unread;
            eaten = &eaten[unread..];
            let Ok(Some(header)) = OptionHeader::peek(eaten) else { return };
            let data = &eaten[OptionHeader::LEN..];
            let len = usize::try_from(header.len).unwrap_or(usize::MAX);
            let here = data.len().min(len);
            self.skip = len - here;
            self.bare = header.option == OptionCode::EXPORT_NAME;
            self.say(format_args!("client: {}", option(header, &data[..here])));
            eaten = &data[here..];
        }
    }

    /// Logs bytes that are sent next. They are whole messages.
    pub(super) fn server(&self, mut sent: &[u8]) {
        if !self.watched {
            return;
        }
        if let Ok(Some(greeting)) = Greeting::peek(sent) {
            self.say(format_args!("server: newstyle greeting, flags {}", greeting.flags));
            sent = &sent[Greeting::LEN..];
        }
        while let Ok(Some(header)) = OptionReplyHeader::peek(sent) {
            let data = &sent[OptionReplyHeader::LEN..];
            let here = data.len().min(usize::try_from(header.len).unwrap_or(usize::MAX));
            self.say(format_args!("server: {}", reply(header, &data[..here])));
            sent = &data[here..];
        }
        if self.bare
            && let Some(ExportReply { size, flags }) = ExportReply::peek(sent, false)
        {
            self.say(format_args!("server: size {size}, flags {flags}"));
        }
    }

    fn say(&self, what: std::fmt::Arguments<'_>) {
        tracing::debug!(connection = self.connection, "{what}");
    }
}

/// Logs a request that was received.
#[inline]
pub(super) fn request(connection: u64, request: &Request) {
    tracing::debug!(
        connection,
        cookie = request.cookie,
        offset = request.offset,
        length = request.len,
        flags = %request.flags,
        "client: {}", request.command
    );
}

fn option(header: OptionHeader, data: &[u8]) -> String {
    let OptionHeader { option, len } = header;
    let mut text = option.to_string();
    let whole = match option {
        _ if data.len() < len as usize => Err(()),
        OptionCode::EXPORT_NAME => {
            write!(text, " {}", quoted(&String::from_utf8_lossy(data))).map_err(drop)
        }
        OptionCode::INFO | OptionCode::GO => {
            InfoQuery::parse(data).map_err(drop).and_then(|query| {
                let wanted: Vec<_> = query.wanted.iter().map(ToString::to_string).collect();
                let name = quoted(query.name);
                write!(text, " {name} [{}]", wanted.join(", ")).map_err(drop)
            })
        }
        OptionCode::LIST_META_CONTEXT | OptionCode::SET_META_CONTEXT => {
            ContextQuery::parse(data).map_err(drop).and_then(|query| {
                let queries = query.queries.iter().map(|query| quoted(&shown(query)).to_string());
                let queries: Vec<_> = queries.collect();
                let name = quoted(query.name);
                write!(text, " {name} [{}]", queries.join(", ")).map_err(drop)
            })
        }
        _ if len == 0 => Ok(()),
        _ => Err(()),
    };
    if whole.is_err() {
        write!(text, ", {len} bytes").ok();
    }
    text
}

/// A context's name without the client's token, which is a secret even in a malformed query.
fn shown(name: &str) -> Cow<'_, str> {
    match FencingToken::parse(name) {
        Some(fencing) => format!("{INSTEAD}*.{}", fencing.generation).into(),
        None if name.starts_with(INSTEAD) => format!("{INSTEAD}*").into(),
        None => name.into(),
    }
}

fn reply(header: OptionReplyHeader, data: &[u8]) -> String {
    let OptionReplyHeader { option, code, len } = header;
    let mut text = format!("{option}: {code}");
    let parsed = match code {
        ReplyCode::SERVER => ServerEntry::parse(data)
            .map(|entry| write!(text, " {} {}", quoted(entry.name), quoted(entry.description))),
        ReplyCode::INFO => Info::parse(data).map(|info| match info {
            Info::Export { size, flags } => {
                write!(text, " NBD_INFO_EXPORT size {size}, flags {flags}")
            }
            Info::Name(name) => write!(text, " NBD_INFO_NAME {}", quoted(name)),
            Info::Description(about) => write!(text, " NBD_INFO_DESCRIPTION {}", quoted(about)),
            Info::BlockSize(nbd::BlockSizes { minimum, preferred, maximum }) => write!(
                text,
                " NBD_INFO_BLOCK_SIZE minimum {minimum}, preferred {preferred}, maximum {maximum}"
            ),
            Info::Other(other) => write!(text, " {other}"),
        }),
        ReplyCode::META_CONTEXT => ContextEntry::parse(data)
            .map(|entry| write!(text, " {} {}", entry.id, quoted(&shown(entry.name)))),
        code if code.is_error() && !data.is_empty() => {
            Ok(write!(text, " {}", quoted(&String::from_utf8_lossy(data))))
        }
        _ => Ok(Ok(())),
    };
    if !matches!(parsed, Ok(Ok(()))) {
        write!(text, ", {len} bytes").ok();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_not_shown() {
        let fencing = FencingToken { token: 0xabc, generation: 7 };
        assert_eq!(shown(&fencing.to_string()), "x-agent:instead=*.7");
        assert_eq!(shown("x-agent:instead=ABC.7"), "x-agent:instead=*");
        assert_eq!(shown("base:allocation"), "base:allocation");
    }
}
