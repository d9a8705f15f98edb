//! A whole domain ("Domain XML format"), with a vsock device put into it. Every byte that is not the
//! device stays as it was: the text is read for where things are, and never printed again.

use std::ops::Range;

use roxmltree::{Document, Node, ParsingOptions};
use thiserror::Error;

use crate::{Cid, Vsock};

/// Longest domain, in bytes. libvirt's own are some thousand.
const LONGEST: usize = 4 << 20;
/// Most elements, attributes and texts in it.
const NODES: u32 = 200_000;
/// What a UTF-8 text may begin with.
const BOM: &str = "\u{feff}";

/// What becomes of a vsock device that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It stays as it is, and another one is an error.
    Keep,
    /// Its model and its CID become the ones that are wanted; all else in it stays.
    Change,
}

/// Why a text is not edited.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EditError {
    /// Too long to be a domain.
    #[error("{0} bytes of XML, and a domain has at most {LONGEST}")]
    TooLong(usize),
    /// Another encoding than the one that is read here.
    #[error("it declares the encoding {0}; write it in UTF-8")]
    Encoding(String),
    /// Not well-formed, a document type, or too much of it. Says where.
    #[error("it is not XML that is taken here")]
    Xml(#[from] roxmltree::Error),
    /// Something else than a domain.
    #[error("its element is <{0}>, and a domain's is <domain>")]
    NotADomain(String),
    /// More than libvirt takes of what there is one of.
    #[error("it has more than one <{0}>")]
    Many(&'static str),
    /// There is one, and it is another.
    #[error("it has a vsock device of its own, {0}; --replace changes it")]
    Other(String),
    /// Not a domain's vsock device.
    #[error("its vsock device has the CID '{0}', which is none")]
    Cid(String),
}

/// Puts `vsock` into `domain`. To do it again changes nothing.
pub fn edit(domain: &str, vsock: Vsock, existing: Existing) -> Result<String, EditError> {
    let (bom, text) = split_bom(domain);
    let document = parse(text)?;
    let root = root(&document)?;
    let edited = match one(root, "devices")? {
        None => insert_last(text, root, |indent, newline| {
            let deeper = deeper(indent, newline);
            let device = element(vsock, &deeper, newline);
            format!("<devices>{newline}{deeper}{device}{newline}{indent}</devices>")
        }),
        Some(devices) => match one(devices, "vsock")? {
            None => insert_last(text, devices, |indent, newline| element(vsock, indent, newline)),
            Some(there) => match existing {
                _ if is(there, vsock)? => text.to_owned(),
                Existing::Keep => return Err(EditError::Other(describe(there)?)),
                Existing::Change => change(text, there, vsock),
            },
        },
    };
    Ok(format!("{bom}{edited}"))
}

/// The CID of a domain's vsock device, as its XML has it: that of a running domain has the number that
/// it really got.
pub fn cid(domain: &str) -> Result<Option<Cid>, EditError> {
    let document = parse(split_bom(domain).1)?;
    let Some(devices) = one(root(&document)?, "devices")? else { return Ok(None) };
    let Some(vsock) = one(devices, "vsock")? else { return Ok(None) };
    read_cid(vsock)
}

fn split_bom(text: &str) -> (&str, &str) {
    text.strip_prefix(BOM).map_or(("", text), |rest| (BOM, rest))
}

fn parse(text: &str) -> Result<Document<'_>, EditError> {
    if text.len() > LONGEST {
        return Err(EditError::TooLong(text.len()));
    }
    if let Some(declared) = declared_encoding(text)
        && !declared.eq_ignore_ascii_case("utf-8")
        && !declared.eq_ignore_ascii_case("us-ascii")
    {
        return Err(EditError::Encoding(declared.to_owned()));
    }
    // Entities come from document types only: without these there are none.
    let options =
        ParsingOptions { allow_dtd: false, nodes_limit: NODES, ..ParsingOptions::default() };
    Ok(Document::parse_with_options(text, options)?)
}

/// What stands in `<?xml ... encoding="..."?>`.
fn declared_encoding(text: &str) -> Option<&str> {
    let declaration = text.strip_prefix("<?xml")?.split_once("?>")?.0;
    let value = declaration.split_once("encoding")?.1.trim_start().strip_prefix('=')?.trim_start();
    let quote = value.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
    value.get(1..)?.split_once(quote).map(|(value, _)| value)
}

fn root<'a, 'b>(document: &'a Document<'b>) -> Result<Node<'a, 'b>, EditError> {
    let root = document.root_element();
    if named(root, "domain") {
        return Ok(root);
    }
    Err(EditError::NotADomain(root.tag_name().name().to_owned()))
}

/// An element of libvirt's own, which are in no namespace.
fn named(node: Node<'_, '_>, name: &str) -> bool {
    let tag = node.tag_name();
    node.is_element() && tag.namespace().is_none() && tag.name() == name
}

