//! The result of a negotiation, which the transmission obeys.

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
    /// Every offset and length is a multiple of it. A power of two, 1 to 65536.
    pub minimum: u32,
    /// The size of the cheapest requests. A power of two, at least 512 and at least `minimum`.
    pub preferred: u32,
    /// The longest payload of a read or write. A multiple of `minimum`, or 2^32-1.
    pub maximum: u32,
}

impl Default for BlockSizes {
    /// 1, 4096, 32 MiB: what a client assumes when the server tells it no block sizes.
    fn default() -> Self {
        Self { minimum: 1, preferred: 4096, maximum: 32 << 20 }
    }
}

/// The rules of one transmission, the same at both ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// The size of the export, in bytes.
    pub size: u64,
    /// What the export can do ("Transmission flags").
    pub flags: TransmissionFlags,
    /// How messages are framed.
    pub framing: Framing,
    /// The metadata contexts that the client selected and the server granted. No two have the same id
    /// or name. Each NBD_CMD_BLOCK_STATUS is answered with the extents of every one of them.
    pub contexts: Vec<AgreedContext>,
    /// The block sizes that the server advertised, or the default ones.
    pub blocks: BlockSizes,
    /// The server refuses a request whose offset or length is not a multiple of so many bytes. At most
    /// `blocks.minimum`: a server may ask for larger blocks than it insists on.
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
