//! Why an export cannot become a device, or cannot stay the device that it is.

use nbd::wire::TransmissionFlags as Flags;
use thiserror::Error;

/// The largest block of the kernel's drivers, in bytes: a page.
pub(super) const PAGE: u32 = 4096;

/// What is wrong with an export.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum Unfit {
    #[error("it has no bytes")]
    Empty,
    #[error(
        "the export's smallest block is {0} bytes, and the kernel's driver takes {PAGE} at most: let \
         the server accept smaller ones (the agent: --filter blocksize minblock=4k)"
    )]
    Block(u32),
    #[error(
        "it is another disk: its identity was {} and is {}",
        quoted(.was.as_deref()),
        quoted(.is.as_deref())
    )]
    Identity { was: Option<String>, is: Option<String> },
    #[error("its size was {was} bytes and is {is}")]
    Size { was: u64, is: u64 },
    #[error("its flags were {} and are {}", names(*.was), names(*.is))]
    Flags { was: Flags, is: Flags },
    #[error("it does not offer {} any more", names(*.0))]
    Missing(Flags),
    #[error("its block sizes were {} to {} bytes and are {} to {}", .was.0, .was.1, .is.0, .is.1)]
    Blocks { was: (u32, u32), is: (u32, u32) },
    #[error(
        "the server was started anew while no relay was there, and may have lost what was acknowledged \
         and not flushed: unmount what is on the device, detach it with --force, and attach again"
    )]
    Anew,
    #[error(
        "the server does not say whether it was started anew while no relay was there: unmount what is \
         on the device, detach it with --force, and attach again"
    )]
    Untold,
    #[error("--direct is a thing of the nbd driver, and not of ublk's")]
    DirectUblk,
    #[error("the kernel speaks no TLS, so --direct cannot be; a relay can")]
    DirectTls,
    #[error("the server sent a message that was not requested")]
    Unasked,
}

fn quoted(identity: Option<&str>) -> String {
    identity.map_or_else(|| "none".to_owned(), |text| format!("{text:?}"))
}

fn names(flags: Flags) -> String {
    let names: Vec<_> = flags.iter_names().map(|(name, _)| name).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(" and ") }
}
