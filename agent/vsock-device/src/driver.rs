//! A guest's driver that a test plays, over real rings in real guest memory. Only the tests of this
//! folder and the fuzz target (agent/fuzz, by `hostile`) have it.

use std::{
    ops::{Deref, DerefMut},
    path::Path,
    sync::Arc,
};

use tokio::sync::mpsc::{Receiver, channel};
use vhost_user_backend::VringT;
use vm_memory::{Bytes, GuestAddress, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::event::{EventFlag, new_event_consumer_and_notifier};

use super::{
    connection::Connection,
    device::{Device, Kick},
    header::{Header, Op, STREAM},
    host::Place,
    memory::Memory,
    peers::MOST,
    vring::Vring,
};

pub(super) const SIZE: u16 = 32;
pub(super) const MEMORY: usize = 1 << 20;
pub(super) const PORT: u32 = 10809;
/// Where the buffers of each queue are; the rings stand before them.
const BUFFERS: [u64; 2] = [0x10000, 0x80000];
pub(super) const BUFFER: u64 = 4096;

/// A guest's end of both queues.
pub(super) struct Rings {
    pub(super) memory: GuestMemoryMmap,
    /// Buffers given to the device, and buffers taken back, of each queue.
    given: [u16; 2],
    taken: [u16; 2],
}

/// A driver and its device, without a VMM between them.
pub(super) struct Driver {
    rings: Rings,
    pub(super) vrings: [Vring; 2],
    pub(super) device: Arc<Device>,
    pub(super) accepted: Receiver<Connection>,
}

impl Deref for Driver {
    type Target = Rings;

    fn deref(&self) -> &Rings {
        &self.rings
    }
}

impl DerefMut for Driver {
    fn deref_mut(&mut self) -> &mut Rings {
        &mut self.rings
    }
}

impl Driver {
    pub(super) fn new() -> Self {
        Self::over(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap())
    }

    /// In this memory, of at least `MEMORY` bytes.
    pub(super) fn over(memory: GuestMemoryMmap) -> Self {
        let vrings = [0, 1].map(|queue| {
            let vring = Vring::new(GuestMemoryAtomic::new(memory.clone()), SIZE).unwrap();
            vring.set_queue_size(SIZE);
            let [table, avail, used] = Rings::places(queue);
            vring.set_queue_info(table, avail, used).unwrap();
            vring.set_queue_ready(true);
            vring.set_enabled(true);
            vring
        });
        let (sender, accepted) = channel(MOST);
        let (_, notifier) = new_event_consumer_and_notifier(EventFlag::NONBLOCK).unwrap();
        let place = Place { path: Path::new("/vm").into(), cid: 3, port: PORT };
        let device = Arc::new(Device::new(place, sender, Kick::new(notifier)));
        device.set_memory(Memory::new(Arc::new(memory.clone())).unwrap());
        Self { rings: Rings::new(memory), vrings, device, accepted }
    }

    pub(super) fn kick(&self) {
        self.device.kicked(&self.vrings[0], &self.vrings[1]);
    }

    pub(super) fn send(&mut self, header: &Header, payload: &[u8]) {
        self.rings.send(header, payload);
        self.kick();
    }

    /// A connection, and the device's word that it is one.
    pub(super) fn connect(&mut self) -> Connection {
        self.send(&Rings::header(Op::Request, 0), &[]);
        assert_eq!(self.receive().unwrap().0.op, Op::Response);
        self.accepted.try_recv().unwrap()
    }
}

impl Rings {
    /// With room to receive.
    pub(super) fn new(memory: GuestMemoryMmap) -> Self {
        let mut rings = Self { memory, given: [0; 2], taken: [0; 2] };
        (0..SIZE / 2).for_each(|_| rings.give_room());
        rings
    }

    /// Addresses of the table, the available and the used ring.
    pub(super) fn places(queue: usize) -> [u64; 3] {
        let base = queue as u64 * 0x4000;
        [base + 0x1000, base + 0x2000, base + 0x3000]
    }

    /// Puts a chain of descriptors up: address, length, flags.
    pub(super) fn put(&mut self, queue: usize, chain: &[(u64, u32, u16)]) {
        let memory = &self.memory;
        let [table, avail, _] = Self::places(queue);
        let head = (self.given[queue] * 2) % SIZE;
        for (i, (at, len, flags)) in chain.iter().enumerate() {
            let index = (head + u16::try_from(i).unwrap()) % SIZE;
            let place = GuestAddress(table + 16 * u64::from(index));
            let more = u16::from(i + 1 < chain.len());
            memory.write_obj(*at, place).unwrap();
            memory.write_obj(*len, GuestAddress(place.0 + 8)).unwrap();
            memory.write_obj(flags | more, GuestAddress(place.0 + 12)).unwrap();
            memory.write_obj((index + 1) % SIZE, GuestAddress(place.0 + 14)).unwrap();
        }
        let slot = avail + 4 + 2 * u64::from(self.given[queue] % SIZE);
        memory.write_obj(head, GuestAddress(slot)).unwrap();
        self.given[queue] = self.given[queue].wrapping_add(1);
        memory.write_obj(self.given[queue], GuestAddress(avail + 2)).unwrap();
    }

    pub(super) fn buffer(&self, queue: usize) -> u64 {
        BUFFERS[queue] + BUFFER * u64::from(self.given[queue] % (SIZE / 2))
    }

    /// One buffer more to receive by.
    pub(super) fn give_room(&mut self) {
        let at = self.buffer(0);
        self.put(0, &[(at, u32::try_from(BUFFER).unwrap(), 2)]);
    }

    pub(super) fn header(op: Op, len: usize) -> Header {
        Header {
            src_cid: 3,
            dst_cid: 2,
            src_port: 77,
            dst_port: PORT,
            len: u32::try_from(len).unwrap(),
            kind: STREAM,
            op,
            flags: 0,
            buf_alloc: 1 << 20,
            fwd_cnt: 0,
        }
    }

    pub(super) fn send(&mut self, header: &Header, payload: &[u8]) {
        let at = self.buffer(1);
        let memory = &self.memory;
        memory.write_slice(&header.bytes(), GuestAddress(at)).unwrap();
        memory.write_slice(payload, GuestAddress(at + 44)).unwrap();
        let len = u32::try_from(payload.len()).unwrap();
        self.put(1, &[(at, 44, 0), (at + 44, len, 0)][..=usize::from(len > 0)]);
    }

    /// The next packet that the device has sent, and room for another.
    pub(super) fn receive(&mut self) -> Option<(Header, Vec<u8>)> {
        let memory = &self.memory;
        let [table, _, used] = Self::places(0);
        let at: u16 = memory.read_obj(GuestAddress(used + 2)).unwrap();
        if at == self.taken[0] {
            return None;
        }
        let slot = used + 4 + 8 * u64::from(self.taken[0] % SIZE);
        let (head, len): (u32, u32) = (
            memory.read_obj(GuestAddress(slot)).unwrap(),
            memory.read_obj(GuestAddress(slot + 4)).unwrap(),
        );
        self.taken[0] = self.taken[0].wrapping_add(1);
        let at: u64 = memory.read_obj(GuestAddress(table + 16 * u64::from(head))).unwrap();
        let mut bytes = [0; 44];
        memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        let mut payload = vec![0; len as usize - 44];
        memory.read_slice(&mut payload, GuestAddress(at + 44)).unwrap();
        self.give_room();
        Some((Header::parse(&bytes), payload))
    }
}
