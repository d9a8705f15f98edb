//! The `<vsock/>` element of a libvirt domain: adds it to the text of a domain, changes it, and reads it.
//!
//! The crate takes text and returns text. It opens no file and connects to no libvirt. The text may come from
//! a stranger: its length, elements, attributes and namespaces are bounded, and nothing in it can cause a panic.
//!
//! ```
//! use libvirt::{CidChoice, Existing, Vsock, edit};
//!
//! let domain = "<domain>\n  <devices>\n  </devices>\n</domain>";
//! let vsock = Vsock { cid: Some(CidChoice::Fixed("7".parse()?)), model: None };
//! let edited = edit(domain, vsock, Existing::Keep)?;
//! assert!(edited.contains("<cid auto='no' address='7'/>"));
//! assert_eq!(edit(&edited, vsock, Existing::Keep)?, edited);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod domain;
mod vsock;
mod xml;

pub use domain::{Device, EditError, Existing, device, edit, runs};
pub use vsock::{CidChoice, Model, Vsock};
pub use xml::{Place, XmlError, text};
