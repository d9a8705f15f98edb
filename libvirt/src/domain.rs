//! Adds a vsock device to the text of a whole domain ("Domain XML format").
//!
//! The parser only finds the byte ranges of elements. The edit replaces these ranges in the text, so every
//! byte outside the device stays as it was.

use std::ops::Range;

use roxmltree::{Document, Node};
use thiserror::Error;
use vsock_cid::GuestCid;

use crate::{
    CidChoice, Model, Vsock,
    xml::{BLANKS, Place, XmlError, named, parse, place, split_bom},
};

/// What to do when the domain already has another vsock device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Keep it, and return [`EditError::Other`].
    Keep,
    /// Change its CID and its model to those that are given. The rest of the element stays.
    Change,
}

/// Why a text was not edited.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EditError {
    /// The text is not XML that this crate accepts.
    #[error(transparent)]
    Xml(#[from] XmlError),
    /// The document is not a domain: its root element has another name.
    #[error("{0}: its element is <{1}>, and a domain's is <domain>, in no namespace")]
    NotADomain(Place, String),
    /// libvirt allows one such element, and there are more.
    #[error("{0}: it has more than one <{1}>")]
    Many(Place, &'static str),
    /// The domain has another vsock device, and [`Existing::Keep`] was given.
    #[error("{0}: it has a vsock device of its own, {1}")]
    Other(Place, String),
    /// The vsock device has a CID that no guest can have.
    #[error("{0}: its vsock device has the CID {1:?}, which is no guest's")]
    Cid(Place, String),
}

/// Returns the text of `domain` with the device `vsock`. Editing the result again returns it unchanged.
///
/// # Errors
/// [`EditError`], if `domain` is not the XML of a domain, or if it has another vsock device that `existing`
/// says to keep.
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
            Some(there) => match (read(there), existing) {
                (Ok(device), _) if is(&device, vsock) => text.to_owned(),
                // libvirt would refuse this CID. Replace it if a CID was given.
                (Err(EditError::Cid(..)), Existing::Change) if vsock.cid.is_some() => {
                    change(text, there, vsock)
                }
                (Ok(_), Existing::Change) => change(text, there, vsock),
                (Ok(device), Existing::Keep) => {
                    return Err(EditError::Other(place(there), describe(&device)));
                }
                (Err(error), _) => return Err(error),
            },
        },
    };
    Ok(format!("{bom}{edited}"))
}

/// The vsock device of a domain, as the XML has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The attribute `model`, also if libvirt has no such model; [`Model::Virtio`]'s name if there is none.
    pub model: String,
    /// Whether libvirt chooses the CID at each start.
    pub auto: bool,
    /// The CID. In the XML of a running domain this is the CID in use, also if libvirt chose it.
    pub cid: Option<GuestCid>,
}

/// Returns the vsock device of a domain, or `None` if it has none.
///
/// # Errors
/// [`EditError`], if `domain` is not the XML of a domain, has more than one vsock device, or has a CID that no
/// guest can have.
pub fn device(domain: &str) -> Result<Option<Device>, EditError> {
    let document = parse(split_bom(domain).1)?;
    let Some(devices) = one(root(&document)?, "devices")? else { return Ok(None) };
    one(devices, "vsock")?.map(read).transpose()
}

/// Whether the XML is that of a running domain: libvirt gives it an `id`.
///
/// # Errors
/// [`EditError`], if `domain` is not the XML of a domain.
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

/// The child of that name, if there is one. More than one is an error.
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

fn read(vsock: Node<'_, '_>) -> Result<Device, EditError> {
    let (mut auto, mut number) = (false, None);
    if let Some(cid) = one(vsock, "cid")? {
        auto = cid.attribute("auto") == Some("yes");
        number = cid.attribute("address").map(|address| address_of(cid, address)).transpose()?;
    }
    Ok(Device { model: model(vsock).to_owned(), auto, cid: number })
}

fn address_of(cid: Node<'_, '_>, address: &str) -> Result<GuestCid, EditError> {
    address.parse().map_err(|_| EditError::Cid(place(cid), address.to_owned()))
}

