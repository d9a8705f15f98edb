//! The part of QEMU's command line that gives a guest its vsock device.
//!
//! The tests start their guests with it, and the agent's subcommand `qemu` prints it. Pure: it
//! looks at no machine.

use std::{fmt, num::ParseIntError, str::FromStr};

/// A context id that a guest may have: 3 to 2^32-2. The lower ones and the last are the
/// hypervisor's, the local and the host's addresses, and "any" (vsock(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestCid(u32);

/// Why a number or a text is no guest's CID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CidError {
    /// An address with a meaning of its own.
    #[error(
        "CID {cid} is {meaning}: a guest's CID is a number from {} to {}",
        GuestCid::MIN,
        GuestCid::MAX
    )]
    Reserved { cid: u32, meaning: &'static str },
    /// Not a number of 32 bits.
    #[error(
        "{text:?} is no CID: a guest's CID is a number from {} to {}",
        GuestCid::MIN,
        GuestCid::MAX
    )]
    NotANumber { text: String, source: ParseIntError },
}

impl GuestCid {
    /// The least.
    pub const MIN: u32 = 3;
    /// The greatest.
    pub const MAX: u32 = u32::MAX - 1;

    /// Refuses the addresses that no guest can have.
    pub fn new(cid: u32) -> Result<Self, CidError> {
        let meaning = match cid {
            0 => "the hypervisor's",
            1 => "the local machine's",
            2 => "the host's",
            u32::MAX => "the word for any address",
            Self::MIN..=Self::MAX => return Ok(Self(cid)),
        };
        Err(CidError::Reserved { cid, meaning })
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for GuestCid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl FromStr for GuestCid {
    type Err = CidError;

    fn from_str(text: &str) -> Result<Self, CidError> {
        let cid = text
            .parse()
            .map_err(|source| CidError::NotANumber { text: text.to_owned(), source })?;
        Self::new(cid)
    }
}

/// The arguments for a vsock device whose other end is this machine's kernel (`/dev/vhost-vsock`).
///
/// ```
/// let cid = "3".parse().unwrap();
/// assert_eq!(qemu::args::vsock(cid), ["-device", "vhost-vsock-pci,id=vsock0,guest-cid=3"]);
/// ```
pub fn vsock(cid: GuestCid) -> [String; 2] {
    ["-device".to_owned(), format!("vhost-vsock-pci,id=vsock0,guest-cid={cid}")]
}

#[cfg(test)]
mod tests {
    use super::{CidError, GuestCid, vsock};

    #[test]
    fn a_guests_cid_is_between_the_reserved_ones() {
        for cid in [3, 4, 1 << 31, u32::MAX - 1] {
            assert_eq!(GuestCid::new(cid).map(GuestCid::get), Ok(cid));
        }
        for cid in [0, 1, 2, u32::MAX] {
            assert!(matches!(GuestCid::new(cid), Err(CidError::Reserved { .. })), "{cid}");
        }
    }

    #[test]
    fn a_text_that_is_no_cid_is_told_what_one_is() {
        for text in ["", "-3", "3x", "4294967296", "guest"] {
            let error = text.parse::<GuestCid>().unwrap_err().to_string();
            assert!(error.contains("from 3 to 4294967294"), "{error}");
        }
        let error = "2".parse::<GuestCid>().unwrap_err().to_string();
        assert_eq!(error, "CID 2 is the host's: a guest's CID is a number from 3 to 4294967294");
    }

    #[test]
    fn the_greatest_cid_reaches_the_command_line_whole() {
        let cid = GuestCid::new(GuestCid::MAX).unwrap();
        assert_eq!(vsock(cid)[1], "vhost-vsock-pci,id=vsock0,guest-cid=4294967294");
    }
}
