//! The server's messages of the negotiation: headers of replies and their data ("Option reply types").

use super::{
    InfoType, MAX_STRING, Magic, OPTION_REPLY_MAGIC, OptionCode, Reader, ReplyCode,
    TransmissionFlags, Truncated, put_counted_string,
};
use crate::{BlockSizes, Violation};

/// The header of an option reply; `len` bytes of data follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionReplyHeader {
    /// The option that is answered.
    pub option: OptionCode,
    /// The type of the reply.
    pub code: ReplyCode,
    /// The length of the data, in bytes.
    pub len: u32,
}

impl OptionReplyHeader {
    /// The length on the wire, in bytes.
    pub const LEN: usize = 20;

    /// Appends the header.
    pub fn put(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
        out.extend_from_slice(&self.option.0.to_be_bytes());
        out.extend_from_slice(&self.code.0.to_be_bytes());
        out.extend_from_slice(&self.len.to_be_bytes());
    }

    /// Parses a header at the front of `bytes`; `None` if it is not complete.
    ///
    /// # Errors
    /// A wrong magic.
    pub fn peek(bytes: &[u8]) -> Result<Option<Self>, Violation> {
        let mut reader = Reader::new(bytes);
        let Ok(magic) = reader.u64() else { return Ok(None) };
        if magic != OPTION_REPLY_MAGIC {
            return Err(Violation::Magic { expected: Magic::OptionReply, got: magic });
        }
        let (Ok(option), Ok(code), Ok(len)) = (reader.u32(), reader.u32(), reader.u32()) else {
            return Ok(None);
        };
        Ok(Some(Self { option: OptionCode(option), code: ReplyCode(code), len }))
    }
}

/// Appends a reply with the data that `body` appends. The length is wrong for data of 4 GiB or more, which this
/// crate never makes.
pub fn put_option_reply(
    option: OptionCode,
    code: ReplyCode,
    out: &mut Vec<u8>,
    body: impl FnOnce(&mut Vec<u8>),
) {
    OptionReplyHeader { option, code, len: 0 }.put(out);
    let start = out.len();
    body(out);
    let len = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    if let Some(place) = start.checked_sub(4).and_then(|at| out.get_mut(at..start)) {
        place.copy_from_slice(&len.to_be_bytes());
    }
}

/// The longest prefix of `text` that is a string of the protocol: at most 4096 bytes, without NUL ("Values").
pub fn fit(text: &str) -> &str {
    let text = text.split('\0').next().unwrap_or_default();
    text.get(..text.floor_char_boundary(MAX_STRING)).unwrap_or_default()
}

/// Whether a character can be printed without side effects. Control characters move a terminal's cursor. Others
/// reverse text, end lines or are invisible, and so change what a reader sees.
pub fn is_plain(c: char) -> bool {
    let hides = matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}');
    !c.is_control() && !hides
}

/// Makes a text of the other end printable. Invalid UTF-8 becomes U+FFFD, a character that is not plain becomes a
/// space, and both ends are trimmed.
pub fn printable(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let text = text.trim_matches(|c: char| c.is_whitespace() || !is_plain(c));
    text.chars().map(|c| if is_plain(c) { c } else { ' ' }).collect()
}

/// The data of NBD_REP_SERVER.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerEntry<'a> {
    /// The export's name.
    pub name: &'a str,
    /// The description for people; empty if there is none.
    pub description: &'a str,
}

impl<'a> ServerEntry<'a> {
    /// Parses the complete data of a reply.
    ///
    /// # Errors
    /// The data is too short or too long for its fields, or has a string that the protocol does not allow.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Truncated> {
        let mut reader = Reader::new(bytes);
        let name = reader.counted_string()?;
        let description = reader.string(reader.rest().len())?;
        Ok(Self { name, description })
    }

    /// Appends the data.
    pub fn put(&self, out: &mut Vec<u8>) {
        put_counted_string(self.name, out);
        out.extend_from_slice(self.description.as_bytes());
    }
}

