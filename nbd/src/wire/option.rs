//! The client's messages of the negotiation: headers of options and their data ("Option types").

use super::{InfoType, Magic, OPTION_MAGIC, OptionCode, Reader, Truncated};
use crate::Violation;

/// The header of an option; `len` bytes of data follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionHeader {
    /// The type of the option.
    pub option: OptionCode,
    /// The length of the data, in bytes.
    pub len: u32,
}

impl OptionHeader {
    /// The length on the wire, in bytes.
    pub const LEN: usize = 16;

    /// Appends the header.
    pub fn put(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
        out.extend_from_slice(&self.option.0.to_be_bytes());
        out.extend_from_slice(&self.len.to_be_bytes());
    }

    /// Parses a header at the front of `bytes`; `None` if it is not complete.
    ///
    /// # Errors
    /// A wrong magic.
    pub fn peek(bytes: &[u8]) -> Result<Option<Self>, Violation> {
        let mut reader = Reader::new(bytes);
        let Ok(magic) = reader.u64() else { return Ok(None) };
        if magic != OPTION_MAGIC {
            return Err(Violation::Magic { expected: Magic::Option, got: magic });
        }
        let (Ok(option), Ok(len)) = (reader.u32(), reader.u32()) else { return Ok(None) };
        Ok(Some(Self { option: OptionCode(option), len }))
    }
}

/// Appends an option with the data that `body` appends. The length is wrong for data of 4 GiB or more, which
/// this crate never makes.
pub fn put_option(option: OptionCode, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    OptionHeader { option, len: 0 }.put(out);
    let start = out.len();
    body(out);
    let len = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    if let Some(place) = start.checked_sub(4).and_then(|at| out.get_mut(at..start)) {
        place.copy_from_slice(&len.to_be_bytes());
    }
}

/// Appends a string after its 32-bit length. The length is wrong for a string of 4 GiB or more, which this crate
/// never makes.
pub fn put_counted_string(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// The data of NBD_OPT_INFO and NBD_OPT_GO.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InfoQuery<'a> {
    /// The export.
    pub name: &'a str,
    /// The types of information that the client asks for, as sent: with repetitions and unknown types.
    pub wanted: Vec<InfoType>,
}

impl<'a> InfoQuery<'a> {
    /// Parses the complete data of an option. Allocates at most a small multiple of the length of `bytes`.
    ///
    /// # Errors
    /// The data is too short or too long for its fields, or has a string that the protocol does not allow.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Truncated> {
        let mut reader = Reader::new(bytes);
        let name = reader.counted_string()?;
        let count = reader.u16()?;
        let mut list = Reader::new(reader.take(2 * usize::from(count))?);
        reader.finish()?;
        let mut wanted = Vec::with_capacity(count.into());
        for _ in 0..count {
            wanted.push(InfoType(list.u16()?));
        }
        Ok(Self { name, wanted })
    }

    /// Appends the data. Only the first 65,535 types are sent.
    pub fn put(&self, out: &mut Vec<u8>) {
        put_counted_string(self.name, out);
        let count = u16::try_from(self.wanted.len()).unwrap_or(u16::MAX);
        out.extend_from_slice(&count.to_be_bytes());
        for kind in self.wanted.iter().take(count.into()) {
            out.extend_from_slice(&kind.0.to_be_bytes());
        }
    }
}

/// The data of NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextQuery<'a> {
    /// The export.
    pub name: &'a str,
    /// Each is `NAMESPACE:LEAF` or a prefix, in the client's order.
    pub queries: Vec<&'a str>,
}

impl<'a> ContextQuery<'a> {
    /// Parses the complete data of an option. Allocates at most a small multiple of the length of `bytes`.
    ///
    /// # Errors
    /// The data is too short or too long for its fields, or has a string that the protocol does not allow.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Truncated> {
        let mut reader = Reader::new(bytes);
        let name = reader.counted_string()?;
        let count = usize::try_from(reader.u32()?).unwrap_or(usize::MAX);
        // Each query takes at least the 4 bytes of its length. Check that before memory is allocated.
        let least = count.saturating_mul(4);
        if least > reader.rest().len() {
            return Err(Truncated::Short { need: least, have: reader.rest().len() });
        }
        let mut queries = Vec::with_capacity(count);
        for _ in 0..count {
            queries.push(reader.counted_string()?);
        }
        reader.finish()?;
        Ok(Self { name, queries })
    }

    /// Appends the data.
    pub fn put(&self, out: &mut Vec<u8>) {
        put_counted_string(self.name, out);
        let count = u32::try_from(self.queries.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&count.to_be_bytes());
        for query in &self.queries {
            put_counted_string(query, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn written_messages_parse_to_the_same_values(
            option: u32, name in "[^\0]{0,40}", wanted in vec(any::<u16>(), 0..9),
            queries in vec("[^\0]{0,20}", 0..9),
        ) {
            let mut bytes = Vec::new();
            let query = InfoQuery { name: &name, wanted: wanted.into_iter().map(InfoType).collect() };
            put_option(OptionCode(option), &mut bytes, |out| query.put(out));
            let (head, data) = bytes.split_at(OptionHeader::LEN);
            let header = OptionHeader::peek(head).unwrap().unwrap();
            prop_assert_eq!(header.option, OptionCode(option));
            prop_assert_eq!(header.len as usize, data.len());
            prop_assert_eq!(OptionHeader::peek(&head[..15]), Ok(None));
            prop_assert_eq!(InfoQuery::parse(data), Ok(query));
            for cut in 0..data.len() {
                prop_assert!(InfoQuery::parse(&data[..cut]).is_err());
            }

            let query = ContextQuery { name: &name, queries: queries.iter().map(|q| &**q).collect() };
            bytes.clear();
            query.put(&mut bytes);
            prop_assert_eq!(ContextQuery::parse(&bytes), Ok(query));
            for cut in 0..bytes.len() {
                prop_assert!(ContextQuery::parse(&bytes[..cut]).is_err());
            }
        }

        #[test]
        fn bytes_that_parse_are_written_back_unchanged(bytes in vec(any::<u8>(), 0..64)) {
            let mut again = Vec::new();
            if let Ok(query) = InfoQuery::parse(&bytes) {
                query.put(&mut again);
                prop_assert_eq!(&again, &bytes);
            }
            again.clear();
            if let Ok(query) = ContextQuery::parse(&bytes) {
                query.put(&mut again);
                prop_assert_eq!(&again, &bytes);
            }
        }
    }

    #[test]
    fn a_count_of_4_gi_queries_takes_no_memory() {
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(&u32::MAX.to_be_bytes());
        assert!(ContextQuery::parse(&bytes).is_err());
    }
}
