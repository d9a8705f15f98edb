//! A VMM's end of vhost-user, which sends exactly what the test tells it to.

use std::{
    io::{self, IoSlice, Read},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    time::Duration,
};

use nix::sys::{
    eventfd::{EfdFlags, EventFd},
    memfd::{MFdFlags, memfd_create},
    socket::{ControlMessage, MsgFlags, sendmsg},
};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};

use super::rings::{MEMORY, Rings};

/// Numbers of the messages (QEMU's docs/interop/vhost-user.rst).
pub mod code {
    pub const GET_FEATURES: u32 = 1;
    pub const SET_FEATURES: u32 = 2;
    pub const SET_OWNER: u32 = 3;
    pub const RESET_OWNER: u32 = 4;
    pub const SET_MEM_TABLE: u32 = 5;
    pub const SET_LOG_BASE: u32 = 6;
    pub const SET_VRING_NUM: u32 = 8;
    pub const SET_VRING_ADDR: u32 = 9;
    pub const SET_VRING_BASE: u32 = 10;
    pub const GET_VRING_BASE: u32 = 11;
    pub const SET_VRING_KICK: u32 = 12;
    pub const SET_VRING_CALL: u32 = 13;
    pub const SET_VRING_ERR: u32 = 14;
    pub const GET_PROTOCOL_FEATURES: u32 = 15;
    pub const SET_PROTOCOL_FEATURES: u32 = 16;
    pub const GET_QUEUE_NUM: u32 = 17;
    pub const SET_VRING_ENABLE: u32 = 18;
    pub const GET_CONFIG: u32 = 24;
    pub const SET_CONFIG: u32 = 25;
    pub const RESET_DEVICE: u32 = 34;
    pub const ADD_MEM_REG: u32 = 37;
}

/// VIRTIO_F_VERSION_1, VHOST_USER_F_PROTOCOL_FEATURES, VIRTIO_RING_F_INDIRECT_DESC.
pub const PLAIN: u64 = 1 << 32 | 1 << 30 | 1 << 28;
/// The same with VIRTIO_RING_F_EVENT_IDX, as Linux's driver has it.
pub const EVENT_IDX: u64 = PLAIN | 1 << 29;
/// VHOST_USER_PROTOCOL_F_REPLY_ACK, CONFIG and RESET_DEVICE.
pub const PROTOCOL: u64 = 1 << 3 | 1 << 9 | 1 << 13;
/// Where the guest's memory is in the VMM, as it says.
pub const USER: u64 = 0x7f00_0000_0000;

const VERSION: u32 = 1;
/// Longer than any answer takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A VMM that has connected.
#[derive(Debug)]
pub struct Vmm {
    pub socket: UnixStream,
    pub memory: OwnedFd,
    pub kicks: [EventFd; 2],
    pub calls: [EventFd; 2],
}

impl Vmm {
    pub fn connect(path: &Path) -> io::Result<Self> {
        Self::over(UnixStream::connect(path)?)
    }

    /// Over a socket that is connected.
    pub fn over(socket: UnixStream) -> io::Result<Self> {
        socket.set_read_timeout(Some(PATIENCE))?;
        let memory = memfd_create(c"guest", MFdFlags::MFD_CLOEXEC)?;
        nix::unistd::ftruncate(&memory, MEMORY as i64)?;
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let event = || EventFd::from_flags(flags);
        Ok(Self { socket, memory, kicks: [event()?, event()?], calls: [event()?, event()?] })
    }

    /// The guest's memory, as its driver sees it.
    pub fn map(&self) -> io::Result<GuestMemoryMmap> {
        let file = FileOffset::new(self.memory.try_clone()?.into(), 0);
        GuestMemoryMmap::from_ranges_with_files([(GuestAddress(0), MEMORY, Some(file))])
            .map_err(io::Error::other)
    }

    /// Sends a message as it is.
    pub fn say(&self, code: u32, body: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
        let len = u32::try_from(body.len()).map_err(io::Error::other)?;
        let header = [code, VERSION, len].map(u32::to_ne_bytes).concat();
        self.send(&[header.as_slice(), body].concat(), files)
    }

    /// Sends bytes as they are.
    pub fn send(&self, bytes: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
        let numbers: Vec<_> = files.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        let rights = if numbers.is_empty() { &[] } else { &rights[..] };
        let fd = self.socket.as_raw_fd();
        let flags = MsgFlags::MSG_NOSIGNAL;
        let n = sendmsg::<()>(fd, &[IoSlice::new(bytes)], rights, flags, None)?;
        if n < bytes.len() { Err(io::ErrorKind::WriteZero.into()) } else { Ok(()) }
    }