/// The data of NBD_REP_INFO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Info<'a> {
    /// NBD_INFO_EXPORT.
    Export {
        /// The size of the export, in bytes.
        size: u64,
        /// What it can do.
        flags: TransmissionFlags,
    },
    /// NBD_INFO_NAME.
    Name(&'a str),
    /// NBD_INFO_DESCRIPTION.
    Description(&'a str),
    /// NBD_INFO_BLOCK_SIZE, not checked.
    BlockSize(BlockSizes),
    /// An unknown type, which the client ignores.
    Other(InfoType),
}

impl<'a> Info<'a> {
    /// Parses the complete data of a reply.
    ///
    /// # Errors
    /// The data is too short or too long for its fields, or has a string that the protocol does not allow.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Truncated> {
        let mut reader = Reader::new(bytes);
        let info = match InfoType(reader.u16()?) {
            InfoType::EXPORT => {
                let size = reader.u64()?;
                let flags = TransmissionFlags::from_bits_retain(reader.u16()?);
                Self::Export { size, flags }
            }
            InfoType::NAME => Self::Name(reader.string(reader.rest().len())?),
            InfoType::DESCRIPTION => Self::Description(reader.string(reader.rest().len())?),
            InfoType::BLOCK_SIZE => Self::BlockSize(BlockSizes {
                minimum: reader.u32()?,
                preferred: reader.u32()?,
                maximum: reader.u32()?,
            }),
            other => return Ok(Self::Other(other)),
        };
        reader.finish()?;
        Ok(info)
    }

    /// Appends the data.
    pub fn put(&self, out: &mut Vec<u8>) {
        let mut kind = |kind: InfoType| out.extend_from_slice(&kind.0.to_be_bytes());
        match *self {
            Self::Export { size, flags } => {
                kind(InfoType::EXPORT);
                out.extend_from_slice(&size.to_be_bytes());
                out.extend_from_slice(&flags.bits().to_be_bytes());
            }
            Self::Name(name) => {
                kind(InfoType::NAME);
                out.extend_from_slice(name.as_bytes());
            }
            Self::Description(text) => {
                kind(InfoType::DESCRIPTION);
                out.extend_from_slice(text.as_bytes());
            }
            Self::BlockSize(blocks) => {
                kind(InfoType::BLOCK_SIZE);
                for bytes in [blocks.minimum, blocks.preferred, blocks.maximum] {
                    out.extend_from_slice(&bytes.to_be_bytes());
                }
            }
            Self::Other(other) => kind(other),
        }
    }
}

/// The data of NBD_REP_META_CONTEXT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContextEntry<'a> {
    /// The id that the extents will have; 0 in a list.
    pub id: u32,
    /// The full name, `NAMESPACE:LEAF`.
    pub name: &'a str,
}

impl<'a> ContextEntry<'a> {
    /// Parses the complete data of a reply.
    ///
    /// # Errors
    /// The data is too short or too long for its fields, or has a string that the protocol does not allow.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Truncated> {
        let mut reader = Reader::new(bytes);
        Ok(Self { id: reader.u32()?, name: reader.string(reader.rest().len())? })
    }

    /// Appends the data.
    pub fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id.to_be_bytes());
        out.extend_from_slice(self.name.as_bytes());
    }
}

/// The answer to NBD_OPT_EXPORT_NAME. 124 zeroes follow unless NO_ZEROES was agreed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExportReply {
    /// The size of the export, in bytes.
    pub size: u64,
    /// What it can do.
    pub flags: TransmissionFlags,
}

impl ExportReply {
    /// The length without the zeroes, in bytes.
    pub const LEN: usize = 10;
    /// The number of reserved zeroes.
    pub const ZEROES: usize = 124;

    /// The length on the wire, in bytes.
    pub const fn wire_len(zeroes: bool) -> usize {
        if zeroes { Self::LEN + Self::ZEROES } else { Self::LEN }
    }

