//! Parses XML within limits, since the text may come from a stranger. `domain` uses the places of the elements.

mod limits;

use std::fmt;

use roxmltree::{Document, Node, ParsingOptions};
use thiserror::Error;

use self::limits::{ATTRIBUTES, NAMESPACES};

/// Longest text, in bytes. A domain of libvirt has some thousand bytes.
pub(crate) const LONGEST: usize = 4 << 20;
/// Most elements and texts.
const NODES: u32 = 200_000;
/// The byte order mark that a UTF-8 text may begin with.
const BOM: &str = "\u{feff}";
/// libxml2's names of the encodings whose texts are UTF-8.
const READ: [&str; 4] = ["utf-8", "utf8", "us-ascii", "ascii"];
/// XML's blanks.
pub(crate) const BLANKS: [char; 4] = [' ', '\t', '\r', '\n'];

/// A place in a text, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in characters.
    pub column: usize,
}

impl Place {
    /// The place of the byte `at`, which begins a character or is the end of the text.
    pub(crate) fn of(text: &str, at: usize) -> Self {
        let before = text.get(..at).unwrap_or(text);
        let line = before.rsplit('\n').next().unwrap_or_default();
        Self { line: before.matches('\n').count() + 1, column: line.chars().count() + 1 }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// Why a text was refused.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum XmlError {
    /// The text is too long for a domain.
    #[error("{0} bytes of XML, and a domain has at most {LONGEST}")]
    TooLong(usize),
    /// The text is not UTF-8.
    #[error("{0}: not UTF-8, in which a domain is read here; convert it with iconv(1)")]
    NotUtf8(Place),
    /// The XML declaration names another encoding.
    #[error("line 1: it declares the encoding {0}; write it in UTF-8")]
    Encoding(String),
    /// The text has a `<!DOCTYPE`.
    #[error("{0}: a document type, which is not read here, nor are entities; take it out")]
    DocumentType(Place),
    /// One element has too many attributes, which only a hostile text has.
    #[error("{0}: more than {ATTRIBUTES} attributes in one element")]
    Attributes(Place),
    /// The text declares too many namespaces.
    #[error("{0}: more than {NAMESPACES} namespaces, or too many declarations of them")]
    Namespaces(Place),
    /// The name of a namespace is too long.
    #[error("{0}: a namespace's name is longer than {NAMESPACES} bytes")]
    NamespaceName(Place),
    /// A declaration binds a prefix to no namespace: `xmlns:PREFIX=''`.
    #[error("{0}: the prefix {1:?} is bound to no namespace; take its declaration out")]
    Unbound(Place, String),
    /// The text has too many nodes.
    #[error("more than {NODES} elements and texts")]
    Nodes,
    /// The text ends within its root element, or before it.
    #[error("{0}: the XML ends before its element does")]
    Ends(Place),
    /// The text is not well-formed. The source says where.
    #[error("it is not well-formed XML")]
    Malformed(#[source] roxmltree::Error),
}

/// The bytes of a file as text.
///
/// # Errors
/// [`XmlError::NotUtf8`], with the place of the first byte that is not UTF-8.
pub fn text(bytes: Vec<u8>) -> Result<String, XmlError> {
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let before = String::from_utf8_lossy(&error.as_bytes()[..valid]);
        XmlError::NotUtf8(Place::of(&before, valid))
    })
}

/// The byte order mark of a text, or nothing, and the rest of the text.
pub(crate) fn split_bom(text: &str) -> (&str, &str) {
    text.strip_prefix(BOM).map_or(("", text), |rest| (BOM, rest))
}

/// Parses a text within the limits.
pub(crate) fn parse(text: &str) -> Result<Document<'_>, XmlError> {
    if text.len() > LONGEST {
        return Err(XmlError::TooLong(text.len()));
    }
    if let Some(declared) = declared_encoding(text)
        && !READ.iter().any(|name| declared.eq_ignore_ascii_case(name))
    {
        return Err(XmlError::Encoding(declared.to_owned()));
    }
    limits::check(text)?;
    // Entities are declared in document types, so without these there are none.
    let options =
        ParsingOptions { allow_dtd: false, nodes_limit: NODES, ..ParsingOptions::default() };
    Document::parse_with_options(text, options).map_err(|error| match error {
        roxmltree::Error::DtdDetected => XmlError::DocumentType(Place::of(text, prolog_end(text))),
        roxmltree::Error::NodesLimitReached => XmlError::Nodes,
        roxmltree::Error::NoRootNode
        | roxmltree::Error::UnclosedRootNode
        | roxmltree::Error::UnexpectedEndOfStream => XmlError::Ends(Place::of(text, text.len())),
        error => XmlError::Malformed(error),
    })
}

/// The encoding that `<?xml ... encoding="..."?>` declares.
fn declared_encoding(text: &str) -> Option<&str> {
    let declaration = text.strip_prefix("<?xml")?.split_once("?>")?.0;
    // Another processing instruction may begin with the same letters: `<?xml-stylesheet`.
    declaration.starts_with(BLANKS).then_some(())?;
    let value = declaration.split_once("encoding")?.1.trim_start().strip_prefix('=')?.trim_start();
    let quote = value.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
    value.get(1..)?.split_once(quote).map(|(value, _)| value)
}

/// Where the declaration, the processing instructions and the comments at the start end.
fn prolog_end(text: &str) -> usize {
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches(BLANKS);
        let end = match rest {
            _ if rest.starts_with("<?") => "?>",
            _ if rest.starts_with("<!--") => "-->",
            _ => return text.len() - rest.len(),
        };
        rest = rest.split_once(end).map_or("", |(_, rest)| rest);
    }
}

/// Whether a node is libvirt's element of that name. libvirt's elements are in no namespace, and an element under
/// `xmlns=''` is in none either.
pub(crate) fn named(node: Node<'_, '_>, name: &str) -> bool {
    let tag = node.tag_name();
    node.is_element() && tag.namespace().is_none_or(str::is_empty) && tag.name() == name
}

/// The place where a node begins.
pub(crate) fn place(node: Node<'_, '_>) -> Place {
    Place::of(node.document().input_text(), node.range().start)
}

#[cfg(test)]
mod tests;
