//! Whole conversations with a VMM that follows the bytes of an input: messages, whole and cut, with right and wrong
//! descriptors, and between them changes of the guest's rings, while sessions send and receive. For the fuzz target and
//! a property test.

use std::{
    io::{IoSlice, IoSliceMut, Read},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    pin::pin,
    sync::Arc,
    task::{Context, Waker},
};

use nix::sys::{
    epoll::EpollTimeout,
    eventfd::{EfdFlags, EventFd},
};
use tokio::sync::mpsc::{Receiver, channel};
use vm_memory::{Bytes, GuestAddress};

use super::{
    hostile::check,
    input::Input,
    rings::{MEMORY, Rings},
    test_driver::{Driver, SIZE},
    vmm::{EVENT_IDX, PLAIN, USER, Vmm, code},
};
use crate::{
    connection::Connection,
    connections::MAX_CONNECTIONS,
    device::Device,
    header::{Header, Op},
    log::Log,
    memory::Quota,
    place::Place,
    setup::Setup,
    vm::{End, Vm},
};

/// Turns after which a device without new input must be idle.
const QUIET: usize = 200;

/// A VM whose VMM and guest a test plays, on the test's own thread.
pub(crate) struct Played {
    pub(crate) vm: Vm<'static>,
    pub(crate) vmm: Vmm,
    pub(crate) rings: Rings,
    pub(crate) device: Arc<Device>,
    pub(crate) accepted: Receiver<Connection>,
}

impl Played {
    pub(crate) fn new() -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let vmm = Vmm::over(theirs).unwrap();
        vmm.socket.set_nonblocking(true).unwrap();
        let path: Arc<Path> = Path::new("/vm").into();
        let log = Arc::new(Log::new(Arc::clone(&path)));
        let (sender, accepted) = channel(MAX_CONNECTIONS);
        let quota = Arc::new(Quota::new());
        let place = Place { path, cid: crate::DEFAULT_CID, port: super::nbd::PORT };
        let device = Arc::new(Device::new(&place, log, sender, &quota, None).unwrap());
        let vm = Vm::new(ours, Arc::clone(&device), quota, None, Setup::new(None)).unwrap();
        let rings = Rings::new(vmm.map().unwrap(), SIZE, false);
        Self { vm, vmm, rings, device, accepted }
    }

    /// Runs the device until it is idle. Returns the number of turns.
    pub(crate) fn settle(&mut self) -> Result<usize, End> {
        for turns in 0..QUIET {
            let events = self.vm.turn(EpollTimeout::ZERO)?;
            // Discard the replies, so that the device can continue.
            let mut bytes = [0; 4096];
            while (&self.vmm.socket).read(&mut bytes).is_ok_and(|n| n > 0) {}
            if events == 0 && !self.vm.has_more() {
                return Ok(turns);
            }
        }
        Ok(QUIET)
    }

    /// Behaves as a correct VMM; `settle` reads the first replies.
    pub(crate) fn set_up(&mut self, features: u64) -> Result<(), End> {
        self.vmm.say(code::SET_PROTOCOL_FEATURES, &super::vmm::PROTOCOL.to_ne_bytes(), &[]).ok();
        self.vmm.say(code::SET_FEATURES, &features.to_ne_bytes(), &[]).ok();
        self.vmm.give_memory().ok();
        self.settle()?;
        self.start_rings(features)
    }

    /// Sets up new rings with receive buffers.
    pub(crate) fn start_rings(&mut self, features: u64) -> Result<(), End> {
        self.rings = Rings::new(self.rings.memory.clone(), SIZE, features == EVENT_IDX);
        self.rings.wipe();
        (0..SIZE).for_each(|index| self.rings.give_room(index));
        self.vmm.start(0, SIZE, 0).ok();
        self.vmm.start(1, SIZE, 0).ok();
        self.settle().map(drop)
    }
}

/// Plays one input.
pub fn play(input: &[u8]) {
    let mut input = Input(input);
    let mut played = Played::new();
    let odd = Odd::new();
    let mut connections = Vec::new();
    let mut ended = None;
    let good = input.u8().unwrap_or(0);
    if good & 1 != 0 {
        let features = if good & 2 == 0 { PLAIN } else { EVENT_IDX };
        played.set_up(features).expect("a VMM that does well is served");
    }
    while ended.is_none() && step(&mut input, &mut played, &odd, &mut connections).is_some() {
        match played.settle() {
            Ok(turns) => assert!(turns < QUIET, "it has always something to do"),
            Err(end) => ended = Some(end),
        }
        while let Ok(connection) = played.accepted.try_recv() {
            connections.push(connection);
        }
        check(&played.device, connections.len() + 1);
    }
    let Played { vm, device, .. } = played;
    drop(vm);
    check(&device, 0);
    for connection in &connections {
        assert_eq!(connection.try_recv(&mut [IoSliceMut::new(&mut [0; 9])]).unwrap(), 0);
    }
}

