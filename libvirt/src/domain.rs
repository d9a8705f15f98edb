//! A whole domain ("Domain XML format"), with a vsock device put into it. Every byte that is not the
//! device stays as it was: the text is read for where things are, and never printed again.

use std::ops::Range;

use roxmltree::{Document, Node};
use thiserror::Error;

use crate::{
    Cid, Vsock,
    xml::{BLANKS, Place, XmlError, named, parse, place, split_bom},
};

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
    /// Not XML that is read here.
    #[error(transparent)]
    Xml(#[from] XmlError),
    /// Something else than a domain.
    #[error("{0}: its element is <{1}>, and a domain's is <domain>, in no namespace")]
    NotADomain(Place, String),
    /// More than libvirt takes of what there is one of.
    #[error("{0}: it has more than one <{1}>")]
    Many(Place, &'static str),
    /// There is one, and it is another.
    #[error("{0}: it has a vsock device of its own, {1}")]
    Other(Place, String),
    /// Not a domain's vsock device.
    #[error("{0}: its vsock device has the CID {1:?}, which is no guest's")]
    Cid(Place, String),
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
            Some(there) => match (is(there, vsock), existing) {
                (Ok(true), _) => text.to_owned(),
                // A CID that libvirt would refuse is one to be changed.
                (Ok(false) | Err(EditError::Cid(..)), Existing::Change) => {
                    change(text, there, vsock)
                }
                (Ok(false), Existing::Keep) => {
                    return Err(EditError::Other(place(there), describe(there)?));
                }
                (Err(error), _) => return Err(error),
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

/// Whether the XML is a running domain's: libvirt numbers these.
pub fn runs(domain: &str) -> Result<bool, EditError> {
    Ok(root(&parse(split_bom(domain).1)?)?.has_attribute("id"))
}

fn root<'a, 'b>(document: &'a Document<'b>) -> Result<Node<'a, 'b>, EditError> {
    let root = document.root_element();
    if named(root, "domain") {
        return Ok(root);
    }
    Err(EditError::NotADomain(place(root), root.tag_name().name().to_owned()))
}

/// The one child of that name.
fn one<'a, 'b>(
    parent: Node<'a, 'b>,
    name: &'static str,
) -> Result<Option<Node<'a, 'b>>, EditError> {
    let mut found = parent.children().filter(|child| named(*child, name));
    match (found.next(), found.next()) {
        (first, None) => Ok(first),
        (_, Some(second)) => Err(EditError::Many(place(second), name)),
    }
}

fn read_cid(vsock: Node<'_, '_>) -> Result<Option<Cid>, EditError> {
    let Some(cid) = one(vsock, "cid")? else { return Ok(None) };
    match (cid.attribute("address"), cid.attribute("auto")) {
        (Some(address), _) => {
            let number = address.parse().ok().and_then(|number| Cid::fixed(number).ok());
            number.map(Some).ok_or_else(|| EditError::Cid(place(cid), address.to_owned()))
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
    let before = text[..at].trim_end_matches([' ', '\t']);
    (before.is_empty() || before.ends_with('\n')).then(|| &text[before.len()..at])
}

/// Puts what `make` makes (of an indentation and a line end) behind all that is in `parent`. All that is
/// there stays, also the blanks.
fn insert_last(text: &str, parent: Node<'_, '_>, make: impl Fn(&str, &str) -> String) -> String {
    let Range { start, end } = parent.range();
    let whole = &text[start..end];
    let outer = indentation(text, start).unwrap_or_default();
    let mut others = parent.children().filter(Node::is_element).peekable();
    let alone = others.peek().is_none();
    let (newline, indent) =
        match others.filter_map(|other| indentation(text, other.range().start)).next_back() {
            Some(indent) => (newline(text), indent.to_owned()),
            None if alone => (newline(text), format!("{outer}  ")),
            // All in one line.
            None => ("", String::new()),
        };
    let new = format!("{newline}{indent}{}", make(&indent, newline));
    // No tag but a closed one ends so, and its parts have no '<' in them.
    if let Some(open) = whole.strip_suffix("/>") {
        let open = open.trim_end_matches(BLANKS);
        let name = parent.tag_name().name();
        return put(text, start..end, &format!("{open}>{new}{newline}{outer}</{name}>"));
    }
    let close = whole.rfind("</").unwrap_or(whole.len());
    let at = start + whole[..close].trim_end_matches(BLANKS).len();
    // The closing tag has a line of its own, or gets one.
    let own_line = newline.is_empty() || text[at..start + close].contains('\n');
    let end = if own_line { String::new() } else { format!("{newline}{outer}") };
    put(text, at..at, &format!("{new}{end}"))
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
