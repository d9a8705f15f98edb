//! A guest whose driver behaves as Linux's: connections with credit, over a VMM that the test controls.

use std::{
    collections::{HashMap, VecDeque},
    io,
    os::fd::AsFd,
    path::Path,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{
    rings::{BUFFER, RX, Rings, TX},
    vmm::{EVENT_IDX, Vmm},
};
use crate::header::{Header, NO_MORE_RECEIVED, NO_MORE_SENT, Op, STREAM};

/// Descriptors of a queue, as QEMU has them.
pub const QUEUE: u16 = 128;
/// The buffer of a socket of the guest, in bytes (SO_VM_SOCKETS_BUFFER_SIZE).
const WINDOW: u32 = 256 * 1024;
/// Most bytes of payload of a packet.
const PACKET: usize = 64 * 1024;
/// Longer than any answer takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A guest of one processor.
#[derive(Debug)]
pub struct Guest {
    pub vmm: Vmm,
    pub rings: Rings,
    pub sockets: HashMap<u32, Socket>,
    cid: u64,
    window: u32,
    packet: Vec<u8>,
    /// The number of receive buffers that were emptied and not provided again.
    idle: Vec<u16>,
    last_port: u32,
}

/// One connection of the guest.
#[derive(Debug, Default)]
pub struct Socket {
    pub received: VecDeque<u8>,
    /// Bytes received since the beginning.
    pub bytes: u64,
    /// The host has answered, has ended the connection.
    pub open: bool,
    pub reset: bool,
    port: u32,
    /// Count received bytes instead of keeping them.
    pub discards: bool,
    taken: u32,
    told: u32,
    sent: u32,
    peer_buf_alloc: u32,
    peer_fwd_cnt: u32,
    unsent: VecDeque<u8>,
}

impl Guest {
    /// Boots on a VMM that connects to `path`.
    pub fn boot(path: &Path, cid: u64) -> io::Result<Self> {
        Self::boot_on(Vmm::connect(path)?, cid)
    }

    pub fn boot_on(vmm: Vmm, cid: u64) -> io::Result<Self> {
        Self::boot_with(vmm, cid, QUEUE, WINDOW)
    }

    /// With queues of `size`, and of each connection's bytes that many that are not taken yet.
    pub fn boot_with(vmm: Vmm, cid: u64, size: u16, window: u32) -> io::Result<Self> {
        let mut rings = Rings::new(vmm.map()?, size, true);
        vmm.set_up(EVENT_IDX, size)?;
        (0..size).for_each(|index| rings.give_room(index));
        let mut guest = Self {
            window,
            vmm,
            rings,
            sockets: HashMap::new(),
            cid,
            packet: Vec::new(),
            idle: Vec::new(),
            last_port: 1024,
        };
        guest.kick();
        Ok(guest)
    }

    /// Connects to a port of the host and waits for the answer; its own port names the connection.
    pub fn connect(&mut self, port: u32) -> io::Result<u32> {
        self.last_port += 1;
        let own = self.last_port;
        self.sockets.insert(own, Socket { port, ..Socket::default() });
        self.packet(own, Op::Request, 0);
        self.wait_for(|guest| {
            let socket = &guest.sockets[&own];
            socket.open || socket.reset
        })?;
        if self.sockets[&own].reset {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(own)
    }

    /// Its VMM stops the rings, and its driver begins anew: it has no connections then.
    pub fn reboot(&mut self) -> io::Result<()> {
        let size = self.rings.size();
        for queue in [RX, TX] {
            self.vmm.stop(queue)?;
        }
        self.rings = Rings::new(self.rings.memory.clone(), size, true);
        self.rings.wipe();
        (0..size).for_each(|index| self.rings.give_room(index));
        for queue in [RX, TX] {
            self.vmm.start(queue, size, 0)?;
        }
        self.vmm.settle()?;
        self.sockets.clear();
        self.idle.clear();
        self.kick();
        Ok(())
    }

    /// Resets a connection.
    pub fn reset(&mut self, own: u32) {
        self.packet(own, Op::Reset, 0);
        self.sockets.remove(&own);
    }

    /// Shuts down both directions, and forgets the connection.
    pub fn close(&mut self, own: u32) {
        self.packet(own, Op::Shutdown, NO_MORE_RECEIVED | NO_MORE_SENT);
        self.sockets.remove(&own);
    }

    fn header(&mut self, own: u32, op: Op, flags: u32, len: usize) -> [u8; 44] {
        let socket = self.sockets.get_mut(&own).expect("a socket");
        socket.told = socket.taken;
        let header = Header {
            src_cid: self.cid,
            dst_cid: 2,
            src_port: own,
            dst_port: socket.port,
            len: u32::try_from(len).expect("a packet"),
            kind: STREAM,
            op,
            flags,
            buf_alloc: self.window,
            fwd_cnt: socket.taken,
        };
        header.bytes()
    }

    fn packet(&mut self, own: u32, op: Op, flags: u32) {
        let header = self.header(own, op, flags, 0);
        while !self.rings.send(&header, &[]) {
            self.kick();
            std::thread::yield_now();
        }
        self.kick();
    }

    /// Sends as the host has room for it.
    pub fn send(&mut self, own: u32, bytes: &[u8]) {
        self.sockets.get_mut(&own).expect("a socket").unsent.extend(bytes);
        self.send_what_goes(own);
        self.kick();
    }

    fn send_what_goes(&mut self, own: u32) {
        while let Some(socket) = self.sockets.get_mut(&own).filter(|one| !one.unsent.is_empty()) {
            let under_way = socket.sent.wrapping_sub(socket.peer_fwd_cnt);
            let room = socket.peer_buf_alloc.saturating_sub(under_way) as usize;
            let len = socket.unsent.len().min(room).min(PACKET);
            if len == 0 {
                return;
            }
            let bytes: Vec<u8> = socket.unsent.range(..len).copied().collect();
            let header = self.header(own, Op::Data, 0, len);
            if !self.rings.send(&header, &bytes) {
                return;
            }
            let socket = self.sockets.get_mut(&own).expect("as before");
            socket.sent = socket.sent.wrapping_add(u32::try_from(len).expect("a packet"));
            socket.unsent.drain(..len);
        }
    }

    /// Bytes that wait for room at the host.
    pub fn is_all_sent(&self, own: u32) -> bool {
        self.sockets[&own].unsent.is_empty()
    }

    /// Takes the received bytes of a connection that keeps them.
    pub fn take(&mut self, own: u32, len: usize) -> io::Result<Vec<u8>> {
        self.wait_for(|guest| {
            let socket = &guest.sockets[&own];
            socket.received.len() >= len || socket.reset
        })?;
        let socket = self.sockets.get_mut(&own).expect("a socket");
        if socket.received.len() < len {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(socket.received.drain(..len).collect())
    }

    fn kick(&mut self) {
        for queue in [RX, TX] {
            if self.rings.wants_kick(queue) {
                self.vmm.kick(queue);
            }
        }
    }

    /// Waits for packets of the device, at most this long, and processes them. Returns false if none came.
    pub fn turn(&mut self, most: Duration) -> io::Result<bool> {
        let mut some = self.take_in();
        if !some && !most.is_zero() {
            let timeout = PollTimeout::try_from(most).unwrap_or(PollTimeout::MAX);
            let mut fds: Vec<_> = (self.vmm.calls.iter())
                .map(|call| PollFd::new(call.as_fd(), PollFlags::POLLIN))
                .collect();
            poll(&mut fds, timeout)?;
            self.vmm.calls.iter().for_each(|call| _ = call.read());
            some = self.take_in();
        }
        let ports: Vec<_> = (self.sockets.iter())
            .filter(|(_, socket)| !socket.unsent.is_empty())
            .map(|(own, _)| *own)
            .collect();
        for own in ports {
            self.send_what_goes(own);
        }
        self.kick();
        Ok(some)
    }

    /// Processes packets until the condition holds.
    pub fn wait_for(&mut self, done: impl Fn(&Self) -> bool) -> io::Result<()> {
        let begun = Instant::now();
        while !done(self) {
            if begun.elapsed() > PATIENCE {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.turn(Duration::from_millis(100))?;
        }
        Ok(())
    }

    fn take_in(&mut self) -> bool {
        let mut some = false;
        let mut packet = std::mem::take(&mut self.packet);
        while let Some(index) = self.rings.receive(&mut packet) {
            some = true;
            self.idle.push(index);
            // As Linux: in bunches of half a queue.
            if self.idle.len() >= usize::from(self.rings.size() / 2) {
                self.idle.drain(..).for_each(|index| self.rings.give_room(index));
                self.kick();
            }
            let (head, payload) = packet.split_first_chunk().expect("a header");
            self.packet_came(&Header::parse(head), payload);
        }
        self.packet = packet;
        some
    }

    fn packet_came(&mut self, header: &Header, payload: &[u8]) {
        let own = header.dst_port;
        let Some(socket) = self.sockets.get_mut(&own) else { return };
        (socket.peer_buf_alloc, socket.peer_fwd_cnt) = (header.buf_alloc, header.fwd_cnt);
        match header.op {
            Op::Response => socket.open = true,
            Op::Reset => socket.reset = true,
            Op::Data => {
                socket.bytes += payload.len() as u64;
                if !socket.discards {
                    socket.received.extend(payload);
                }
                let len = u32::try_from(payload.len()).expect("a packet");
                socket.taken = socket.taken.wrapping_add(len);
                // As Linux: when the host knows of less room than a packet takes.
                let known = self.window - socket.taken.wrapping_sub(socket.told);
                if known < u32::try_from(PACKET).expect("small") {
                    self.packet(own, Op::CreditUpdate, 0);
                }
            }
            Op::Shutdown => {
                let both = NO_MORE_RECEIVED | NO_MORE_SENT;
                if header.flags & both == both {
                    socket.reset = true;
                    self.packet(own, Op::Reset, 0);
                }
            }
            _ => {}
        }
    }
}

const _: () = assert!(BUFFER > 44);
