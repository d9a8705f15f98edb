//! A guest that does what the bytes of an input say: packets, descriptors and rings that are right or
//! wrong, while sessions send and receive. It may break its own device; it must not make us panic, and
//! must not make us keep more than the bounds allow. For the fuzz target and a property test.

use std::{
    io::{IoSlice, IoSliceMut},
    pin::pin,
    task::{Context, Waker},
};

use vhost_user_backend::VringT;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{
    connection::Connection,
    device::{ALL_LENT, Device, LENT},
    driver::{BUFFER, Driver, MEMORY, PORT, Rings, SIZE},
    flow::{ANSWERS, COPIED},
    header::{Header, Op},
    memory::Memory,
    peers::{Pending, ROOM},
};

/// Ports of the guest, so that packets meet.
const PORTS: u8 = 16;
/// Answers that one connection adds at most to those that are bounded.
const OF_ONE: usize = 8;

/// What is left of an input.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    /// An address that is inside of the memory mostly.
    fn address(&mut self) -> Option<u64> {
        let at = self.u64()?;
        Some(if at.is_multiple_of(8) { at } else { at % MEMORY as u64 })
    }
}

/// Plays one input.
pub fn play(input: &[u8]) {
    let mut input = Input(input);
    let mut driver = Driver::new();
    let mut connections = vec![driver.connect()];
    while step(&mut input, &mut driver, &mut connections).is_some() {
        while let Ok(connection) = driver.accepted.try_recv() {
            connections.push(connection);
        }
        check(&driver.device);
    }
    // The sessions end, and then the VM, or the other way round.
    if input.0.len().is_multiple_of(2) {
        driver.device.end();
    }
    connections.clear();
    check(&driver.device);
    let inner = driver.device.lock();
    assert!(inner.peers.open.is_empty(), "a connection without its session");
    assert_eq!((inner.lent, inner.copied), (0, 0), "kept for nobody");
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
            driver.send(&header, &vec![7; len]);
        }
        2 => {
            let len = input.u16()? % 4052;
            let header = Header { len: len.into(), ..from(which, Op::Data) };
            driver.send(&header, &vec![7; len.into()]);
        }
        3 => driver.send(&from(which, Op::Request), &[]),
        4 => {
            let chain: Option<Vec<_>> = (0..=input.u8()? % 4)
                .map(|_| {
                    let (at, len) = (input.address()?, input.u32()?);
                    Some((at, len >> (len % 32), input.u8()?.into()))
                })
                .collect();
            driver.put(which & 1, &chain?);
            driver.kick();
        }
        // The rings and tables, behind the device's back.
        5 => {
            let at = GuestAddress(u64::from(input.u16()? % 0x8000));
            driver.memory.write_obj(input.u32()?, at).ok()?;
        }
        6 => {
            let at = GuestAddress(input.address()?);
            // What is outside of the memory cannot be written.
            driver.memory.write_obj(input.u64()?, at).ok();
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
            (0..which % 32).for_each(|_| driver.give_room());
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
        13 => driver.device.stop(),
        14 => {
            let vring = &driver.vrings[(which / 8) & 1];
            match which % 8 {
                0 => driver.device.reset(),
                1 => driver.vrings[1].set_queue_next_avail(input.u16()?),
                2 => driver.vrings[0].set_queue_next_avail(input.u16()?),
                3 => vring.set_queue_ready(which & 16 != 0),
                4 => vring.set_queue_size(input.u16()? % (2 * SIZE)),
                5 => vring.set_queue_event_idx(which & 16 != 0),
                6 => {
                    // It may refuse.
                    let [table, avail, used] =
                        [input.address()?, input.address()?, input.address()?];
                    vring.set_queue_info(table, avail, used).ok();
                }
                _ => {
                    let half =
                        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY / 2)]).ok()?;
                    driver.device.set_memory(Memory::new(half.into()).ok()?);
                }
            }
        }
        _ => driver.kick(),
    }
    Some(())
}

/// A good packet.
fn from(which: usize, op: Op) -> Header {
    let port = u32::try_from(which).unwrap_or_default() % u32::from(PORTS);
    Header { src_port: 77 + port, ..Rings::header(op, 0) }
}

/// What is kept is counted, and bounded.
fn check(device: &Device) {
    let inner = device.lock();
    let (mut lent, mut copied) = (0, 0);
    for peer in inner.peers.open.values() {
        let mut buffered = 0;
        let mut here = 0;
        for pending in &peer.pending {
            match pending {
                Pending::Lent(_, left) => (here, buffered) = (here + 1, buffered + *left as usize),
                Pending::Copied(bytes, at) => {
                    (copied, buffered) = (copied + bytes.len(), buffered + bytes.len() - at);
                }
            }
        }
        assert_eq!(buffered, peer.buffered as usize, "bytes that wait for a session");
        assert!(buffered <= ROOM as usize && here <= LENT);
        lent += here;
    }
    assert_eq!((lent, copied), (inner.lent, inner.copied), "what is kept");
    assert!(lent <= ALL_LENT && copied <= COPIED + ROOM as usize);
    assert!(inner.answers.len() <= ANSWERS + OF_ONE * usize::from(PORTS), "answers");
    assert!(inner.peers.open.len() <= usize::from(PORTS) + 1);
}

const _: () = assert!(BUFFER >= 4052 + Header::LEN as u64);
