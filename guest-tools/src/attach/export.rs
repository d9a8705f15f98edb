//! What the kernel was told about the export, and whether a server that came back still serves the same.

use nbd::{Terms, wire::TransmissionFlags as Flags};
use nbd_client::Client;

use super::{
    fenced::Standing,
    unfit::{PAGE, Unfit},
};

/// The flags of an export that the kernel's drivers make use of.
const USED: Flags = Flags::HAS_FLAGS
    .union(Flags::SEND_FLUSH)
    .union(Flags::SEND_FUA)
    .union(Flags::ROTATIONAL)
    .union(Flags::SEND_TRIM)
    .union(Flags::SEND_WRITE_ZEROES)
    .union(Flags::CAN_MULTI_CONN);
/// The sector of the kernel's drivers, in bytes. No block is smaller.
const SECTOR: u32 = 512;

/// The properties of an export that a disk depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Export {
    /// As the server reports it, in bytes.
    pub(super) size: u64,
    /// As the server reports them, with READ_ONLY added if this end asks for it.
    pub(super) flags: Flags,
    pub(super) minimum: u32,
    pub(super) maximum: u32,
    /// Identifies the disk, if the server reports an identity.
    pub(super) identity: Option<String>,
    /// Identifies the run of the server, if it reports one. The disk does not depend on it.
    pub(super) instance: Option<String>,
}

impl Export {
    /// With `read_only` the kernel does not write, even if the server would allow it.
    pub(super) fn of(terms: &Terms, read_only: bool, standing: Standing) -> Self {
        let mut flags = terms.flags;
        flags.set(Flags::READ_ONLY, read_only || flags.contains(Flags::READ_ONLY));
        Self {
            size: terms.size,
            flags,
            minimum: terms.blocks.minimum,
            maximum: terms.blocks.maximum,
            identity: standing.identity,
            instance: standing.instance,
        }
    }

    pub(super) fn of_link(client: &Client, standing: Standing, read_only: bool) -> Self {
        Self::of(client.terms(), read_only, standing)
    }

    /// The kernel's block size in bytes: the smallest that both ends allow. It is an error if that is
    /// more than a page.
    pub(super) fn block(&self) -> Result<u32, Unfit> {
        let block = self.minimum.max(SECTOR);
        if block > PAGE {
            return Err(Unfit::Block(block));
        }
        Ok(block)
    }

    /// The size that the kernel sees, in bytes: whole blocks only.
    pub(super) fn visible(&self, block: u32) -> u64 {
        self.size - self.size % u64::from(block)
    }

    /// The flags that the kernel is told.
    pub(super) fn for_kernel(&self) -> Flags {
        (self.flags & (USED | Flags::READ_ONLY)) | Flags::HAS_FLAGS
    }

    /// Whether the server may lose acknowledged changes until a flush.
    pub(super) const fn flushes(&self) -> bool {
        self.flags.contains(Flags::SEND_FLUSH)
    }

    /// Whether the export as the server offers it now can replace this one: the same disk, with at least
    /// the properties that the kernel was told. Otherwise returns the difference.
    pub(super) fn is_still(&self, now: &Self) -> Result<(), Unfit> {
        if self.identity.is_some() && now.identity != self.identity {
            let (was, is) = (self.identity.clone(), now.identity.clone());
            return Err(Unfit::Identity { was, is });
        }
        if now.size != self.size {
            return Err(Unfit::Size { was: self.size, is: now.size });
        }
        // With the other kind of cache the kernel would flush for nothing, or would not flush where it
        // has to.
        let same = Flags::READ_ONLY | Flags::SEND_FLUSH;
        if (now.flags ^ self.flags).intersects(same) {
            let (was, is) = (self.flags & same, now.flags & same);
            return Err(Unfit::Flags { was, is });
        }
        let missing = (self.flags & USED) - Flags::ROTATIONAL - now.flags;
        if !missing.is_empty() {
            return Err(Unfit::Missing(missing));
        }
        if now.minimum.max(SECTOR) > self.minimum.max(SECTOR) || now.maximum < self.maximum {
            let (was, is) = ((self.minimum, self.maximum), (now.minimum, now.maximum));
            return Err(Unfit::Blocks { was, is });
        }
        Ok(())
    }

    /// Takes note of another connection to the same disk. If it is to another run of the server, this
    /// export names no run.
    pub(super) fn and(&mut self, again: &Self) {
        if self.instance != again.instance {
            self.instance = None;
        }
    }

    /// The same export, as another connection reports it.
    pub(super) fn again(&self, client: &Client, standing: Standing) -> Self {
        // If the kernel must not write, that holds on every connection.
        let read_only = self.flags.contains(Flags::READ_ONLY);
        Self::of_link(client, standing, read_only)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn export() -> Export {
        let flags = Flags::HAS_FLAGS | Flags::SEND_FLUSH | Flags::SEND_TRIM | Flags::ROTATIONAL;
        let (size, minimum, maximum) = (1 << 20, 1, 32 << 20);
        Export { size, flags, minimum, maximum, identity: Some("1".into()), instance: None }
    }

    #[test]
    fn more_is_the_same_export_and_less_is_not() {
        let was = export();
        for (says, change) in [
            ("", Box::new(|_: &mut Export| {}) as Box<dyn Fn(&mut Export)>),
            ("", Box::new(|now| now.flags |= Flags::SEND_FUA | Flags::SEND_CACHE)),
            ("", Box::new(|now| now.flags -= Flags::ROTATIONAL)),
            ("", Box::new(|now| now.minimum = 512)),
            ("", Box::new(|now| now.maximum *= 2)),
            ("does not offer SEND_TRIM", Box::new(|now| now.flags -= Flags::SEND_TRIM)),
            ("are SEND_FLUSH", Box::new(|now| now.flags -= Flags::SEND_FLUSH)),
            ("READ_ONLY", Box::new(|now| now.flags |= Flags::READ_ONLY)),
            ("was 1048576 bytes and is 1048577", Box::new(|now| now.size += 1)),
            ("1 to 33554432", Box::new(|now| now.minimum = 4096)),
            ("block sizes", Box::new(|now| now.maximum /= 2)),
            ("identity was \"1\" and is \"2\"", Box::new(|now| now.identity = Some("2".into()))),
            ("identity was \"1\" and is none", Box::new(|now| now.identity = None)),
        ] {
            let mut now = export();
            change(&mut now);
            match was.is_still(&now) {
                Ok(()) => assert_eq!(says, "", "{now:?}"),
                Err(unfit) if says == "are SEND_FLUSH" => {
                    assert!(unfit.to_string().contains("are none"), "{unfit}");
                }
                Err(unfit) => {
                    assert!(!says.is_empty() && unfit.to_string().contains(says), "{unfit}");
                }
            }
        }
    }

    #[test]
    fn the_kernel_sees_whole_blocks_of_a_size_it_takes() {
        let mut export = export();
        export.size = 10_000;
        assert_eq!(export.block(), Ok(512));
        assert_eq!(export.visible(512), 9728);
        export.minimum = 4096;
        assert_eq!(export.block(), Ok(4096));
        export.minimum = 8192;
        assert!(export.block().is_err());
    }
}
