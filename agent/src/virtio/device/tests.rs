//! The device against a driver that a test plays, over real rings in real guest memory.

use std::task::Waker;

use proptest::{collection::vec, prelude::*};
use tokio::sync::mpsc::{Receiver, channel};
use vhost_user_backend::VringT;
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::event::{EventFlag, new_event_consumer_and_notifier};

use super::{
    super::header::{NO_MORE_RECEIVED, NO_MORE_SENT, STREAM},
    *,
};

const SIZE: u16 = 32;
const MEMORY: usize = 1 << 20;
const PORT: u32 = 10809;
/// Where the buffers of each queue are; the rings stand before them.
const BUFFERS: [u64; 2] = [0x10000, 0x80000];
const BUFFER: u64 = 4096;

/// A guest's driver.
struct Driver {
    memory: Memory,
    vrings: [Vring; 2],
    /// Buffers given to the device, and buffers taken back, of each queue.
    given: [u16; 2],
    taken: [u16; 2],
    device: Arc<Device>,
    accepted: Receiver<Connection>,
}

impl Driver {
    fn new() -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap();
        let memory = GuestMemoryAtomic::new(memory);
        let vrings = [0, 1].map(|queue| {
            let vring = Vring::new(memory.clone(), SIZE).unwrap();
            vring.set_queue_size(SIZE);
            let [table, avail, used] = Self::rings(queue);
            vring.set_queue_info(table, avail, used).unwrap();
            vring.set_queue_ready(true);
            vring.set_enabled(true);
            vring
        });
        let (sender, accepted) = channel(MOST);
        let (_, notifier) = new_event_consumer_and_notifier(EventFlag::NONBLOCK).unwrap();
        let place = Place { path: Path::new("/vm").into(), cid: 3, port: PORT };
        let device = Arc::new(Device::new(place, sender, Kick::new(notifier)));
        device.set_memory(memory.clone());
        let mut driver = Self { memory, vrings, given: [0; 2], taken: [0; 2], device, accepted };
        for _ in 0..SIZE / 2 {
            driver.give_room();
        }
        driver
    }

    fn rings(queue: usize) -> [u64; 3] {
        let base = queue as u64 * 0x4000;
        [base + 0x1000, base + 0x2000, base + 0x3000]
    }

    /// Puts a chain of descriptors up: address, length, flags.
    fn put(&mut self, queue: usize, chain: &[(u64, u32, u16)]) {
        let memory = self.memory.memory();
        let [table, avail, _] = Self::rings(queue);
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

    fn buffer(&self, queue: usize) -> u64 {
        BUFFERS[queue] + BUFFER * u64::from(self.given[queue] % (SIZE / 2))
    }

    /// One buffer more to receive by.
    fn give_room(&mut self) {
        let at = self.buffer(0);
        self.put(0, &[(at, u32::try_from(BUFFER).unwrap(), 2)]);
    }

    fn kick(&self) {
        self.device.kicked(&self.vrings[0], &self.vrings[1]);
    }

    fn header(op: Op, len: usize) -> Header {
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

    fn send(&mut self, header: &Header, payload: &[u8]) {
        let at = self.buffer(1);
        let memory = self.memory.memory();
        memory.write_slice(&header.bytes(), GuestAddress(at)).unwrap();
        memory.write_slice(payload, GuestAddress(at + 44)).unwrap();
        let len = u32::try_from(payload.len()).unwrap();
        self.put(1, &[(at, 44, 0), (at + 44, len, 0)][..=usize::from(len > 0)]);
        self.kick();
    }

    /// The next packet that the device has sent, and room for another.
    fn receive(&mut self) -> Option<(Header, Vec<u8>)> {
        let memory = self.memory.memory();
        let [table, _, used] = Self::rings(0);
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

    /// A connection, and the device's word that it is one.
    fn connect(&mut self) -> Connection {
        self.send(&Self::header(Op::Request, 0), &[]);
        assert_eq!(self.receive().unwrap().0.op, Op::Response);
        self.accepted.try_recv().unwrap()
    }
}

fn read(connection: &Connection, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let n = connection.try_recv(&mut [IoSliceMut::new(&mut bytes)])?;
    bytes.truncate(n);
    Ok(bytes)
}

#[test]
fn bytes_go_both_ways_and_both_ends_end() {
    let mut driver = Driver::new();
    let connection = driver.connect();
    assert_eq!(connection.port(), 77);
    assert_eq!(read(&connection, 9).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    driver.send(&Driver::header(Op::Data, 5), b"hello");
    driver.send(&Driver::header(Op::Data, 6), b" world");
    assert_eq!(read(&connection, 7).unwrap(), b"hello w");
    assert_eq!(read(&connection, 70).unwrap(), b"orld");
    let sent = connection.try_send(&[IoSlice::new(b"ab"), IoSlice::new(&[b'c'; 5000])]).unwrap();
    assert_eq!(sent, 5002);
    let (header, payload) = driver.receive().unwrap();
    assert_eq!((header.op, header.dst_port, header.fwd_cnt), (Op::Data, 77, 11));
    assert!(payload.starts_with(b"abccc") && payload.len() == 4096 - 44);
    assert_eq!(driver.receive().unwrap().1.len(), 5002 - (4096 - 44));
    let flags = NO_MORE_SENT | NO_MORE_RECEIVED;
    driver.send(&Header { flags, ..Driver::header(Op::Shutdown, 0) }, &[]);
    assert!(read(&connection, 7).unwrap().is_empty());
    assert!(connection.try_send(&[IoSlice::new(b"x")]).is_err());
    drop(connection);
    assert_eq!(driver.receive().unwrap().0.op, Op::Reset);
}

#[test]
fn credit_is_kept_by_both_ends() {
    let mut driver = Driver::new();
    let connection = driver.connect();
    // The guest has room for so much, and says when there is more.
    driver.send(&Header { buf_alloc: 100, ..Driver::header(Op::CreditUpdate, 0) }, &[]);
    assert_eq!(connection.try_send(&[IoSlice::new(&[1; 500])]).unwrap(), 100);
    let blocked = connection.try_send(&[IoSlice::new(&[1; 500])]).unwrap_err();
    assert_eq!(blocked.kind(), io::ErrorKind::WouldBlock);
    let update = Header { buf_alloc: 100, fwd_cnt: 60, ..Driver::header(Op::CreditUpdate, 0) };
    driver.send(&update, &[]);
    assert_eq!(connection.try_send(&[IoSlice::new(&[1; 500])]).unwrap(), 60);
    while driver.receive().is_some() {}
    // What is taken is told in time.
    for _ in 0..20 {
        driver.send(&Driver::header(Op::Data, 4000), &[2; 4000]);
        assert_eq!(read(&connection, 9000).unwrap().len(), 4000);
    }
    let told = std::iter::from_fn(|| driver.receive()).last().unwrap().0;
    assert_eq!(told.op, Op::CreditUpdate);
    assert!(told.fwd_cnt >= ROOM / 4);
    // More than there is room for resets, and the memory is given back.
    for _ in 0..=(ROOM / 4000) {
        driver.send(&Driver::header(Op::Data, 4000), &[2; 4000]);
    }
    assert_eq!(std::iter::from_fn(|| driver.receive()).last().unwrap().0.op, Op::Reset);
    assert!(read(&connection, 1).unwrap().is_empty());
    let inner = driver.device.lock();
    assert_eq!((inner.copied, inner.lent), (0, 0));
}

#[test]
fn what_is_not_for_us_is_reset_or_not_seen() {
    let mut driver = Driver::new();
    for (packet, answered) in [
        (Header { dst_port: 1, ..Driver::header(Op::Request, 0) }, true),
        (Header { kind: 2, ..Driver::header(Op::Request, 0) }, true),
        (Driver::header(Op::CreditUpdate, 0), true),
        (Driver::header(Op::Unknown(99), 0), true),
        (Driver::header(Op::Reset, 0), false),
        (Header { src_cid: 4, ..Driver::header(Op::Request, 0) }, false),
        (Header { dst_cid: 9, ..Driver::header(Op::Request, 0) }, false),
    ] {
        driver.send(&packet, &[]);
        let answer = driver.receive().map(|(header, _)| header.op);
        assert_eq!(answer, answered.then_some(Op::Reset), "{packet:?}");
        assert!(driver.accepted.try_recv().is_err());
    }
    // A second request between the same ports ends both.
    let connection = driver.connect();
    driver.send(&Driver::header(Op::Request, 0), &[]);
    assert_eq!(driver.receive().unwrap().0.op, Op::Reset);
    assert!(read(&connection, 1).unwrap().is_empty());
}

#[test]
fn a_flood_of_connections_has_an_end() {
    let mut driver = Driver::new();
    let mut connections = Vec::new();
    let mut refused = 0;
    for src_port in 0..u32::try_from(MOST).unwrap() + 10 {
        driver.send(&Header { src_port, ..Driver::header(Op::Request, 0) }, &[]);
        match driver.receive().unwrap().0.op {
            Op::Response => connections.push(driver.accepted.try_recv().unwrap()),
            op => {
                assert_eq!(op, Op::Reset);
                refused += 1;
            }
        }
    }
    assert_eq!((connections.len(), refused), (MOST, 10));
    connections.clear();
    assert!(driver.device.lock().peers.open.is_empty());
}

#[test]
fn who_does_not_receive_holds_nothing_up_but_itself() {
    let mut driver = Driver::new();
    let connection = driver.connect();
    // All room is used up, and the answers wait, up to their cap.
    while connection.try_send(&[IoSlice::new(&[0; 60000])]).is_ok() {}
    for _ in 0..ANSWERS * 2 {
        let at = driver.buffer(1);
        let packet = Header { dst_port: 5, ..Driver::header(Op::Request, 0) };
        driver.memory.memory().write_slice(&packet.bytes(), GuestAddress(at)).unwrap();
        driver.put(1, &[(at, 44, 0)]);
        driver.kick();
        if driver.device.lock().stalled {
            break;
        }
    }
    assert!(driver.device.lock().stalled);
    assert!(driver.device.lock().answers.len() <= ANSWERS);
    // It makes room: everything goes on.
    while driver.receive().is_some() {
        driver.kick();
    }
    assert!(!driver.device.lock().stalled && driver.device.lock().answers.is_empty());
    assert!(connection.try_send(&[IoSlice::new(&[0; 100])]).is_ok());
}

#[test]
fn a_guest_that_begins_anew_has_no_connections() {
    let mut driver = Driver::new();
    let connection = driver.connect();
    driver.send(&Driver::header(Op::Data, 5), b"hello");
    // Stopped and continued: nothing is lost.
    driver.device.stop();
    driver.kick();
    assert_eq!(read(&connection, 9).unwrap(), b"hello");
    // Stopped, and begun anew.
    driver.device.stop();
    driver.vrings[1].set_queue_next_avail(0);
    driver.kick();
    assert!(read(&connection, 9).unwrap().is_empty());
    let waker = Context::from_waker(Waker::noop());
    assert!(driver.device.poll_readable((Key { theirs: 77, ours: PORT }, 1), &waker).is_ready());
}

proptest! {
    #[test]
    fn no_packet_and_no_descriptor_makes_it_panic(
        chains in vec((vec((any::<u64>(), any::<u32>(), any::<u16>()), 1..4), any::<bool>()), 0..20),
        packets in vec((0_u16..9, 0_u32..4, 0_u32..3, any::<u32>(), any::<u32>(), any::<u32>(), 0_u32..5000), 0..40),
    ) {
        let mut driver = Driver::new();
        let connection = driver.connect();
        for (op, src_port, dst, flags, buf_alloc, fwd_cnt, len) in packets {
            let bytes = [&[0; 30][..], &op.to_le_bytes(), &[0; 12]].concat();
            let op = Header::parse(&bytes.try_into().unwrap()).op;
            let (src_port, dst_port) = (75 + src_port, PORT - 1 + dst);
            let header = Header { src_port, dst_port, len, flags, buf_alloc, fwd_cnt, ..Driver::header(op, 0) };
            driver.send(&header, &vec![7; (len as usize).min(4000)]);
            drop(read(&connection, 3000));
            drop(connection.try_send(&[IoSlice::new(&[0; 3000])]));
            driver.receive();
        }
        for (chain, tx) in chains {
            let chain: Vec<_> = chain.into_iter().map(|(at, len, flags)| {
                // Half of them lie inside of the memory.
                (if at & 1 == 0 { at % (MEMORY as u64) } else { at }, len >> (at % 32), flags)
            }).collect();
            driver.put(usize::from(tx), &chain);
            driver.kick();
            drop(connection.try_send(&[IoSlice::new(&[0; 3000])]));
        }
    }
}
