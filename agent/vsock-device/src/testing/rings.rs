//! A driver's end of both queues, over real rings in guest memory.

use std::sync::atomic::{Ordering, fence};

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// The queue that the guest receives by.
pub const RX: usize = 0;
/// The queue that the guest sends by.
pub const TX: usize = 1;
/// Descriptor flags: another one follows; the device writes; it is a table of descriptors.
pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;
/// Bytes of a receive buffer, as in Linux's driver.
pub const BUFFER: u32 = 4096;

/// Where a queue's rings are, and where its buffers are.
const RINGS: [u64; 2] = [0x1_0000, 0x2_0000];
const BUFFERS: [u64; 2] = [0x10_0000, 0x80_0000];
/// Bytes of a send buffer: a header and the largest packet.
const SEND_BUFFER: u64 = 0x1_1000;
/// Memory that all of this is in, bytes.
pub const MEMORY: usize = 16 << 20;

/// A descriptor as it stands in a table: address, length, flags.
pub type Descriptor = (u64, u32, u16);

/// A driver's end of both queues.
#[derive(Debug)]
pub struct Rings {
    pub memory: GuestMemoryMmap,
    size: u16,
    event_idx: bool,
    queues: [Queue; 2],
    /// Slots of the TX queue that hold no packet.
    free: Vec<u16>,
}

/// What the driver knows of one queue.
#[derive(Debug, Default, Clone, Copy)]
struct Queue {
    /// Chains given to the device, and how many of them it has been kicked for.
    given: u16,
    kicked: u16,
    /// Chains taken back.
    taken: u16,
}

impl Rings {
    /// Queues of `size` descriptors each. The device has nothing yet.
    pub fn new(memory: GuestMemoryMmap, size: u16, event_idx: bool) -> Self {
        let free = (0..(size / 2).min(MOST_SENT)).collect();
        Self { memory, size, event_idx, queues: Default::default(), free }
    }

    /// Empties the rings, as a driver does that begins.
    pub fn wipe(&self) {
        for place in RINGS {
            self.memory
                .write_slice(&[0; 0xc000], GuestAddress(place))
                .expect("inside of the memory");
        }
    }

    pub fn size(&self) -> u16 {
        self.size
    }

    /// Takes back what the device has given back. Returns whether it has no packet any more, and has given each back
    /// once.
    pub fn has_all_back(&mut self) -> bool {
        while let Some((head, _)) = self.take(TX) {
            self.free.push(head / 2);
        }
        let mut slots = self.free.clone();
        slots.sort_unstable();
        slots.into_iter().eq(0..(self.size / 2).min(MOST_SENT))
    }

    /// Addresses of the table, the available and the used ring.
    pub fn places(queue: usize) -> [u64; 3] {
        let base = RINGS[queue];
        [base, base + 0x4000, base + 0x8000]
    }

    /// Address of a buffer that is the caller's to fill.
    pub fn buffer(queue: usize, index: u16) -> u64 {
        let size = if queue == RX { BUFFER.into() } else { SEND_BUFFER };
        BUFFERS[queue] + size * u64::from(index)
    }

    fn write<T: vm_memory::ByteValued>(&self, value: T, at: u64) {
        self.memory.write_obj(value, GuestAddress(at)).expect("inside of the memory");
    }

    fn read<T: vm_memory::ByteValued>(&self, at: u64) -> T {
        self.memory.read_obj(GuestAddress(at)).expect("inside of the memory")
    }

    /// Writes a chain into a table at `table`, its first descriptor at `head`.
    pub fn write_table(&self, table: u64, head: u16, chain: &[Descriptor]) {
        for (i, &(at, len, flags)) in chain.iter().enumerate() {
            let index = head.wrapping_add(u16::try_from(i).expect("a short chain"));
            let place = table + 16 * u64::from(index);
            let more = if i + 1 < chain.len() { NEXT } else { 0 };
            self.write(at, place);
            self.write(len, place + 8);
            self.write(flags | more, place + 12);
            self.write(index.wrapping_add(1), place + 14);
        }
    }