/// Descriptors that the device must refuse.
struct Odd {
    half: OwnedFd,
    semaphore: EventFd,
    file: OwnedFd,
}

impl Odd {
    fn new() -> Self {
        let flags = EfdFlags::EFD_SEMAPHORE | EfdFlags::EFD_CLOEXEC;
        let semaphore = EventFd::from_flags(flags).unwrap();
        semaphore.write(u64::MAX - 1).unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        Self { half: nix::unistd::pipe().unwrap().0, semaphore, file: file.into() }
    }

    fn pick<'a>(&'a self, vmm: &'a Vmm, which: u8) -> BorrowedFd<'a> {
        match which % 8 {
            0 => self.half.as_fd(),
            1 => self.semaphore.as_fd(),
            2 => self.file.as_fd(),
            3 => vmm.memory.as_fd(),
            4 | 5 => vmm.kicks[usize::from(which & 1)].as_fd(),
            _ => vmm.calls[usize::from(which & 1)].as_fd(),
        }
    }
}

fn step(
    input: &mut Input<'_>,
    played: &mut Played,
    odd: &Odd,
    connections: &mut Vec<Connection>,
) -> Option<()> {
    let what = input.u8()?;
    let which = usize::from(input.u8()?);
    let queue = which & 1;
    let vmm = &played.vmm;
    // Errors of the socket are ignored: the device may have ended the conversation.
    match what % 16 {
        // A message of any kind, long or short, with any descriptors.
        0 | 1 => {
            let len = usize::from(input.u8()?) % 80;
            let body: Option<Vec<_>> = (0..len).map(|_| input.u8()).collect();
            let files: Option<Vec<_>> =
                (0..which / 32).map(|_| Some(odd.pick(vmm, input.u8()?))).collect();
            vmm.say(u32::try_from(which).ok()? % 42, &body?, &files?).ok();
        }
        // Correct messages, in any order.
        2 => {
            let features = [PLAIN, EVENT_IDX, 1 << 32, 1 << 50][which % 4];
            vmm.say(code::SET_FEATURES, &features.to_ne_bytes(), &[]).ok();
        }
        3 => {
            let (at, len) = (input.u64()? % (MEMORY as u64 * 2), input.u64()? % (MEMORY as u64));
            let whole = (0, MEMORY as u64, USER, 0);
            let part = if which & 4 == 0 { whole } else { (at, len, USER + at, at & !4095) };
            vmm.give_regions(&[part], &[vmm.memory.as_fd()]).ok();
        }
        4 => drop(vmm.start(queue, u16::from(input.u8()?), input.u16()?)),
        5 => drop(vmm.ring(code::GET_VRING_BASE, queue, 0)),
        6 => drop(vmm.ring(code::SET_VRING_ENABLE, queue, u32::from(which & 2 != 0))),
        7 => {
            let code = if which & 2 == 0 { code::SET_VRING_KICK } else { code::SET_VRING_CALL };
            vmm.event(code, queue, odd.pick(vmm, input.u8()?)).ok();
        }
        8 => drop(vmm.say([code::RESET_DEVICE, code::RESET_OWNER][queue], &[], &[])),
        9 => {
            // A part of a message.
            let bytes: Option<Vec<_>> = (0..which % 40).map(|_| input.u8()).collect();
            vmm.send(&bytes?, &[]).ok();
        }
        10 => played.start_rings(PLAIN).err().map_or(Some(()), |_| None)?,
        // Actions of the guest.
        11 | 12 => {
            let (op, len) = (input.u8()? % 9, usize::from(input.u16()? % 5000));
            let bytes = [&[0; 30][..], &[op, 0], &[0; 12]].concat();
            let op = Header::parse(&bytes.try_into().ok()?).op;
            let len = if op == Op::Data { len } else { 0 };
            let src_port = u32::try_from(which).ok()? % 16;
            let header = Header { src_port, ..Driver::header(op, len) };
            played.rings.throw(u16::from(input.u8()?) % (SIZE / 2), &header.bytes(), &vec![7; len]);
            played.vmm.kick(1);
        }
        13 => {
            let at = GuestAddress(input.ring_place(queue)?);
            played.rings.memory.write_obj(input.u32()?, at).ok();
            played.vmm.kick(queue);
        }
        // Actions of the sessions.
        14 => {
            let chosen = which.checked_rem(connections.len())?;
            let bytes = vec![1; usize::from(input.u16()?)];
            let mut cx = Context::from_waker(Waker::noop());
            match input.u8()? % 4 {
                0 => drop(connections[chosen].try_send(&[IoSlice::new(&bytes)])),
                1 => drop(connections[chosen].try_recv(&mut [IoSliceMut::new(&mut [0; 999])])),
                2 => drop(pin!(connections[chosen].writable()).poll(&mut cx)),
                _ => drop(connections.swap_remove(chosen)),
            }
        }
        _ => played.vmm.kick(queue),
    }
    Some(())
}
