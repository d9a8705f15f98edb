//! CIDs of guests: which there are, and how one is made a machine's own.
//!
//! A number that is free now may be taken a moment later. So none is looked up: it is claimed, by
//! the kernel's word, on the descriptor that QEMU is going to use.

#[cfg(test)]
mod tests;

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    num::ParseIntError,
    path::{Path, PathBuf},
    str::FromStr,
};

use nix::libc;

use crate::vhost;

/// Where the kernel gives guests their CIDs.
pub const VHOST_VSOCK: &str = "/dev/vhost-vsock";
/// Where the kernel says this machine's own.
const VSOCK: &str = "/dev/vsock";
/// How often a number is drawn. In a range that is half taken, one in a million claims fails.
const DRAWS: u64 = 20;
/// A range of at most so many numbers is tried whole.
const SMALL: u64 = 4096;

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

/// CIDs to choose from; both ends belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    first: GuestCid,
    last: GuestCid,
}

/// Away from the low numbers, which people choose and libvirt hands out, in the half of the numbers
/// that no tool takes for negative.
impl Default for Range {
    fn default() -> Self {
        Self { first: GuestCid(1 << 16), last: GuestCid((1 << 31) - 1) }
    }
}

/// Why a text is no range of CIDs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RangeError {
    #[error(transparent)]
    Cid(#[from] CidError),
    #[error("the range {0}-{1} is empty: the lower number comes first")]
    Empty(GuestCid, GuestCid),
}

impl Range {
    pub fn new(first: GuestCid, last: GuestCid) -> Result<Self, RangeError> {
        if first > last {
            return Err(RangeError::Empty(first, last));
        }
        Ok(Self { first, last })
    }

    fn count(self) -> u64 {
        u64::from(self.last.0 - self.first.0) + 1
    }

    /// The number at a place that may be any.
    fn at(self, place: u64) -> GuestCid {
        let offset = u32::try_from(place % self.count()).unwrap_or_default();
        GuestCid(self.first.0 + offset)
    }
}

impl From<GuestCid> for Range {
    fn from(cid: GuestCid) -> Self {
        Self { first: cid, last: cid }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            return self.first.fmt(f);
        }
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl FromStr for Range {
    type Err = RangeError;

    /// `auto`, `N` or `N-M`.
    fn from_str(text: &str) -> Result<Self, RangeError> {
        if text == "auto" {
            return Ok(Self::default());
        }
        match text.split_once('-') {
            Some((first, last)) => Self::new(first.trim().parse()?, last.trim().parse()?),
            None => Ok(Self::from(text.trim().parse::<GuestCid>()?)),
        }
    }
}

/// A CID that is nobody else's while this, or a copy of its descriptor, lives.
#[derive(Debug)]
pub struct Claim {
    pub cid: GuestCid,
    /// An open /dev/vhost-vsock, fit for QEMU's `vhostfd`.
    pub device: File,
}

/// Why no CID was claimed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimError {
    #[error("cannot open {}", .0.display())]
    Open(PathBuf, #[source] io::Error),
    #[error("CID {0} is the own one of this machine, which is a guest itself")]
    Own(GuestCid),
    #[error("CID {0} is another machine's")]
    Taken(GuestCid),
    #[error("no CID of {0} is free")]
    NoneFree(Range),
    #[error("cannot claim CID {0} on {VHOST_VSOCK}")]
    Refused(GuestCid, #[source] io::Error),
    #[error("no random number from the kernel")]
    Random(#[source] io::Error),
}

impl ClaimError {
    /// What to do about it, where that is known.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Open(_, error) => match error.raw_os_error() {
                Some(libc::ENOENT) => {
                    "load the kernel's module with 'modprobe vhost_vsock', as root, and at every \
                     start with a line 'vhost_vsock' in /etc/modules-load.d/vsock.conf"
                }
                Some(libc::ENODEV) => {
                    "its module does not load, mostly because vmw_vsock_vmci_transport has taken \
                     its place: 'agent doctor' says more"
                }
                Some(libc::EACCES | libc::EPERM) => {
                    "run as root, or as a member of its group (mostly kvm)"
                }
                _ => return None,
            },
            Self::Own(_) | Self::Taken(_) => "choose another, or 'auto'",
            Self::NoneFree(_) => "give a wider range",
            Self::Refused(..) | Self::Random(_) => return None,
        })
    }
}

/// Claims a CID of the range by the kernel: a random one, or the one there is.
pub fn claim(range: Range) -> Result<Claim, ClaimError> {
    claim_on(Path::new(VHOST_VSOCK), range)
}

fn claim_on(path: &Path, range: Range) -> Result<Claim, ClaimError> {
    let device = File::options().read(true).write(true).open(path);
    let device = device.map_err(|error| ClaimError::Open(path.into(), error))?;
    let cid = choose(range, own(), random, |cid| vhost::set_guest_cid(&device, cid))?;
    Ok(Claim { cid, device })
}

/// A CID of the range that may be taken: for machines that are started elsewhere or later. Never this
/// machine's own.
pub fn draw(range: Range) -> Result<GuestCid, ClaimError> {
    choose(range, own(), random, |_| Ok(()))
}

/// This machine's own CID, if it has one.
pub fn own() -> Option<u32> {
    File::open(VSOCK).and_then(vhost::local_cid).ok()
}

fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

/// Claims one number after another, until one is got. EADDRINUSE of `claim` is "taken".
fn choose(
    range: Range,
    own: Option<u32>,
    mut random: impl FnMut() -> io::Result<u64>,
    mut claim: impl FnMut(GuestCid) -> io::Result<()>,
) -> Result<GuestCid, ClaimError> {
    let only = range.first == range.last;
    let count = range.count();
    let start = random().map_err(ClaimError::Random)? % count;
    for step in 0..if count <= SMALL { count } else { DRAWS } {
        // Of a small range each once, of a large one anything.
        let place = match step {
            0 => start,
            _ if count <= SMALL => start + step,
            _ => random().map_err(ClaimError::Random)?,
        };
        let cid = range.at(place);
        if own == Some(cid.get()) {
            if only {
                return Err(ClaimError::Own(cid));
            }
            continue;
        }
        match claim(cid) {
            Ok(()) => return Ok(cid),
            Err(error) if error.raw_os_error() != Some(libc::EADDRINUSE) => {
                return Err(ClaimError::Refused(cid, error));
            }
            Err(_) if only => return Err(ClaimError::Taken(cid)),
            Err(_) => {}
        }
    }
    Err(ClaimError::NoneFree(range))
}