    /// The body of the next reply.
    pub fn reply(&self) -> io::Result<Vec<u8>> {
        let mut header = [0; 12];
        (&self.socket).read_exact(&mut header)?;
        let len = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
        let mut body = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        (&self.socket).read_exact(&mut body)?;
        Ok(body)
    }

    /// Sends a message and returns the reply.
    pub fn ask(&self, code: u32, body: &[u8]) -> io::Result<Vec<u8>> {
        self.say(code, body, &[])?;
        self.reply()
    }

    /// Returns when the device has processed all earlier messages.
    pub fn settle(&self) -> io::Result<()> {
        self.ask(code::GET_FEATURES, &[]).map(drop)
    }

    /// Sends the messages that come before those of the rings, with these features.
    pub fn greet(&self, features: u64) -> io::Result<()> {
        self.ask(code::GET_FEATURES, &[])?;
        self.ask(code::GET_PROTOCOL_FEATURES, &[])?;
        self.say(code::SET_PROTOCOL_FEATURES, &PROTOCOL.to_ne_bytes(), &[])?;
        self.say(code::SET_OWNER, &[], &[])?;
        self.say(code::SET_FEATURES, &features.to_ne_bytes(), &[])
    }

    /// All of the memory, as one region.
    pub fn give_memory(&self) -> io::Result<()> {
        self.give_regions(&[(0, MEMORY as u64, USER, 0)], &[self.memory.as_fd()])
    }

    /// Regions: guest's address, length, the VMM's address, offset in the file.
    pub fn give_regions(
        &self,
        regions: &[(u64, u64, u64, u64)],
        files: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let count = regions.len() as u64;
        let numbers = regions.iter().flat_map(|&(at, len, user, offset)| [at, len, user, offset]);
        let body: Vec<_> = std::iter::once(count).chain(numbers).collect();
        self.say(code::SET_MEM_TABLE, &body.map_bytes(), files)
    }

    pub fn ring(&self, code: u32, queue: usize, value: u32) -> io::Result<()> {
        self.say(code, &pair(queue, value), &[])
    }

    pub fn event(&self, code: u32, queue: usize, event: BorrowedFd<'_>) -> io::Result<()> {
        self.say(code, &(queue as u64).to_ne_bytes(), &[event])
    }

    /// A ring that begins at `base`, started and enabled.
    pub fn start(&self, queue: usize, size: u16, base: u16) -> io::Result<()> {
        self.ring(code::SET_VRING_NUM, queue, size.into())?;
        self.ring(code::SET_VRING_BASE, queue, base.into())?;
        let [table, avail, used] = Rings::places(queue).map(|at| USER + at);
        let body = [queue as u64, table, used, avail, 0].as_slice().map_bytes();
        self.say(code::SET_VRING_ADDR, &body, &[])?;
        self.event(code::SET_VRING_KICK, queue, self.kicks[queue].as_fd())?;
        self.event(code::SET_VRING_CALL, queue, self.calls[queue].as_fd())?;
        self.ring(code::SET_VRING_ENABLE, queue, 1)
    }

    /// Stops a ring, and returns its place.
    pub fn stop(&self, queue: usize) -> io::Result<u16> {
        let body = self.ask(code::GET_VRING_BASE, &pair(queue, 0))?;
        let base = body.get(4..6).and_then(|bytes| bytes.try_into().ok());
        base.map(u16::from_ne_bytes).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// A device that runs, with rings of `size`.
    pub fn set_up(&self, features: u64, size: u16) -> io::Result<()> {
        self.greet(features)?;
        self.give_memory()?;
        self.start(super::rings::RX, size, 0)?;
        self.start(super::rings::TX, size, 0)?;
        self.settle()
    }

    /// Kicks a queue.
    pub fn kick(&self, queue: usize) {
        // Full only where a test filled it.
        self.kicks[queue].write(1).ok();
    }
}

fn pair(queue: usize, value: u32) -> Vec<u8> {
    [u32::try_from(queue).unwrap_or(u32::MAX), value].map(u32::to_ne_bytes).concat()
}

/// Numbers as they stand in a message.
trait MapBytes {
    fn map_bytes(&self) -> Vec<u8>;
}

impl MapBytes for [u64] {
    fn map_bytes(&self) -> Vec<u8> {
        self.iter().flat_map(|number| number.to_ne_bytes()).collect()
    }
}
