//! The context ids of AF_VSOCK, vsock(7). A CID is the address of a machine as a port is that of a program on
//! it: both are numbers of 32 bits, and these types keep them apart.
//!
//! The crate has types and no system calls, so that every other crate can use it.

use std::{fmt, num::ParseIntError, str::FromStr};

/// The address of a machine: any number of 32 bits, also one that no machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cid(u32);

impl Cid {
    /// `VMADDR_CID_HYPERVISOR`: reserved.
    pub const HYPERVISOR: Self = Self(0);
    /// `VMADDR_CID_LOCAL`: this machine, by a loopback.
    pub const LOCAL: Self = Self(1);
    /// `VMADDR_CID_HOST`: the host of the guest that uses it.
    pub const HOST: Self = Self(2);
    /// `VMADDR_CID_ANY`: a listener on all CIDs of this machine.
    pub const ANY: Self = Self(u32::MAX);

    /// The CID with this number.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The CID as a number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A decimal number of 32 bits.
impl FromStr for Cid {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        text.parse().map(Self)
    }
}

impl From<GuestCid> for Cid {
    fn from(cid: GuestCid) -> Self {
        cid.0
    }
}

/// A CID that a guest may have: 3 to 2^32 - 2. CIDs 0 to 2 are the addresses of the hypervisor, the local
/// machine and the host, and 2^32 - 1 stands for any address (vsock(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestCid(Cid);

/// Why a number or a text is not the CID of a guest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CidError {
    /// The CID is reserved.
    #[error(
        "CID {cid} is {meaning}: a guest's CID is a number from {} to {}",
        GuestCid::MIN,
        GuestCid::MAX
    )]
    Reserved {
        /// The CID.
        cid: Cid,
        /// What it stands for.
        meaning: &'static str,
    },
    /// The text is not a number of 32 bits.
    #[error(
        "{text:?} is no CID: a guest's CID is a number from {} to {}",
        GuestCid::MIN,
        GuestCid::MAX
    )]
    NotANumber {
        /// The text.
        text: String,
        /// Why it was not parsed.
        source: ParseIntError,
    },
}

impl GuestCid {
    /// The lowest CID of a guest.
    pub const MIN: Self = Self(Cid(3));
    /// The highest CID of a guest.
    pub const MAX: Self = Self(Cid(u32::MAX - 1));

    /// The CID of this number; `None` if no guest can have it.
    pub const fn of(number: u32) -> Option<Self> {
        match Cid(number) {
            Cid::HYPERVISOR | Cid::LOCAL | Cid::HOST | Cid::ANY => None,
            cid => Some(Self(cid)),
        }
    }

    /// The CID of this number.
    ///
    /// # Errors
    /// [`CidError::Reserved`], if no guest can have it.
    pub fn new(number: u32) -> Result<Self, CidError> {
        let cid = Cid(number);
        let meaning = match cid {
            Cid::HYPERVISOR => "the hypervisor's",
            Cid::LOCAL => "the local machine's",
            Cid::HOST => "the host's",
            Cid::ANY => "the word for any address",
            _ => return Ok(Self(cid)),
        };
        Err(CidError::Reserved { cid, meaning })
    }

    /// The CID as a number.
    pub const fn get(self) -> u32 {
        self.0.0
    }
}

impl TryFrom<Cid> for GuestCid {
    type Error = CidError;

    fn try_from(cid: Cid) -> Result<Self, CidError> {
        Self::new(cid.0)
    }
}

impl fmt::Display for GuestCid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for GuestCid {
    type Err = CidError;

    fn from_str(text: &str) -> Result<Self, CidError> {
        let number = text
            .parse()
            .map_err(|source| CidError::NotANumber { text: text.to_owned(), source })?;
        Self::new(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guests_cid_is_not_a_reserved_one() {
        assert_eq!((GuestCid::MIN.get(), GuestCid::MAX.get()), (3, u32::MAX - 1));
        for cid in [3, 4, 1 << 31, u32::MAX - 1] {
            assert_eq!(GuestCid::new(cid).map(GuestCid::get), Ok(cid));
            assert_eq!(GuestCid::of(cid).map(GuestCid::get), Some(cid));
        }
        for cid in [0, 1, 2, u32::MAX] {
            assert!(matches!(GuestCid::new(cid), Err(CidError::Reserved { .. })), "{cid}");
            assert_eq!(GuestCid::of(cid), None);
        }
    }

    #[test]
    fn the_error_for_a_text_that_is_no_cid_says_what_a_cid_is() {
        for text in ["", "-3", "3x", "4294967296", "guest"] {
            let error = text.parse::<GuestCid>().unwrap_err().to_string();
            assert!(error.contains("from 3 to 4294967294"), "{error}");
        }
        let error = "2".parse::<GuestCid>().unwrap_err().to_string();
        assert_eq!(error, "CID 2 is the host's: a guest's CID is a number from 3 to 4294967294");
    }

    #[test]
    fn the_cids_of_vsock_7_have_its_numbers() {
        let numbers = [Cid::HYPERVISOR, Cid::LOCAL, Cid::HOST, Cid::ANY].map(Cid::get);
        assert_eq!(numbers, [0, 1, 2, u32::MAX]);
        assert_eq!("4294967295".parse(), Ok(Cid::ANY));
        assert!("4294967296".parse::<Cid>().is_err() && "any".parse::<Cid>().is_err());
        assert_eq!((Cid::HOST.to_string(), GuestCid::MIN.to_string()), ("2".into(), "3".into()));
    }
}
