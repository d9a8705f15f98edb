//! The messages of vhost-user: parses requests and writes replies, without I/O.

use std::fmt;

use super::Refused;

/// Bytes of a header.
pub(crate) const HEADER: usize = 12;
/// Most bytes that may follow a header. The longest message that is accepted has a tenth of that.
pub(crate) const MOST_BODY: usize = 4096;
/// Most regions of a guest's memory. QEMU uses at most 8 unless more are offered.
pub(crate) const MOST_REGIONS: usize = 32;
/// Most bytes of a device's configuration in a message.
const MOST_CONFIG: u32 = 256;

/// Flags of a header: the version, whether it is a reply, whether a reply is wanted.
const VERSION: u32 = 1;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;
/// In the number of a queue: the message has no descriptor.
pub(crate) const NO_FILE: u64 = 1 << 8;

/// Bits of the protocol features.
pub(crate) const REPLY_ACK: u64 = 1 << 3;
pub(crate) const CONFIG: u64 = 1 << 9;
pub(crate) const RESET: u64 = 1 << 13;
/// VHOST_USER_F_PROTOCOL_FEATURES, among the features of Virtio.
pub(crate) const PROTOCOL_FEATURES: u64 = 1 << 30;

/// Makes `Kind` and its numbers and names.
macro_rules! kinds {
    ($($name:ident = $number:literal $text:literal,)*) => {
        /// The messages that this device knows.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Kind {
            $($name,)*
        }

        impl Kind {
            pub(crate) fn from_wire(number: u32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }

            pub(crate) fn number(self) -> u32 {
                match self {
                    $(Self::$name => $number,)*
                }
            }

            fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

kinds! {
    GetFeatures = 1 "GET_FEATURES",
    SetFeatures = 2 "SET_FEATURES",
    SetOwner = 3 "SET_OWNER",
    ResetOwner = 4 "RESET_OWNER",
    SetMemTable = 5 "SET_MEM_TABLE",
    SetVringNum = 8 "SET_VRING_NUM",
    SetVringAddr = 9 "SET_VRING_ADDR",
    SetVringBase = 10 "SET_VRING_BASE",
    GetVringBase = 11 "GET_VRING_BASE",
    SetVringKick = 12 "SET_VRING_KICK",
    SetVringCall = 13 "SET_VRING_CALL",
    SetVringErr = 14 "SET_VRING_ERR",
    GetProtocolFeatures = 15 "GET_PROTOCOL_FEATURES",
    SetProtocolFeatures = 16 "SET_PROTOCOL_FEATURES",
    SetVringEnable = 18 "SET_VRING_ENABLE",
    GetConfig = 24 "GET_CONFIG",
    SetConfig = 25 "SET_CONFIG",
    ResetDevice = 34 "RESET_DEVICE",
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A message's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    /// The VMM waits for a reply, also to a request that has none.
    pub(crate) need_reply: bool,
    /// Bytes that follow.
    pub(crate) len: usize,
}

impl Header {
    pub(crate) fn parse(bytes: &[u8; HEADER]) -> Result<Self, Refused> {
        let mut words = Words(bytes);
        let (Some(number), Some(flags), Some(len)) = (words.u32(), words.u32(), words.u32()) else {
            return Err(Refused::Header(0, 0));
        };
        let size = usize::try_from(len).unwrap_or(usize::MAX);
        if flags & (VERSION | 2 | REPLY) != VERSION || size > MOST_BODY {
            return Err(Refused::Header(flags, len));
        }
        let kind = Kind::from_wire(number).ok_or(Refused::Unknown(number))?;
        Ok(Self { kind, need_reply: flags & NEED_REPLY != 0, len: size })
    }
}

/// A part of the guest's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Region {
    /// The guest's address.
    pub(crate) guest: u64,
    pub(crate) len: u64,
    /// The VMM's address of it. Addresses of rings are of this kind.
    pub(crate) user: u64,
    /// The offset in its file at which it begins.
    pub(crate) offset: u64,
}

/// The VMM's addresses of a queue's three parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Places {
    pub(crate) table: u64,
    pub(crate) avail: u64,
    pub(crate) used: u64,
}

/// The request of a message, without its descriptors.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Request {
    GetFeatures,
    SetFeatures(u64),
    SetOwner,
    /// RESET_OWNER or RESET_DEVICE.
    Reset,
    SetMemTable(Vec<Region>),
    SetVringNum(u32, u32),
    SetVringAddr(u32, Places),
    SetVringBase(u32, u16),
    GetVringBase(u32),
    /// The queue, and whether a descriptor comes with it.
    SetVringKick(u32, bool),
    SetVringCall(u32, bool),
    SetVringErr(u32, bool),
    GetProtocolFeatures,
    SetProtocolFeatures(u64),
    SetVringEnable(u32, bool),
    /// Offset and length.
    GetConfig(u32, u32),
    SetConfig,
}

