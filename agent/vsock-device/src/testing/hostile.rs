//! A guest that follows the bytes of an input: packets, descriptors and rings that are right or wrong, while sessions
//! send and receive. It may break its own device. It must not cause a panic, nor make the device hold more than the
//! bounds allow. For the fuzz target and a property test.

use std::{
    io::{IoSlice, IoSliceMut},
    pin::pin,
    task::{Context, Waker},
};

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{
    input::Input,
    rings::{INDIRECT, MEMORY, RX, TX},
    test_driver::{Driver, PORT, SIZE},
};
use crate::{
    connection::Connection,
    connections::BUF_ALLOC,
    device::Device,
    flow::{ANSWERS, COPIED},
    header::{Header, Op},
    inbox::Held,
    memory::Memory,
    packets::ALL_LENT,
    ring::Which,
    vhost_user::message::Places,
};

/// Ports of the guest, so that packets meet.
const PORTS: u8 = 16;
/// Answers that one connection may add beyond `ANSWERS`.
const OF_ONE: usize = 8;

/// Plays one input.
pub fn play(input: &[u8]) {
    let mut input = Input(input);
    let mut driver = Driver::new();
    let mut connections = vec![driver.connect()];
    while step(&mut input, &mut driver, &mut connections).is_some() {
        while let Ok(connection) = driver.accepted.try_recv() {
            connections.push(connection);
        }
        check(&driver.device, connections.len() + 1);
    }
    // After any input the driver can begin anew and is served.
    if input.0.len().is_multiple_of(3) {
        begin_anew(&mut driver);
    }
    // The sessions end, and then the VM, or the other way round.
    if input.0.len().is_multiple_of(2) {
        driver.device.end();
    }
    connections.clear();
    check(&driver.device, 0);
    let inner = driver.device.lock();
    assert!(inner.flow.connections.open.is_empty(), "a connection without its session");
    assert_eq!(inner.flow.held, Held::default(), "memory is held without a connection");
    assert!(inner.flow.line.is_empty(), "a connection that is gone waits for room");
}

fn begin_anew(driver: &mut Driver) {
    driver.device.stop(Which::Rx);
    driver.device.stop(Which::Tx);
    driver.device.set_memory(Memory::of(driver.rings.memory.clone()).unwrap());
    for which in [Which::Rx, Which::Tx] {
        driver.device.lock().ring(which).set_event_idx(false);
    }
    driver.start(SIZE);
    // The number of connections is still bounded.
    driver.send(&Header { src_port: 5, ..Driver::header(Op::Request, 0) }, &[]);
    let answer = driver.receive().expect("an answer").0;
    assert_eq!((answer.op, answer.dst_port), (Op::Response, 5));
    drop(driver.accepted.try_recv());
    while driver.receive().is_some() {
        driver.kick();
    }
}

