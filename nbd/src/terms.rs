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
    /// The metadata contexts that the client selected and the server granted. No two have the same id
    /// or name. Each NBD_CMD_BLOCK_STATUS is answered with the extents of every one of them.
    pub contexts: Vec<AgreedContext>,
    /// As advertised.
    pub blocks: BlockSizes,
    /// Every offset and length has to be a multiple of so many bytes, else the request is refused. At most
    /// the advertised minimum, which a server may ask for without insisting on it.
    pub unit: u32,
}

impl Terms {
    /// The id under which the context with this full name was agreed, if it was.
    ///
    /// ```
    /// # let terms = nbd::Terms {
    /// #     size: 0,
    /// #     flags: nbd::wire::TransmissionFlags::HAS_FLAGS,
    /// #     framing: nbd::Framing::Structured,
    /// #     contexts: vec![nbd::AgreedContext::new(7, "base:allocation")],
    /// #     blocks: nbd::BlockSizes::default(),
    /// #     unit: 1,
    /// # };
    /// assert_eq!(terms.context("base:allocation"), Some(7));
    /// assert_eq!(terms.context("qemu:dirty-bitmap:backup"), None);
    /// ```
    pub fn context(&self, name: &str) -> Option<u32> {
        self.contexts.iter().find(|context| context.name == name).map(|context| context.id)
    }
}

/// A metadata context that both ends agreed on ("Metadata querying").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgreedContext {
    /// The number that the server chose for it. Replies to NBD_CMD_BLOCK_STATUS carry it.
    pub id: u32,
    /// Its full name, `NAMESPACE:LEAF`.
    pub name: String,
}

impl AgreedContext {
    /// A context with this id and full name. Only tests and tools need it: negotiations make their own.
    pub fn new(id: u32, name: impl Into<String>) -> Self {
        Self { id, name: name.into() }
    }
}
