//! The header of a packet: `struct virtio_vsock_hdr` (Virtio 1.2, 5.10.6 "Device Operation").

use vsock_cid::{Cid, GuestCid};

/// The type of a byte stream. SEQPACKET is 2 and refused.
pub(crate) const STREAM: u16 = 1;

/// Flag of SHUTDOWN: the sender will receive no more.
pub(crate) const NO_MORE_RECEIVED: u32 = 1;
/// Flag of SHUTDOWN: the sender will send no more.
pub(crate) const NO_MORE_SENT: u32 = 2;

/// The operation of a packet ("op").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Request,
    Response,
    Reset,
    Shutdown,
    Data,
    CreditUpdate,
    CreditRequest,
    Unknown(u16),
}

const OPS: [(u16, Op); 7] = [
    (1, Op::Request),
    (2, Op::Response),
    (3, Op::Reset),
    (4, Op::Shutdown),
    (5, Op::Data),
    (6, Op::CreditUpdate),
    (7, Op::CreditRequest),
];

impl Op {
    fn from_wire(number: u16) -> Self {
        OPS.iter().find(|(known, _)| *known == number).map_or(Self::Unknown(number), |(_, op)| *op)
    }

    fn to_wire(self) -> u16 {
        match self {
            Self::Unknown(number) => number,
            op => OPS.iter().find(|(_, known)| *known == op).map_or(0, |(number, _)| *number),
        }
    }
}

/// The header of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) src_cid: u64,
    pub(crate) dst_cid: u64,
    pub(crate) src_port: u32,
    pub(crate) dst_port: u32,
    /// Bytes of payload after the header.
    pub(crate) len: u32,
    pub(crate) kind: u16,
    pub(crate) op: Op,
    pub(crate) flags: u32,
    /// Size of the sender's receive buffer for this connection, in bytes.
    pub(crate) buf_alloc: u32,
    /// Bytes that the sender has taken out of that buffer since the connection began, modulo 2^32.
    pub(crate) fwd_cnt: u32,
}

impl Header {
    /// Bytes on the wire.
    pub(crate) const LEN: usize = 44;

    pub(crate) fn parse(bytes: &[u8; Self::LEN]) -> Self {
        let mut rest = bytes.as_slice();
        let mut take = |n: usize| {
            let (head, tail) = rest.split_at(n);
            rest = tail;
            head.iter().rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte))
        };
        let mut word = |n| u32::try_from(take(n)).unwrap_or(u32::MAX);
        // A u64 is two words, the lower one first.
        let mut long = || u64::from(word(4)) | u64::from(word(4)) << 32;
        let (src_cid, dst_cid) = (long(), long());
        let (src_port, dst_port, len) = (word(4), word(4), word(4));
        let mut short = || u16::try_from(word(2)).unwrap_or(u16::MAX);
        let (kind, op) = (short(), Op::from_wire(short()));
        let (flags, buf_alloc, fwd_cnt) = (word(4), word(4), word(4));
        Self { src_cid, dst_cid, src_port, dst_port, len, kind, op, flags, buf_alloc, fwd_cnt }
    }

    pub(crate) fn bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[0..8].copy_from_slice(&self.src_cid.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.dst_cid.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.src_port.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.dst_port.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.len.to_le_bytes());
        bytes[28..30].copy_from_slice(&self.kind.to_le_bytes());
        bytes[30..32].copy_from_slice(&self.op.to_wire().to_le_bytes());
        bytes[32..36].copy_from_slice(&self.flags.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.buf_alloc.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.fwd_cnt.to_le_bytes());
        bytes
    }

    /// The RST that answers this packet.
    pub(crate) fn reset(&self) -> Self {
        Self {
            src_cid: self.dst_cid,
            dst_cid: self.src_cid,
            src_port: self.dst_port,
            dst_port: self.src_port,
            len: 0,
            op: Op::Reset,
            flags: 0,
            buf_alloc: 0,
            fwd_cnt: 0,
            ..*self
        }
    }
}

/// The packet that ends a connection of the guest to the host.
pub(crate) fn reset_to(cid: GuestCid, guest_port: u32, host_port: u32) -> Header {
    Header {
        src_cid: Cid::HOST.get().into(),
        dst_cid: cid.get().into(),
        src_port: host_port,
        dst_port: guest_port,
        len: 0,
        kind: STREAM,
        op: Op::Reset,
        flags: 0,
        buf_alloc: 0,
        fwd_cnt: 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_header_that_is_parsed_has_the_same_bytes(bytes: [u8; 32], rest: [u8; 12]) {
            let bytes: [u8; 44] = [bytes.as_slice(), &rest].concat().try_into().unwrap();
            prop_assert_eq!(Header::parse(&bytes).bytes(), bytes);
        }
    }

    #[test]
    fn the_fields_are_where_the_specification_has_them() {
        let mut bytes = [0; 44];
        (0..44).for_each(|at| bytes[usize::from(at)] = at);
        bytes[30..32].copy_from_slice(&[5, 0]);
        let header = Header::parse(&bytes);
        assert_eq!(header.src_cid, 0x0706_0504_0302_0100);
        assert_eq!(header.dst_port, 0x1716_1514);
        assert_eq!((header.kind, header.op), (0x1d1c, Op::Data));
        assert_eq!(header.fwd_cnt, 0x2b2a_2928);
        assert_eq!(header.reset().dst_cid, header.src_cid);
    }
}