fn model<'a>(vsock: Node<'a, '_>) -> &'a str {
    vsock.attribute("model").unwrap_or(Model::Virtio.name())
}

/// Whether the device `there` has the model and the CID that are wanted, where these are given. Other parts do
/// not count: libvirt adds an address, an alias, and the CID that it chose for `auto`.
fn is(there: &Device, wanted: Vsock) -> bool {
    wanted.model.is_none_or(|model| model.name() == there.model)
        && wanted.cid.is_none_or(|cid| match cid {
            CidChoice::Auto => there.auto,
            CidChoice::Fixed(number) => !there.auto && there.cid == Some(number),
        })
}

fn describe(there: &Device) -> String {
    let model = &there.model;
    match (there.auto, there.cid) {
        (false, None) => format!("{model}, without a CID"),
        (false, Some(cid)) => format!("{model}, CID {cid}"),
        (true, None) => format!("{model}, any CID"),
        (true, Some(cid)) => format!("{model}, any CID (now {cid})"),
    }
}

/// The element of the device, over several lines unless `newline` is empty.
fn element(vsock: Vsock, indent: &str, newline: &str) -> String {
    let model = vsock.model.unwrap_or(Model::Virtio).name();
    let (cid, deeper) = (vsock.cid.unwrap_or(CidChoice::Auto), deeper(indent, newline));
    format!("<vsock model='{model}'>{newline}{deeper}{cid}{newline}{indent}</vsock>")
}

/// The next level of indentation; empty where the elements are all on one line.
fn deeper(indent: &str, newline: &str) -> String {
    if newline.is_empty() { String::new() } else { format!("{indent}  ") }
}

fn newline(text: &str) -> &'static str {
    if text.contains("\r\n") { "\r\n" } else { "\n" }
}

/// The blanks before `at` in its line, if the line has nothing else before `at`.
fn indentation(text: &str, at: usize) -> Option<&str> {
    let before = text[..at].trim_end_matches([' ', '\t']);
    (before.is_empty() || before.ends_with('\n')).then(|| &text[before.len()..at])
}

/// Inserts an element as the last child of `parent`. `make` gets the indentation and the line end, and returns
/// the element. Everything in `parent` stays, also its blanks.
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
            // The children are on one line.
            None => ("", String::new()),
        };
    let new = format!("{newline}{indent}{}", make(&indent, newline));
    // Only a self-closing tag ends like this, and a tag has no '<' inside.
    if let Some(open) = whole.strip_suffix("/>") {
        let open = open.trim_end_matches(BLANKS);
        let name = parent.tag_name().name();
        return put(text, start..end, &format!("{open}>{new}{newline}{outer}</{name}>"));
    }
    let close = whole.rfind("</").unwrap_or(whole.len());
    let at = start + whole[..close].trim_end_matches(BLANKS).len();
    // The closing tag keeps its own line, or gets one.
    let own_line = newline.is_empty() || text[at..start + close].contains('\n');
    let end = if own_line { String::new() } else { format!("{newline}{outer}") };
    put(text, at..at, &format!("{new}{end}"))
}

/// Sets the CID and the model of the device. A device without a CID gets one, since libvirt refuses it
/// otherwise.
fn change(text: &str, there: Node<'_, '_>, vsock: Vsock) -> String {
    let cid = there.children().find(|child| named(*child, "cid"));
    let text = match (cid, vsock.cid) {
        (Some(cid), Some(wanted)) => put(text, cid.range(), &wanted.to_string()),
        (Some(_), None) => text.to_owned(),
        (None, wanted) => {
            insert_last(text, there, |_, _| wanted.unwrap_or(CidChoice::Auto).to_string())
        }
    };
    // The model comes before the CID in the text, so its place has not moved.
    let Some(wanted) = vsock.model else { return text };
    if let Some(model) = there.attribute_node("model") {
        put(&text, model.range_value(), wanted.name())
    } else {
        let at = there.range().start + "<vsock".len();
        put(&text, at..at, &format!(" model='{}'", wanted.name()))
    }
}

fn put(text: &str, place: Range<usize>, new: &str) -> String {
    format!("{}{new}{}", &text[..place.start], &text[place.end..])
}

#[cfg(test)]
mod tests;