fn step(
    input: &mut Input<'_>,
    driver: &mut Driver,
    connections: &mut Vec<Connection>,
) -> Option<()> {
    let what = input.u8()?;
    let which = usize::from(input.u8()?);
    let chosen = which.checked_rem(connections.len()).map(|at| &connections[at]);
    match what % 16 {
        0 | 1 => {
            // A packet of any kind that is well formed.
            let (op, dst, kind) = (input.u8()? % 9, input.u8()?, input.u8()?);
            let (flags, buf_alloc, fwd_cnt) = (input.u8()?, input.u32()?, input.u32()?);
            let len = usize::from(input.u16()? % 4052);
            let bytes = [&[0; 30][..], &[op, 0], &[0; 12]].concat();
            let op = Header::parse(&bytes.try_into().ok()?).op;
            let mut header = Header { flags: flags.into(), buf_alloc, fwd_cnt, ..from(which, op) };
            match dst {
                0 => header.dst_port = PORT + 1,
                1 => header.dst_cid = 9,
                2 => header.src_cid = 4,
                _ => {}
            }
            (header.kind, header.len) =
                (if kind == 0 { 2 } else { 1 }, u32::try_from(len).ok()? + u32::from(kind == 1));
            driver.throw(&header, &vec![7; len]);
            driver.kick();
        }
        2 => {
            // Many small ones, or a large one.
            let (len, count) = (input.u16()?, input.u8()?);
            let (len, count) = if count < 128 { (len % 60_000, 1) } else { (len % 16, count % 16) };
            let header = Header { len: len.into(), ..from(which, Op::Data) };
            (0..count).for_each(|_| driver.throw(&header, &vec![7; len.into()]));
            driver.kick();
        }
        3 => {
            driver.throw(&from(which, Op::Request), &[]);
            driver.kick();
        }
        4 => {
            let chain: Option<Vec<_>> = (0..=input.u8()? % 4)
                .map(|_| {
                    let (at, len) = (input.address()?, input.u32()?);
                    Some((at, len >> (len % 32), input.u8()?.into()))
                })
                .collect();
            driver.rings.put(which & 1, u16::from(input.u8()?) % SIZE, &chain?);
            driver.kick();
        }
        // The rings and tables, behind the device's back.
        5 => {
            let at = input.ring_place(which & 1)?;
            driver.rings.memory.write_obj(input.u32()?, GuestAddress(at)).ok()?;
        }
        6 => {
            let at = GuestAddress(input.address()?);
            // What is outside of the memory cannot be written.
            driver.rings.memory.write_obj(input.u64()?, at).ok();
        }
        7 | 8 => {
            let mut bytes = vec![0; input.u16()?.into()];
            if let Some(connection) = chosen {
                // Any answer is right.
                connection.try_recv(&mut [IoSliceMut::new(&mut bytes)]).ok();
            }
        }
        9 | 10 => {
            let bytes = vec![1; usize::from(input.u16()?) * 4];
            let (first, rest) = bytes.split_at(bytes.len() / 3);
            let runs = [IoSlice::new(first), IoSlice::new(&[]), IoSlice::new(rest)];
            chosen.and_then(|connection| connection.try_send(&runs).ok());
        }
        11 => {
            (0..u16::try_from(which).ok()? % SIZE).for_each(|index| driver.rings.give_room(index));
            driver.kick();
        }
        12 => {
            if let Some(connection) = chosen {
                let mut cx = Context::from_waker(Waker::noop());
                match input.u8()? % 4 {
                    0 => connection.finish_sending(),
                    1 => drop(pin!(connection.readable()).poll(&mut cx)),
                    2 => drop(pin!(connection.writable()).poll(&mut cx)),
                    _ => drop(connections.swap_remove(which % connections.len())),
                }
            }
        }
        13 => {
            // A table of its own, of any length.
            let (count, at) = (input.u16()? % (2 * SIZE), 0x40_0000);
            let flags = u16::from(which & 2 != 0) * 2;
            let chain = vec![(at + 0x1_0000, u32::from(input.u8()?), flags); count.into()];
            driver.rings.write_table(at, 0, &chain);
            driver.rings.put(which & 1, 1, &[(at, u32::from(count) * 16, INDIRECT)]);
            driver.kick();
        }
        14 => setup(input, driver, which)?,
        _ => driver.kick(),
    }
    Some(())
}

/// What a VMM does to a device, without its messages.
fn setup(input: &mut Input<'_>, driver: &Driver, which: usize) -> Option<()> {
    let device = &driver.device;
    let queue = if which & 8 == 0 { Which::Rx } else { Which::Tx };
    match which % 8 {
        0 => device.reset(),
        1 => device.lock().ring(queue).set_base(input.u16()?),
        2 => device.enable(queue, which & 16 != 0),
        3 => device.start(queue),
        4 => {
            let size = input.u16()? % (2 * SIZE);
            device.lock().ring(queue).set_size(size.into()).ok();
        }
        5 => device.set_event_idx(which & 16 != 0),
        6 => {
            let [table, avail, used] = [input.address()?, input.address()?, input.address()?];
            let mut inner = device.lock();
            let memory = inner.memory.clone()?;
            // It may refuse.
            inner.ring(queue).set_places(Places { table, avail, used }, &memory).ok();
        }
        _ if which & 16 != 0 => drop(device.stop(queue)),
        _ => {
            let half = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY / 2)]).ok()?;
            device.set_memory(Memory::of(half).ok()?);
        }
    }
    Some(())
}

/// A good packet.
fn from(which: usize, op: Op) -> Header {
    let port = u32::try_from(which).unwrap_or_default() % u32::from(PORTS);
    Header { src_port: 77 + port, ..Driver::header(op, 0) }
}

/// Checks that what is held is counted and bounded, with at most `most` connections.
pub(crate) fn check(device: &Device, most: usize) {
    let inner = device.lock();
    let flow = &inner.flow;
    let mut all = Held::default();
    for state in flow.connections.open.values() {
        let (len, held) = state.inbox.count();
        assert_eq!(len, state.inbox.len(), "bytes that wait for a session");
        assert!(len <= BUF_ALLOC);
        // All bytes within the credit, a chunk that is almost empty, and chunks that are not full.
        assert!(held.bytes <= 3 * BUF_ALLOC as usize, "{held:?} for {len} bytes");
        all += held;
    }
    assert_eq!(all, flow.held, "what is kept");
    assert!(all.lent <= ALL_LENT && all.bytes <= COPIED + 2 * BUF_ALLOC as usize);
    assert!(flow.answers.len() <= ANSWERS + OF_ONE * most.max(usize::from(PORTS)), "answers");
    assert!(flow.connections.open.len() <= most);
}

const _: () = assert!(RX == 0 && TX == 1);