/// The one child of that name.
fn one<'a, 'b>(
    parent: Node<'a, 'b>,
    name: &'static str,
) -> Result<Option<Node<'a, 'b>>, EditError> {
    let mut found = parent.children().filter(|child| named(*child, name));
    match (found.next(), found.next()) {
        (first, None) => Ok(first),
        _ => Err(EditError::Many(name)),
    }
}

fn read_cid(vsock: Node<'_, '_>) -> Result<Option<Cid>, EditError> {
    let Some(cid) = one(vsock, "cid")? else { return Ok(None) };
    match (cid.attribute("address"), cid.attribute("auto")) {
        (Some(address), _) => {
            let number = address.parse().ok().and_then(|number| Cid::fixed(number).ok());
            number.map(Some).ok_or_else(|| EditError::Cid(address.to_owned()))
        }
        (None, Some("yes")) => Ok(Some(Cid::Auto)),
        (None, _) => Ok(None),
    }
}

/// libvirt adds to what it is given (an address, an alias, the CID that `auto` came to).
fn is(there: Node<'_, '_>, wanted: Vsock) -> Result<bool, EditError> {
    let model = there.attribute("model").unwrap_or("virtio") == "virtio";
    let auto = match one(there, "cid")? {
        Some(cid) => cid.attribute("auto") == Some("yes"),
        None => false,
    };
    Ok(model
        && match wanted.cid {
            Cid::Auto => auto,
            fixed @ Cid::Fixed(_) => !auto && read_cid(there)? == Some(fixed),
        })
}

fn describe(there: Node<'_, '_>) -> Result<String, EditError> {
    let model = there.attribute("model").unwrap_or("virtio");
    Ok(match read_cid(there)? {
        Some(Cid::Fixed(cid)) => format!("{model}, CID {cid}"),
        Some(Cid::Auto) => format!("{model}, any CID"),
        None => format!("{model}, without a CID"),
    })
}

/// The device in lines of its own.
fn element(vsock: Vsock, indent: &str, newline: &str) -> String {
    let (inner, deeper) = (cid_element(vsock.cid), deeper(indent, newline));
    format!("<vsock model='virtio'>{newline}{deeper}{inner}{newline}{indent}</vsock>")
}

/// One step further in; where all stands in one line there is none.
fn deeper(indent: &str, newline: &str) -> String {
    if newline.is_empty() { String::new() } else { format!("{indent}  ") }
}

fn cid_element(cid: Cid) -> String {
    match cid {
        Cid::Auto => "<cid auto='yes'/>".to_owned(),
        Cid::Fixed(cid) => format!("<cid auto='no' address='{cid}'/>"),
    }
}

fn newline(text: &str) -> &'static str {
    if text.contains("\r\n") { "\r\n" } else { "\n" }
}

/// The blanks before `at` in its line, if there is nothing else.
fn indentation(text: &str, at: usize) -> Option<&str> {
    let line = text[..at].rsplit('\n').next()?;
    line.chars().all(|c| matches!(c, ' ' | '\t')).then_some(line)
}

/// Puts what `make` makes (of an indentation and a line end) behind the last element in `parent`.
fn insert_last(text: &str, parent: Node<'_, '_>, make: impl Fn(&str, &str) -> String) -> String {
    let newline = newline(text);
    let Range { start, end } = parent.range();
    let outer = indentation(text, start).unwrap_or_default();
    if let Some(last) = parent.children().rfind(Node::is_element) {
        let range = last.range();
        let Some(indent) = indentation(text, range.start) else {
            return put(text, range.end..range.end, &make("", ""));
        };
        let new = format!("{newline}{indent}{}", make(indent, newline));
        return put(text, range.end..range.end, &new);
    }
    let indent = format!("{outer}  ");
    let inside = format!("{newline}{indent}{}{newline}{outer}", make(&indent, newline));
    let whole = &text[start..end];
    // An element has a closing tag, or ends in a slash: nothing else of it can end in these.
    match whole.strip_suffix("/>") {
        Some(open) if parent.children().next().is_none() => {
            let name = parent.tag_name().name();
            put(text, start..end, &format!("{}>{inside}</{name}>", open.trim_end()))
        }
        _ => {
            let close = start + whole.rfind("</").unwrap_or(whole.len());
            // The blanks before the closing tag are the ones that a device would end with.
            let at = text[..close].trim_end_matches([' ', '\t', '\r', '\n']).len();
            put(text, at..close, &inside)
        }
    }
}

/// Gives the device its model and its CID.
fn change(text: &str, there: Node<'_, '_>, vsock: Vsock) -> String {
    let cid = there.children().find(|child| named(*child, "cid"));
    let text = match cid {
        Some(cid) => put(text, cid.range(), &cid_element(vsock.cid)),
        None => insert_last(text, there, |_, _| cid_element(vsock.cid)),
    };
    // The model stands before the CID: where that was has not changed.
    match there.attribute_node("model") {
        Some(model) => put(&text, model.range_value(), "virtio"),
        None => text,
    }
}

fn put(text: &str, place: Range<usize>, new: &str) -> String {
    format!("{}{new}{}", &text[..place.start], &text[place.end..])
}

#[cfg(test)]
mod tests;
