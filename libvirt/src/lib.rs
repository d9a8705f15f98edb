//! What libvirt needs to give a domain a vsock device: the element, put into a domain's XML, and read out
//! of it. Text in, text out; it talks to nobody.

mod domain;
mod vsock;
mod xml;

pub use domain::{Device, EditError, Existing, device, edit, runs};
pub use vsock::{Cid, Model, NotAGuest, Vsock};
pub use xml::{Place, XmlError, text};
