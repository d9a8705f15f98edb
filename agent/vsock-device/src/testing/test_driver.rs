//! A driver and its device, without a VMM.

use std::{path::Path, sync::Arc};

use tokio::sync::mpsc::{Receiver, channel};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::rings::{MEMORY, RX, Rings};
use crate::{
    connection::Connection,
    connections::MAX_CONNECTIONS,
    device::Device,
    header::{Header, Op, STREAM},
    log::Log,
    memory::{Memory, Quota},
    place::Place,
    ring::Which,
    vhost_user::message::Places,
};

/// Descriptors of a queue.
pub(crate) const SIZE: u16 = 32;
pub(crate) const PORT: u32 = 10809;

/// A driver and its device.
pub(crate) struct Driver {
    pub(crate) rings: Rings,
    pub(crate) device: Arc<Device>,
    pub(crate) accepted: Receiver<Connection>,
    thrown: u16,
}

impl Driver {
    pub(crate) fn new() -> Self {
        Self::over(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap())
    }

    /// In this memory, of at least `MEMORY` bytes.
    pub(crate) fn over(memory: GuestMemoryMmap) -> Self {
        let (sender, accepted) = channel(MAX_CONNECTIONS);
        let path: Arc<Path> = Path::new("/vm").into();
        let log = Arc::new(Log::new(Arc::clone(&path)));
        let place = Place { path, cid: crate::DEFAULT_CID, port: PORT };
        let device = Arc::new(Device::new(&place, log, sender, &Quota::new(), None).unwrap());
        device.set_memory(Memory::of(memory.clone()).unwrap());
        let mut driver =
            Self { rings: Rings::new(memory, SIZE, false), device, accepted, thrown: 0 };
        driver.start(SIZE);
        driver
    }

    /// Starts both queues from their beginning, with room to receive.
    pub(crate) fn start(&mut self, size: u16) {
        self.rings = Rings::new(self.rings.memory.clone(), size, false);
        self.rings.wipe();
        for which in [Which::Rx, Which::Tx] {
            let memory = self.device.lock().memory.clone().unwrap();
            let [table, avail, used] = Rings::places(which as usize);
            let mut inner = self.device.lock();
            let ring = inner.ring(which);
            ring.set_size(size.into()).unwrap();
            ring.set_base(0);
            ring.set_places(Places { table, avail, used }, &memory).unwrap();
            drop(inner);
            self.device.start(which);
            self.device.enable(which, true);
        }
        (0..size).for_each(|index| self.rings.give_room(index));
    }

    /// Runs the device on both queues until it is idle.
    pub(crate) fn kick(&self) {
        while self.device.look(true).more {}
        self.device.make_room(true);
    }

    pub(crate) fn header(op: Op, len: usize) -> Header {
        Header {
            src_cid: crate::DEFAULT_CID.get().into(),
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

    /// Puts a packet up, and does not kick.
    pub(crate) fn put(&mut self, header: &Header, payload: &[u8]) -> bool {
        self.rings.send(&header.bytes(), payload)
    }

    /// Puts a packet into the next send buffer, whether the device is done with it or not.
    pub(crate) fn throw(&mut self, header: &Header, payload: &[u8]) {
        self.thrown = (self.thrown + 1) % (SIZE / 2);
        self.rings.throw(self.thrown, &header.bytes(), payload);
    }

    pub(crate) fn send(&mut self, header: &Header, payload: &[u8]) {
        assert!(self.put(header, payload), "the queue is full");
        self.kick();
    }

    /// The next packet that the device has sent; its buffer is given again.
    pub(crate) fn receive(&mut self) -> Option<(Header, Vec<u8>)> {
        let mut packet = Vec::new();
        let index = self.rings.receive(&mut packet)?;
        self.rings.give_room(index);
        let (head, payload) = packet.split_first_chunk().expect("a header");
        Some((Header::parse(head), payload.to_vec()))
    }

    /// Connects from a port of the guest, and checks the device's response.
    pub(crate) fn connect_from(&mut self, src_port: u32) -> Connection {
        self.send(&Header { src_port, ..Self::header(Op::Request, 0) }, &[]);
        assert_eq!(self.receive().unwrap().0.op, Op::Response);
        self.accepted.try_recv().unwrap()
    }

    pub(crate) fn connect(&mut self) -> Connection {
        self.connect_from(77)
    }
}

const _: () = assert!(Which::Rx as usize == RX);
