//! The kernel's nbd driver through generic netlink (<linux/nbd-netlink.h>): connect, disconnect, and
//! list what is connected. These are a handful of messages with a few attributes, less code than a crate
//! would need.
//!
//! `device` and the commands call it. Lengths that the kernel reports are checked against the message
//! before use, although nobody can forge a message.

use std::{
    fs, io,
    os::fd::{AsRawFd, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv,
            send, setsockopt, socket, sockopt,
        },
        time::TimeVal,
    },
};

/// How long the kernel may take to answer, in seconds. It answers when it is done, and a disconnect
/// waits for the driver's workers.
const PATIENCE: i64 = 30;
/// How long another program that looks at an unconnected device may keep it open, and how often it is
/// tried again.
const LOOKED_AT: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(20);
/// The size of a message's header in bytes, without and with the generic header.
const HEADER: usize = 16;
const GENERIC: usize = 20;

const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const NLA_F_NESTED: u16 = 1 << 15;
const NLA_TYPE_MASK: u16 = !(3 << 14);

const CMD_CONNECT: u8 = 1;
const CMD_DISCONNECT: u8 = 2;
const CMD_STATUS: u8 = 5;
const ATTR_INDEX: u16 = 1;
const ATTR_SIZE_BYTES: u16 = 2;
const ATTR_BLOCK_SIZE_BYTES: u16 = 3;
const ATTR_SERVER_FLAGS: u16 = 5;
const ATTR_SOCKETS: u16 = 7;
const ATTR_DEVICE_LIST: u16 = 9;
const ATTR_BACKEND_IDENTIFIER: u16 = 10;
const SOCK_ITEM: u16 = 1;
const SOCK_FD: u16 = 1;
const DEVICE_ITEM: u16 = 1;
const DEVICE_INDEX: u16 = 1;
const DEVICE_CONNECTED: u16 = 2;

/// A disk for the driver to make.
#[derive(Debug)]
pub(super) struct Connect<'a> {
    /// N of /dev/nbdN. Without it the driver chooses one.
    pub(super) index: Option<u32>,
    pub(super) sockets: &'a [OwnedFd],
    pub(super) size: u64,
    pub(super) block: u32,
    /// The transmission flags, as a server sends them.
    pub(super) flags: u16,
    /// Shown in /sys/block/nbdN/backend.
    pub(super) identifier: &'a str,
}

/// A connection to the driver.
#[derive(Debug)]
pub(super) struct Driver {
    socket: OwnedFd,
    family: u16,
    sequence: u32,
}

impl Driver {
    /// Fails with ENOENT if the kernel has no such driver or has not loaded it.
    pub(super) fn open() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkGeneric,
        )?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(PATIENCE, 0))?;
        let mut driver = Self { socket, family: GENL_ID_CTRL, sequence: 0 };
        let mut name = Vec::new();
        put(&mut name, CTRL_ATTR_FAMILY_NAME, b"nbd\0");
        let answer = driver.ask(CTRL_CMD_GETFAMILY, &name)?;
        let id = find(&answer, CTRL_ATTR_FAMILY_ID).and_then(|bytes| bytes.try_into().ok());
        driver.family = id.map(u16::from_ne_bytes).ok_or(io::ErrorKind::InvalidData)?;
        Ok(driver)
    }

    /// Makes a disk and returns its number. The driver holds the sockets from then on.
    pub(super) fn connect(&mut self, disk: &Connect<'_>) -> io::Result<u32> {
        let mut words = Vec::new();
        if let Some(index) = disk.index {
            put(&mut words, ATTR_INDEX, &index.to_ne_bytes());
        }
        put(&mut words, ATTR_SIZE_BYTES, &disk.size.to_ne_bytes());
        put(&mut words, ATTR_BLOCK_SIZE_BYTES, &u64::from(disk.block).to_ne_bytes());
        put(&mut words, ATTR_SERVER_FLAGS, &u64::from(disk.flags).to_ne_bytes());
        let mut sockets = Vec::new();
        for fd in disk.sockets {
            let mut item = Vec::new();
            let number = u32::try_from(fd.as_raw_fd()).unwrap_or(u32::MAX);
            put(&mut item, SOCK_FD, &number.to_ne_bytes());
            put(&mut sockets, SOCK_ITEM | NLA_F_NESTED, &item);
        }
        put(&mut words, ATTR_SOCKETS | NLA_F_NESTED, &sockets);
        let mut identifier = disk.identifier.as_bytes().to_vec();
        identifier.push(0);
        put(&mut words, ATTR_BACKEND_IDENTIFIER, &identifier);
        // The driver reports EBUSY for a device that another process has open, as udev does while the
        // device is new.
        let until = Instant::now() + LOOKED_AT;
        let looked_at = |error: &io::Error| {
            error.raw_os_error() == Some(Errno::EBUSY as i32)
                && disk.index.is_some_and(|index| !is_connected(index))
                && Instant::now() < until
        };
        let answer = loop {
            match self.ask(CMD_CONNECT, &words) {
                Err(error) if looked_at(&error) => thread::park_timeout(LOOK),
                other => break other?,
            }
        };
        find_u32(&answer, ATTR_INDEX).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Disconnects a disk. Requests that are not yet answered fail.
    pub(super) fn disconnect(&mut self, index: u32) -> io::Result<()> {
        let mut words = Vec::new();
        put(&mut words, ATTR_INDEX, &index.to_ne_bytes());
        self.ask(CMD_DISCONNECT, &words).map(drop)
    }

    /// Returns the numbers of the disks that are connected.
    pub(super) fn connected(&mut self) -> io::Result<Vec<u32>> {
        let answer = self.ask(CMD_STATUS, &[])?;
        let list = find(&answer, ATTR_DEVICE_LIST).unwrap_or_default();
        let items = attributes(list).filter(|(kind, _)| *kind == DEVICE_ITEM);
        let connected = items.filter(|(_, item)| find(item, DEVICE_CONNECTED) == Some(&[1]));
        Ok(connected.filter_map(|(_, item)| find_u32(item, DEVICE_INDEX)).collect())
    }

    /// Sends one message and returns the attributes of the answer. They are empty if the answer is a
    /// bare acknowledgement.
    fn ask(&mut self, command: u8, attributes: &[u8]) -> io::Result<Vec<u8>> {
        self.sequence += 1;
        // An answer of the driver's own has attributes. The acknowledgement comes after it, and ends the
        // wait.
        let flags = NLM_F_REQUEST | NLM_F_ACK;
        let message = message(self.family, flags, self.sequence, command, attributes);
        send(self.socket.as_raw_fd(), &message, MsgFlags::empty())?;
        let mut said = Vec::new();
        loop {
            // The list of all devices is the longest answer: 20 bytes per device.
            let mut bytes = vec![0; 64 << 10];
            let n = match recv(self.socket.as_raw_fd(), &mut bytes, MsgFlags::empty()) {
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => return Err(io::ErrorKind::TimedOut.into()),
                other => other?,
            };
            let mut rest = bytes.get(..n).unwrap_or_default();
            while let Some((kind, sequence, body, after)) = split(rest) {
                rest = after;
                if sequence != self.sequence {
                    continue;
                }
                if kind != NLMSG_ERROR {
                    said = body.get(GENERIC - HEADER..).unwrap_or_default().to_vec();
                    continue;
                }
                let code = body.first_chunk().copied().map_or(-libc_eproto(), i32::from_ne_bytes);
                if code == 0 {
                    return Ok(said);
                }
                return Err(io::Error::from_raw_os_error(code.saturating_neg()));
            }
        }
    }
}

