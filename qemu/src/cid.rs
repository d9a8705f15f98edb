//! Ranges of guests' CIDs, and how to claim a CID for a machine.
//!
//! A CID that is free now may be taken a moment later. So this module does not look for a free CID: it claims one
//! from the kernel, on the descriptor that QEMU will use.

#[cfg(test)]
mod tests;

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    str::FromStr,
};

use nix::libc;
use vsock_cid::{Cid, CidError, GuestCid};

use crate::vhost;

/// The device by which the kernel assigns a CID to a guest.
pub const VHOST_VSOCK: &str = "/dev/vhost-vsock";
/// The device that tells this machine's own CID.
const VSOCK: &str = "/dev/vsock";
/// Random numbers that are tried in a large range. Where half of the range is taken, one claim in a million fails.
const DRAWS: u64 = 20;
/// In a range of at most this many numbers, every number is tried.
const SMALL: u64 = 4096;

/// CIDs to choose from: `auto`, `N` or `N-M`, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    first: GuestCid,
    last: GuestCid,
}

/// `auto`: 65536 to 2^31 - 1. People choose low numbers, and libvirt assigns them; higher numbers are negative to
/// tools that use signed integers.
impl Default for Range {
    fn default() -> Self {
        const fn cid(number: u32) -> GuestCid {
            GuestCid::of(number).expect("no reserved CID")
        }
        const { Self { first: cid(1 << 16), last: cid((1 << 31) - 1) } }
    }
}

/// Why a text is not a range of CIDs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RangeError {
    /// An end of the range is not the CID of a guest.
    #[error(transparent)]
    Cid(#[from] CidError),
    /// The first CID is higher than the last.
    #[error("the range {0}-{1} is empty: the lower number comes first")]
    Empty(GuestCid, GuestCid),
}

impl Range {
    /// The range from `first` to `last`, both included.
    ///
    /// # Errors
    /// [`RangeError::Empty`], if `first` is higher than `last`.
    pub fn new(first: GuestCid, last: GuestCid) -> Result<Self, RangeError> {
        if first > last {
            return Err(RangeError::Empty(first, last));
        }
        Ok(Self { first, last })
    }

    fn count(self) -> u64 {
        u64::from(self.last.get() - self.first.get()) + 1
    }

    /// The CID at `place`, which wraps around at the end of the range.
    fn at(self, place: u64) -> GuestCid {
        let offset = u32::try_from(place % self.count()).unwrap_or_default();
        GuestCid::of(self.first.get() + offset).unwrap_or(self.first)
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

/// A claimed CID: no other device can have it while this value, or a copy of its descriptor, exists.
#[derive(Debug)]
pub struct Claim {
    /// The CID.
    pub cid: GuestCid,
    /// The open /dev/vhost-vsock that has the CID, for QEMU's `vhostfd`.
    pub device: File,
}

/// Why no CID was claimed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimError {
    /// The device cannot be opened.
    #[error("cannot open {}", .0.display())]
    Open(PathBuf, #[source] io::Error),
    /// The only CID of the range is that of this machine.
    #[error("CID {0} is the own one of this machine, which is a guest itself")]
    Own(GuestCid),
    /// The only CID of the range belongs to another device.
    #[error("CID {0} is another machine's")]
    Taken(GuestCid),
    /// Each CID that was tried belongs to another device.
    #[error("no CID of {0} is free")]
    NoneFree(Range),
    /// The kernel refused for another reason than EADDRINUSE.
    #[error("cannot claim CID {0} on {VHOST_VSOCK}")]
    Refused(GuestCid, #[source] io::Error),
    /// /dev/urandom cannot be read.
    #[error("no random number from the kernel")]
    Random(#[source] io::Error),
}

impl ClaimError {
    /// What the user can do about the error, where that is known.
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

/// Claims a random CID of the range from the kernel.
///
/// # Errors
/// [`ClaimError`]: the device cannot be opened, or no CID of the range was claimed.
pub fn claim(range: Range) -> Result<Claim, ClaimError> {
    claim_on(Path::new(VHOST_VSOCK), range)
}

fn claim_on(path: &Path, range: Range) -> Result<Claim, ClaimError> {
    let device = File::options().read(true).write(true).open(path);
    let device = device.map_err(|error| ClaimError::Open(path.into(), error))?;
    let cid = choose(range, own(), random, |cid| vhost::set_guest_cid(&device, cid))?;
    Ok(Claim { cid, device })
}

/// Draws a random CID of the range, other than this machine's own, without claiming it: for a machine that is
/// started later or on another host. Another device may have the CID.
///
/// # Errors
/// [`ClaimError::Own`], if the range has only this machine's CID; [`ClaimError::Random`].
pub fn draw(range: Range) -> Result<GuestCid, ClaimError> {
    choose(range, own(), random, |_| Ok(()))
}

/// The CID of this machine; `None` if it has none, or no vsock.
pub fn own() -> Option<Cid> {
    File::open(VSOCK).and_then(vhost::local_cid).ok()
}

fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

/// Calls `claim` for one CID after another until it succeeds. EADDRINUSE means that another device has the CID.
fn choose(
    range: Range,
    own: Option<Cid>,
    mut random: impl FnMut() -> io::Result<u64>,
    mut claim: impl FnMut(GuestCid) -> io::Result<()>,
) -> Result<GuestCid, ClaimError> {
    let only = range.first == range.last;
    let count = range.count();
    let start = random().map_err(ClaimError::Random)? % count;
    for step in 0..if count <= SMALL { count } else { DRAWS } {
        // In a small range each CID once, in a large one random CIDs.
        let place = match step {
            0 => start,
            _ if count <= SMALL => start + step,
            _ => random().map_err(ClaimError::Random)?,
        };
        let cid = range.at(place);
        if own == Some(cid.into()) {
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
