//! XML in a text, and its limits: what comes in is a stranger's. The text is read for where things are;
//! `domain` asks.

mod crowd;

use std::fmt;

use roxmltree::{Document, Node, ParsingOptions};
use thiserror::Error;

use self::crowd::{ATTRIBUTES, NAMESPACES};

/// Longest text, in bytes. libvirt's own domains are some thousand.
pub(crate) const LONGEST: usize = 4 << 20;
/// Most elements and texts.
const NODES: u32 = 200_000;
/// What a UTF-8 text may begin with.
const BOM: &str = "\u{feff}";
/// Names of encodings whose texts are UTF-8, as libxml2 knows them.
const READ: [&str; 4] = ["utf-8", "utf8", "us-ascii", "ascii"];
/// XML's blanks.
pub(crate) const BLANKS: [char; 4] = [' ', '\t', '\r', '\n'];

/// A place in a text, as people count: from 1, and columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub line: usize,
    pub column: usize,
}

impl Place {
    /// That of a byte, which begins a character or is the end.
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

/// Why a text is not read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum XmlError {
    /// Too long to be a domain.
    #[error("{0} bytes of XML, and a domain has at most {LONGEST}")]
    TooLong(usize),
    /// Other bytes than UTF-8's.
    #[error("{0}: not UTF-8, in which a domain is read here; convert it with iconv(1)")]
    NotUtf8(Place),
    /// It says itself that it is in another encoding.
    #[error("line 1: it declares the encoding {0}; write it in UTF-8")]
    Encoding(String),
    /// `<!DOCTYPE`.
    #[error("{0}: a document type, which is not read here, nor are entities; take it out")]
    DocumentType(Place),
    /// Only something huge or hostile has so many.
    #[error("{0}: more than {ATTRIBUTES} attributes in one element")]
    Attributes(Place),
    /// As above.
    #[error("{0}: more than {NAMESPACES} namespaces, or too many declarations of them")]
    Namespaces(Place),
    /// As above.
    #[error("{0}: a namespace's name is longer than {NAMESPACES} bytes")]
    NamespaceName(Place),
    /// `xmlns:PREFIX=''`.
    #[error("{0}: the prefix {1:?} is bound to no namespace; take its declaration out")]
    Unbound(Place, String),
    /// As above.
    #[error("more than {NODES} elements and texts")]
    Nodes,
    /// The text is over, and its element is not.
    #[error("{0}: the XML ends before its element does")]
    Ends(Place),
    /// Not well-formed. The cause says where.
    #[error("it is not well-formed XML")]
    Malformed(#[source] roxmltree::Error),
}

/// The text of what was read.
pub fn text(bytes: Vec<u8>) -> Result<String, XmlError> {
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let before = String::from_utf8_lossy(&error.as_bytes()[..valid]);
        XmlError::NotUtf8(Place::of(&before, valid))
    })
}

/// The mark that a text begins with, and the text.
pub(crate) fn split_bom(text: &str) -> (&str, &str) {
    text.strip_prefix(BOM).map_or(("", text), |rest| (BOM, rest))
}

pub(crate) fn parse(text: &str) -> Result<Document<'_>, XmlError> {
    if text.len() > LONGEST {
        return Err(XmlError::TooLong(text.len()));
    }
    if let Some(declared) = declared_encoding(text)
        && !READ.iter().any(|name| declared.eq_ignore_ascii_case(name))
    {
        return Err(XmlError::Encoding(declared.to_owned()));
    }
    crowd::check(text)?;
    // Entities come from document types only: without these there are none.
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

/// What stands in `<?xml ... encoding="..."?>`.
fn declared_encoding(text: &str) -> Option<&str> {
    let declaration = text.strip_prefix("<?xml")?.split_once("?>")?.0;
    // Not another instruction whose name begins so.
    declaration.starts_with(BLANKS).then_some(())?;
    let value = declaration.split_once("encoding")?.1.trim_start().strip_prefix('=')?.trim_start();
    let quote = value.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
    value.get(1..)?.split_once(quote).map(|(value, _)| value)
}

/// Where something else begins than declarations, instructions and comments.
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

/// An element of libvirt's own, which are in no namespace: `xmlns=''` takes an element out of every one.
pub(crate) fn named(node: Node<'_, '_>, name: &str) -> bool {
    let tag = node.tag_name();
    node.is_element() && tag.namespace().is_none_or(str::is_empty) && tag.name() == name
}

/// Where a node begins.
pub(crate) fn place(node: Node<'_, '_>) -> Place {
    Place::of(node.document().input_text(), node.range().start)
}

#[cfg(test)]
mod tests;