/// Whether a device has a server or a relay.
pub(super) fn is_connected(index: u32) -> bool {
    fs::exists(format!("/sys/block/nbd{index}/pid")).unwrap_or(false)
}

const fn libc_eproto() -> i32 {
    Errno::EPROTO as i32
}

/// Encodes a message with its headers.
fn message(family: u16, flags: u16, sequence: u32, command: u8, attributes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(GENERIC + attributes.len());
    let len = u32::try_from(GENERIC + attributes.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&len.to_ne_bytes());
    out.extend_from_slice(&family.to_ne_bytes());
    out.extend_from_slice(&flags.to_ne_bytes());
    out.extend_from_slice(&sequence.to_ne_bytes());
    out.extend_from_slice(&0_u32.to_ne_bytes());
    // The command, version 1, and two reserved bytes.
    out.extend_from_slice(&[command, 1, 0, 0]);
    out.extend_from_slice(attributes);
    out
}

/// Appends an attribute, padded to four bytes.
fn put(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let len = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&len.to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// Splits off the first message: its kind, its sequence number, its body, and the bytes after it.
fn split(bytes: &[u8]) -> Option<(u16, u32, &[u8], &[u8])> {
    let len = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let sequence = u32::from_ne_bytes(*bytes.get(8..)?.first_chunk()?);
    let body = bytes.get(HEADER..len)?;
    Some((kind, sequence, body, bytes.get(len.next_multiple_of(4)..).unwrap_or_default()))
}

/// The kind and value of each attribute, up to the first invalid one.
fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let len = usize::from(u16::from_ne_bytes(*rest.first_chunk()?));
        let kind = u16::from_ne_bytes(*rest.get(2..)?.first_chunk()?) & NLA_TYPE_MASK;
        let value = rest.get(4..len)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

fn find_u32(bytes: &[u8], kind: u16) -> Option<u32> {
    Some(u32::from_ne_bytes(find(bytes, kind)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_found_again() {
        let mut out = Vec::new();
        put(&mut out, 2, b"nbd\0");
        put(&mut out, 3, &[7]);
        let mut inner = Vec::new();
        put(&mut inner, SOCK_FD, &5_u32.to_ne_bytes());
        put(&mut out, 7 | NLA_F_NESTED, &inner);
        assert_eq!(out.len(), 8 + 8 + 12);
        assert_eq!(find(&out, 3), Some(&[7][..]));
        assert_eq!(find(&out, 7).and_then(|inner| find_u32(inner, SOCK_FD)), Some(5));
        assert_eq!(find(&out, 8), None);
    }

    #[test]
    fn cut_and_wrong_lengths_end_the_search() {
        let mut out = Vec::new();
        put(&mut out, 1, &9_u32.to_ne_bytes());
        for cut in 0..out.len() {
            assert_eq!(find(&out[..cut], 1), None);
        }
        for len in [0_u16, 3, 9, u16::MAX] {
            out[..2].copy_from_slice(&len.to_ne_bytes());
            assert_eq!(find_u32(&out, 1), None, "{len}");
        }
        let mut two = message(30, 5, 7, 1, &[]);
        two.extend(message(31, 5, 8, 1, &[1, 2, 3, 4]));
        let (kind, sequence, body, rest) = split(&two).unwrap();
        assert_eq!((kind, sequence, body), (30, 7, &[1, 1, 0, 0][..]));
        assert_eq!(split(rest).unwrap().1, 8);
        assert_eq!(split(&two[..19]), None);
        two[..4].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert_eq!(split(&two), None);
    }

    #[test]
    fn a_family_that_is_not_there_is_enoent() {
        // This machine may or may not have the driver; both answers are tested.
        match Driver::open() {
            Ok(driver) => assert!(driver.family > GENL_ID_CTRL),
            Err(error) => assert_eq!(error.raw_os_error(), Some(Errno::ENOENT as i32), "{error}"),
        }
    }
}
