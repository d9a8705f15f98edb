//! A server's description of an export, judged: the client believes no number in it unchecked.

use super::{Negotiated, Purpose};
use crate::{
    AgreedContext, BlockSizes, Framing, Terms, Violation,
    wire::{Info, TransmissionFlags, Truncated},
};

/// An export as the server described it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// The size, in bytes. At most 2^63-1.
    pub size: u64,
    /// What it can do. Flags that the agreed framing rules out are cleared.
    pub flags: TransmissionFlags,
    /// The block sizes that the server told, or else the default ones.
    pub blocks: BlockSizes,
    /// Whether the server told block sizes that keep to "Block size constraints".
    pub blocks_told: bool,
    /// The canonical name, if the server told one.
    pub name: Option<String>,
    /// A description for people, if the server told one.
    pub description: Option<String>,
}

/// Collects the NBD_REP_INFO replies of one answer.
#[derive(Debug, Default)]
pub(super) struct Told {
    export: Option<(u64, TransmissionFlags)>,
    blocks: Option<BlockSizes>,
    name: Option<String>,
    description: Option<String>,
}

impl Told {
    /// Takes one reply in. A repeated kind replaces the earlier one, so the memory is bounded.
    pub(super) fn take(&mut self, data: &[u8]) -> Result<(), Truncated> {
        match Info::parse(data)? {
            Info::Export { size, flags } => self.export = Some((size, flags)),
            Info::Name(name) => self.name = Some(name.to_owned()),
            Info::Description(text) => self.description = Some(text.to_owned()),
            Info::BlockSize(blocks) => self.blocks = Some(blocks),
            Info::Other(_) => {}
        }
        Ok(())
    }

    /// The result, after NBD_REP_ACK.
    pub(super) fn finish(self, framing: Framing) -> Result<Described, Violation> {
        let missing = "NBD_REP_ACK without NBD_INFO_EXPORT before it";
        let (size, flags) = self.export.ok_or(Violation::Unexpected(missing))?;
        let mut described = describe(size, flags, framing)?;
        if let Some(blocks) = self.blocks.filter(|blocks| sound(*blocks, size)) {
            described.blocks = blocks;
            described.blocks_told = true;
        }
        described.name = self.name;
        described.description = self.description;
        Ok(described)
    }
}

/// Judges the size and flags, which the answers to GO and EXPORT_NAME both have.
pub(super) fn describe(
    size: u64,
    mut flags: TransmissionFlags,
    framing: Framing,
) -> Result<Described, Violation> {
    if size > i64::MAX as u64 {
        return Err(Violation::Size(size));
    }
    if !flags.contains(TransmissionFlags::HAS_FLAGS) {
        return Err(Violation::Unexpected("transmission flags without NBD_FLAG_HAS_FLAGS"));
    }
    // Flags that depend on the framing or on other flags.
    if framing < Framing::Structured {
        flags.remove(TransmissionFlags::SEND_DF);
    }
    if framing < Framing::Extended {
        flags.remove(TransmissionFlags::BLOCK_STATUS_PAYLOAD);
    }
    if !flags.contains(TransmissionFlags::SEND_WRITE_ZEROES) {
        flags.remove(TransmissionFlags::SEND_FAST_ZERO);
    }
    let blocks = BlockSizes::default();
    Ok(Described { size, flags, blocks, blocks_told: false, name: None, description: None })
}

impl Described {
    pub(super) fn negotiated(
        &self,
        framing: Framing,
        contexts: Vec<AgreedContext>,
        export_name: String,
        purpose: Purpose,
    ) -> Negotiated {
        let Self { size, flags, blocks, .. } = *self;
        Negotiated {
            terms: Terms { size, flags, framing, contexts, blocks, unit: blocks.minimum },
            export_name,
            purpose,
        }
    }
}

/// Whether block sizes keep to "Block size constraints". The client ignores others: it could not keep to a
/// maximum of 0, for example.
fn sound(blocks: BlockSizes, size: u64) -> bool {
    let BlockSizes { minimum, preferred, maximum } = blocks;
    minimum.is_power_of_two()
        && minimum <= 1 << 16
        && preferred.is_power_of_two()
        && preferred >= minimum.max(512)
        && (maximum == u32::MAX || maximum.is_multiple_of(minimum))
        && maximum >= minimum
        && u64::from(maximum) >= u64::from(preferred).min(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_sizes_outside_the_constraints_are_ignored() {
        let size = 1 << 30;
        for (minimum, preferred, maximum, fit) in [
            (1, 4096, 32 << 20, true),
            (512, 512, 512, true),
            (1, 512, u32::MAX, true),
            (65536, 65536, u32::MAX, true),
            (0, 4096, 1 << 20, false),
            (1, 4096, 0, false),
            (3, 4096, 1 << 20, false),
            (1 << 17, 1 << 17, 1 << 20, false),
            (1, 256, 1 << 20, false),
            (4096, 512, 1 << 20, false),
            (1, 5000, 1 << 20, false),
            (512, 4096, 4097, false),
            (1, 4096, 4095, false),
        ] {
            let blocks = BlockSizes { minimum, preferred, maximum };
            assert_eq!(sound(blocks, size), fit, "{blocks:?}");
        }
        assert!(sound(BlockSizes { minimum: 1, preferred: 4096, maximum: 100 }, 100));
    }

    #[test]
    fn a_size_over_63_bits_and_missing_flags_are_violations() {
        let flags = TransmissionFlags::HAS_FLAGS;
        assert_eq!(describe(1 << 63, flags, Framing::Simple), Err(Violation::Size(1 << 63)));
        assert!(describe((1 << 63) - 1, flags, Framing::Simple).is_ok());
        assert!(describe(0, TransmissionFlags::empty(), Framing::Simple).is_err());
    }
}
