//! The `<vsock/>` element of a domain ("Vsock" in libvirt's domain XML format).

use std::{fmt, num::NonZeroU32};

use thiserror::Error;

/// A CID that cannot be a guest's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("CID {0} cannot be a guest's: 0 to 2 and 4294967295 have meanings of their own, vsock(7)")]
pub struct NotAGuest(pub u32);

/// How the domain gets its CID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cid {
    /// libvirt hands out the lowest free number at start. That is an address, not an identity:
    /// the next domain may get the same.
    Auto,
    /// This number: 3 to 2^32 - 2.
    Fixed(NonZeroU32),
}

impl Cid {
    /// A fixed CID, if it can be a guest's.
    pub fn fixed(cid: u32) -> Result<Self, NotAGuest> {
        match NonZeroU32::new(cid) {
            Some(number) if (3..u32::MAX).contains(&cid) => Ok(Self::Fixed(number)),
            _ => Err(NotAGuest(cid)),
        }
    }
}

/// The element `<cid/>`.
impl fmt::Display for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("<cid auto='yes'/>"),
            Self::Fixed(cid) => write!(f, "<cid auto='no' address='{cid}'/>"),
        }
    }
}

/// The device's virtio, as libvirt names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model {
    /// Of a machine's own kind.
    Virtio,
    /// For guests with a driver of virtio 0.9 too.
    Transitional,
    /// For guests with a driver of virtio 1.0 alone.
    NonTransitional,
}

impl Model {
    /// Each that libvirt has.
    pub const ALL: [Self; 3] = [Self::Virtio, Self::Transitional, Self::NonTransitional];

    /// libvirt's word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Virtio => "virtio",
            Self::Transitional => "virtio-transitional",
            Self::NonTransitional => "virtio-non-transitional",
        }
    }

    /// That of this word.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|model| model.name() == name)
    }
}

/// The element that is wanted; printed as libvirt prints it. What is `None` is nobody's wish: a new
/// device gets the first model and [`Cid::Auto`], one that is there keeps what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vsock {
    /// How the domain gets its CID.
    pub cid: Option<Cid>,
    /// What the device is.
    pub model: Option<Model>,
}

impl fmt::Display for Vsock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let model = self.model.unwrap_or(Model::Virtio).name();
        write!(f, "<vsock model='{model}'>{}</vsock>", self.cid.unwrap_or(Cid::Auto))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_element_is_as_libvirt_documents_it() {
        let fixed = Vsock { cid: Some(Cid::fixed(3).expect("a guest's")), model: None };
        let xml = "<vsock model='virtio'><cid auto='no' address='3'/></vsock>";
        assert_eq!(fixed.to_string(), xml);
        let any = Vsock { cid: None, model: None };
        assert_eq!(any.to_string(), "<vsock model='virtio'><cid auto='yes'/></vsock>");
        for model in Model::ALL {
            assert_eq!(Model::of(model.name()), Some(model));
            let wanted = Vsock { cid: Some(Cid::Auto), model: Some(model) };
            let name = model.name();
            assert_eq!(
                wanted.to_string(),
                format!("<vsock model='{name}'><cid auto='yes'/></vsock>")
            );
        }
        assert_eq!(Model::of("vmware"), None);
    }

    #[test]
    fn cids_with_a_meaning_of_their_own_are_refused() {
        for cid in [0, 1, 2, u32::MAX] {
            assert_eq!(Cid::fixed(cid), Err(NotAGuest(cid)));
        }
        assert!(Cid::fixed(u32::MAX - 1).is_ok());
    }
}
