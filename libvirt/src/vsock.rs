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

/// The element, printed as libvirt prints it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vsock {
    /// How the domain gets its CID.
    pub cid: Cid,
}

impl fmt::Display for Vsock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let model = "<vsock model='virtio'>";
        match self.cid {
            Cid::Auto => write!(f, "{model}<cid auto='yes'/></vsock>"),
            Cid::Fixed(cid) => write!(f, "{model}<cid auto='no' address='{cid}'/></vsock>"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_element_is_as_libvirt_documents_it() {
        let fixed = Vsock { cid: Cid::fixed(3).expect("a guest's") };
        let xml = "<vsock model='virtio'><cid auto='no' address='3'/></vsock>";
        assert_eq!(fixed.to_string(), xml);
        let auto = Vsock { cid: Cid::Auto };
        assert_eq!(auto.to_string(), "<vsock model='virtio'><cid auto='yes'/></vsock>");
    }

    #[test]
    fn cids_with_a_meaning_of_their_own_are_refused() {
        for cid in [0, 1, 2, u32::MAX] {
            assert_eq!(Cid::fixed(cid), Err(NotAGuest(cid)));
        }
        assert!(Cid::fixed(u32::MAX - 1).is_ok());
    }
}
