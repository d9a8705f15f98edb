//! Limits on the attributes and namespaces of a text, checked before the text is parsed: the parser accepts any
//! number of them, and its time grows with the square or the cube of the number.
//!
//! The scan follows the parser's rules for comments, CDATA sections, processing instructions and start tags.
//! Where a text breaks these rules the parser stops, so the scan's result for the rest does not matter.

use std::collections::HashSet;

use super::{BLANKS, Place, XmlError};

/// Most attributes of one element. The parser compares each with each.
pub(super) const ATTRIBUTES: usize = 256;
/// Most prefixes of a text, the empty one included, and most bytes of a namespace's name. The parser compares the
/// attributes of each element by their namespaces.
pub(super) const NAMESPACES: usize = 256;
/// Most declarations, each multiplied by the square of the number of prefixes. For an element with a declaration
/// the parser compares every prefix in scope with every other one.
const COMPARISONS: usize = NAMESPACES * NAMESPACES * NAMESPACES;

/// Refuses a text that would take the parser too much time.
pub(super) fn check(text: &str) -> Result<(), XmlError> {
    let mut prefixes = HashSet::new();
    let mut declarations: usize = 0;
    let mut at = 0;
    while let Some(open) = text[at..].find('<') {
        let start = at + open;
        let rest = &text[start..];
        let skipped = [("<!--", "-->"), ("<![CDATA[", "]]>"), ("<?", "?>")]
            .into_iter()
            .find_map(|(open, close)| Some((open.len(), rest.strip_prefix(open)?.find(close))));
        if let Some((open, length)) = skipped {
            // Without its end mark the parser reads to the end of the text and finds no element.
            let Some(length) = length else { return Ok(()) };
            at = start + open + length;
            continue;
        }
        at = start + 1;
        if rest.starts_with("</") || rest.starts_with("<!") {
            continue;
        }
        let mut count = 0;
        for attribute in Attributes::of(&rest[1..]) {
            count += 1;
            if count > ATTRIBUTES {
                return Err(XmlError::Attributes(Place::of(text, start)));
            }
            let Some(prefix) = attribute.declares() else { continue };
            let place = || Place::of(text, start);
            if attribute.value.len() > NAMESPACES {
                return Err(XmlError::NamespaceName(place()));
            }
            // "Namespaces in XML" forbids this, and libxml2 and roxmltree treat it differently.
            if attribute.value.is_empty() && !prefix.is_empty() {
                return Err(XmlError::Unbound(place(), prefix.to_owned()));
            }
            prefixes.insert(prefix);
            declarations += 1;
            let square = prefixes.len().saturating_mul(prefixes.len());
            if prefixes.len() > NAMESPACES || declarations.saturating_mul(square) > COMPARISONS {
                return Err(XmlError::Namespaces(place()));
            }
        }
    }
    Ok(())
}

/// An attribute `name='value'` of a start tag.
struct Attribute<'a> {
    name: &'a str,
    value: &'a str,
}

impl<'a> Attribute<'a> {
    /// The prefix that the attribute declares, if it is a declaration; the empty prefix for `xmlns`.
    fn declares(&self) -> Option<&'a str> {
        let rest = self.name.strip_prefix("xmlns")?;
        if rest.is_empty() { Some("") } else { rest.strip_prefix(':') }
    }
}

/// The attributes of a start tag, given without its `<`.
struct Attributes<'a>(&'a str);

impl<'a> Attributes<'a> {
    fn of(tag: &'a str) -> Self {
        Self(tag)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        // A value contains no '<', and outside of values '>' ends the tag.
        let (before, rest) = self.0.split_at(self.0.find(['"', '\'', '>', '<'])?);
        let quote = rest.chars().next().filter(|found| matches!(found, '"' | '\''))?;
        let (value, after) = rest[1..].split_once(quote)?;
        self.0 = after;
        let name = before.trim_end_matches(BLANKS);
        let name = name.strip_suffix('=').unwrap_or(name).trim_end_matches(BLANKS);
        let name = name.rsplit(BLANKS).next().unwrap_or_default();
        Some(Attribute { name, value })
    }
}