impl Request {
    pub(crate) fn parse(kind: Kind, body: &[u8]) -> Result<Self, Refused> {
        let mut words = Words(body);
        let parsed = Self::read(kind, &mut words).filter(|_| words.0.is_empty());
        parsed.ok_or(Refused::Malformed(kind, body.len()))
    }

    fn read(kind: Kind, words: &mut Words<'_>) -> Option<Self> {
        Some(match kind {
            Kind::GetFeatures => Self::GetFeatures,
            Kind::SetFeatures => Self::SetFeatures(words.u64()?),
            Kind::SetOwner => Self::SetOwner,
            Kind::ResetOwner | Kind::ResetDevice => Self::Reset,
            Kind::SetMemTable => Self::SetMemTable(regions(words)?),
            Kind::SetVringNum => Self::SetVringNum(words.u32()?, words.u32()?),
            Kind::SetVringAddr => {
                let (queue, flags) = (words.u32()?, words.u32()?);
                let (table, used, avail) = (words.u64()?, words.u64()?, words.u64()?);
                // The address of the log of writes, a feature that is not offered.
                words.u64()?;
                if flags != 0 {
                    return None;
                }
                Self::SetVringAddr(queue, Places { table, avail, used })
            }
            Kind::SetVringBase => {
                Self::SetVringBase(words.u32()?, u16::try_from(words.u32()?).ok()?)
            }
            Kind::GetVringBase => {
                let queue = words.u32()?;
                words.u32()?;
                Self::GetVringBase(queue)
            }
            Kind::SetVringKick | Kind::SetVringCall | Kind::SetVringErr => {
                let number = words.u64()?;
                let (queue, there) = (u32::from(number.to_le_bytes()[0]), number & NO_FILE == 0);
                match kind {
                    Kind::SetVringKick => Self::SetVringKick(queue, there),
                    Kind::SetVringCall => Self::SetVringCall(queue, there),
                    _ => Self::SetVringErr(queue, there),
                }
            }
            Kind::GetProtocolFeatures => Self::GetProtocolFeatures,
            Kind::SetProtocolFeatures => Self::SetProtocolFeatures(words.u64()?),
            Kind::SetVringEnable => {
                let (queue, on) = (words.u32()?, words.u32()?);
                Self::SetVringEnable(queue, [false, true].get(usize::try_from(on).ok()?).copied()?)
            }
            Kind::GetConfig | Kind::SetConfig => {
                let (offset, len, _flags) = (words.u32()?, words.u32()?, words.u32()?);
                words.skip(usize::try_from(len).ok().filter(|_| len <= MOST_CONFIG)?)?;
                if kind == Kind::SetConfig { Self::SetConfig } else { Self::GetConfig(offset, len) }
            }
        })
    }

    /// The number of descriptors that must come with it.
    pub(crate) fn files(&self) -> usize {
        match self {
            Self::SetMemTable(regions) => regions.len(),
            Self::SetVringKick(_, there)
            | Self::SetVringCall(_, there)
            | Self::SetVringErr(_, there) => usize::from(*there),
            _ => 0,
        }
    }
}

fn regions(words: &mut Words<'_>) -> Option<Vec<Region>> {
    let count = usize::try_from(words.u32()?).ok()?;
    words.u32()?;
    if count == 0 || count > MOST_REGIONS {
        return None;
    }
    let mut region = || {
        let (guest, len, user, offset) = (words.u64()?, words.u64()?, words.u64()?, words.u64()?);
        Some(Region { guest, len, user, offset })
    };
    (0..count).map(|_| region()).collect()
}

/// The body of a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    Number(u64),
    /// A queue, and its place when it was stopped.
    Base(u32, u16),
    /// A part of the configuration, from its offset on; empty if there is no such part.
    Config(u32, Vec<u8>),
}

impl Reply {
    pub(crate) fn bytes(&self, kind: Kind) -> Vec<u8> {
        let body = match self {
            Self::Number(number) => number.to_ne_bytes().to_vec(),
            Self::Base(queue, base) => [*queue, u32::from(*base)].map(u32::to_ne_bytes).concat(),
            Self::Config(offset, bytes) => {
                let len = u32::try_from(bytes.len()).unwrap_or(0);
                let head = [*offset, len, 0].map(u32::to_ne_bytes).concat();
                [head.as_slice(), bytes].concat()
            }
        };
        let len = u32::try_from(body.len()).unwrap_or(0);
        let header = [kind.number(), VERSION | REPLY, len].map(u32::to_ne_bytes).concat();
        [header, body].concat()
    }
}

/// The rest of a message, in this machine's byte order.
struct Words<'a>(&'a [u8]);

impl Words<'_> {
    fn u32(&mut self) -> Option<u32> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_ne_bytes(*first))
    }

    fn u64(&mut self) -> Option<u64> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_ne_bytes(*first))
    }

    fn skip(&mut self, len: usize) -> Option<()> {
        self.0 = self.0.get(len..)?;
        Some(())
    }
}

#[cfg(test)]
mod tests;