    /// Appends the answer.
    pub fn put(self, zeroes: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.size.to_be_bytes());
        out.extend_from_slice(&self.flags.bits().to_be_bytes());
        if zeroes {
            out.extend_from_slice(&[0; Self::ZEROES]);
        }
    }

    /// Parses an answer at the front of `bytes`; `None` if it is not complete.
    pub fn peek(bytes: &[u8], zeroes: bool) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        if bytes.len() < Self::wire_len(zeroes) {
            return None;
        }
        let size = reader.u64().ok()?;
        let flags = TransmissionFlags::from_bits_retain(reader.u16().ok()?);
        Some(Self { size, flags })
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn written_messages_parse_to_the_same_values(
            option: u32, code: u32, size: u64, flags: u16, id: u32, blocks: (u32, u32, u32),
            other in 4..=u16::MAX, name in "[^\0]{0,40}", text in "[^\0]{0,40}", zeroes: bool,
        ) {
            let flags = TransmissionFlags::from_bits_retain(flags);
            let mut bytes = Vec::new();
            let entry = ServerEntry { name: &name, description: &text };
            put_option_reply(OptionCode(option), ReplyCode(code), &mut bytes, |out| entry.put(out));
            let (head, data) = bytes.split_at(OptionReplyHeader::LEN);
            let header = OptionReplyHeader::peek(head).unwrap().unwrap();
            prop_assert_eq!((header.option.0, header.code.0), (option, code));
            prop_assert_eq!(header.len as usize, data.len());
            prop_assert_eq!(OptionReplyHeader::peek(&head[..19]), Ok(None));
            prop_assert_eq!(ServerEntry::parse(data), Ok(entry));

            let (minimum, preferred, maximum) = blocks;
            for info in [
                Info::Export { size, flags },
                Info::Name(&name),
                Info::Description(&text),
                Info::BlockSize(BlockSizes { minimum, preferred, maximum }),
                Info::Other(InfoType(other)),
            ] {
                let mut bytes = Vec::new();
                info.put(&mut bytes);
                prop_assert_eq!(Info::parse(&bytes), Ok(info));
            }

            let context = ContextEntry { id, name: &name };
            let mut bytes = Vec::new();
            context.put(&mut bytes);
            prop_assert_eq!(ContextEntry::parse(&bytes), Ok(context));

            let reply = ExportReply { size, flags };
            let mut bytes = Vec::new();
            reply.put(zeroes, &mut bytes);
            prop_assert_eq!(bytes.len(), ExportReply::wire_len(zeroes));
            prop_assert_eq!(ExportReply::peek(&bytes[..bytes.len() - 1], zeroes), None);
            prop_assert_eq!(ExportReply::peek(&bytes, zeroes), Some(reply));
        }

        #[test]
        fn bytes_that_parse_are_written_back_unchanged(bytes in vec(any::<u8>(), 0..64)) {
            let mut again = Vec::new();
            if let Ok(entry) = ServerEntry::parse(&bytes) {
                entry.put(&mut again);
                prop_assert_eq!(&again, &bytes);
            }
            again.clear();
            match Info::parse(&bytes) {
                Ok(Info::Other(_)) | Err(_) => {}
                Ok(info) => {
                    info.put(&mut again);
                    prop_assert_eq!(&again, &bytes);
                }
            }
            again.clear();
            if let Ok(context) = ContextEntry::parse(&bytes) {
                context.put(&mut again);
                prop_assert_eq!(&again, &bytes);
            }
        }
    }

    #[test]
    fn a_text_of_the_other_end_cannot_move_the_cursor() {
        assert_eq!(printable(b" a\x1b[2Jb\r\n\xff\0"), "a [2Jb  \u{fffd}");
        let turned = "\u{feff}a\u{202e}b\u{2028}c\u{9b}d\u{e9}";
        assert_eq!(printable(turned.as_bytes()), "a b c d\u{e9}");
    }

    #[test]
    fn a_text_is_cut_at_a_character_and_before_a_nul() {
        assert_eq!(fit("a\0b"), "a");
        let long = "\u{e9}".repeat(3000);
        assert_eq!(fit(&long).len(), 4096);
        let odd = format!("x{long}");
        assert_eq!(fit(&odd).len(), 4095);
    }
}