    /// Gives the device the chain that begins at `head`.
    pub fn give(&mut self, queue: usize, head: u16) {
        let [_, avail, _] = Self::places(queue);
        let given = self.queues[queue].given;
        self.write(head, avail + 4 + 2 * u64::from(given % self.size));
        self.queues[queue].given = given.wrapping_add(1);
        fence(Ordering::Release);
        self.write(given.wrapping_add(1), avail + 2);
    }

    /// Writes a chain at `head` of the queue's own table and gives it to the device.
    pub fn put(&mut self, queue: usize, head: u16, chain: &[Descriptor]) {
        self.write_table(Self::places(queue)[0], head, chain);
        self.give(queue, head);
    }

    /// The next chain that the device gave back: its head, and how much was written.
    pub fn take(&mut self, queue: usize) -> Option<(u16, u32)> {
        let [_, avail, used] = Self::places(queue);
        let taken = self.queues[queue].taken;
        if self.read::<u16>(used + 2) == taken {
            // Asks for an interrupt, and looks once more.
            self.write(taken, avail + 4 + 2 * u64::from(self.size));
            fence(Ordering::SeqCst);
            if self.read::<u16>(used + 2) == taken {
                return None;
            }
        }
        fence(Ordering::Acquire);
        let slot = used + 4 + 8 * u64::from(taken % self.size);
        self.queues[queue].taken = taken.wrapping_add(1);
        let head: u32 = self.read(slot);
        Some((u16::try_from(head).expect("a head"), self.read(slot + 4)))
    }

    /// Whether the device wants a kick for the chains that were given since the last call.
    pub fn wants_kick(&mut self, queue: usize) -> bool {
        let known = &mut self.queues[queue];
        let (old, new) = (known.kicked, known.given);
        known.kicked = new;
        if old == new {
            return false;
        }
        if !self.event_idx {
            return true;
        }
        fence(Ordering::SeqCst);
        let event: u16 = self.read(Self::places(queue)[2] + 4 + 8 * u64::from(self.size));
        new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
    }

    /// Gives receive buffer `index`, of one descriptor, to the device.
    pub fn give_room(&mut self, index: u16) {
        self.put(RX, index, &[(Self::buffer(RX, index), BUFFER, WRITE)]);
    }

    /// Sends a packet; false if all send buffers are under way.
    pub fn send(&mut self, header: &[u8; 44], payload: &[u8]) -> bool {
        while let Some((head, _)) = self.take(TX) {
            self.free.push(head / 2);
        }
        let Some(slot) = self.free.pop() else { return false };
        self.throw(slot, header, payload);
        true
    }

    /// Sends a packet by this send buffer, even if the buffer is in use.
    pub fn throw(&mut self, slot: u16, header: &[u8; 44], payload: &[u8]) {
        let at = Self::buffer(TX, slot);
        self.memory.write_slice(header, GuestAddress(at)).expect("inside of the memory");
        self.memory.write_slice(payload, GuestAddress(at + 44)).expect("a packet of 64 KiB");
        let len = u32::try_from(payload.len()).expect("a packet");
        let chain = [(at, 44, 0), (at + 44, len, 0)];
        self.put(TX, slot * 2, &chain[..=usize::from(len > 0)]);
    }

    /// The next packet from the device, in buffer `index`: its header and payload are in `into`.
    pub fn receive(&mut self, into: &mut Vec<u8>) -> Option<u16> {
        let (index, len) = self.take(RX)?;
        into.resize(usize::try_from(len).expect("a length"), 0);
        let at = GuestAddress(Self::buffer(RX, index));
        self.memory.read_slice(into, at).expect("inside of the memory");
        Some(index)
    }
}

/// Packets that are sent and not taken back: so many have room in the memory.
const MOST_SENT: u16 = 96;

const _: () = assert!(BUFFERS[TX] + SEND_BUFFER * MOST_SENT as u64 <= MEMORY as u64);
const _: () = assert!(BUFFERS[RX] + 1024 * BUFFER as u64 <= BUFFERS[TX]);
