//! What a negotiation settled and the transmission obeys.

use crate::wire::TransmissionFlags;

/// How requests and replies are framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Framing {
    /// Compact requests, simple replies.
    Simple,
    /// Compact requests, structured replies ("Structured reply message").
    Structured,
    /// Extended requests and replies ("Extended reply message").
    Extended,
}

/// Block size constraints of an export ("Block size constraints"), in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSizes {
    /// Every offset and length is a multiple; a power of two, 1 to 65536.
    pub minimum: u32,
    /// What costs least; a power of two, at least 512.
    pub preferred: u32,
    /// Longest read or write.
    pub maximum: u32,
}

impl Default for BlockSizes {
    /// 1, 4096, 32 MiB: what a client assumes that was told nothing.
    fn default() -> Self {
        Self { minimum: 1, preferred: 4096, maximum: 32 << 20 }
    }
}

/// The rules of one transmission, the same at both ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Bytes of the export.
    pub size: u64,
    /// What the export can do.
    pub flags: TransmissionFlags,
    /// How messages are framed.
    pub framing: Framing,
    /// The id under which `base:allocation` was selected, if it was.
    pub allocation: Option<u32>,
    /// As advertised.
    pub blocks: BlockSizes,
    /// Every offset and length has to be a multiple of so many bytes, else the request is refused. At most
    /// the advertised minimum, which a server may ask for without insisting on it.
    pub unit: u32,
}
