//! VMs whose agent is killed between any two of its steps, and taken over by the next one.

use std::{
    collections::BTreeSet,
    io::{IoSlice, IoSliceMut, Read},
    mem::{ManuallyDrop, forget},
    os::fd::AsRawFd,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Mutex,
};

use nix::sys::stat::fstat;
use proptest::{collection::vec, prelude::*};
use tokio::sync::mpsc::{Receiver, channel};

use super::*;
use crate::{
    connection::Connection,
    connections::MAX_CONNECTIONS,
    fault,
    header::{Header, Op},
    keeper::{Keeper, Left, Names, Takeover},
    log::Log,
    place::Place,
    record::Record,
    testing::{
        rings::Rings,
        test_driver::{Driver, SIZE},
        vmm::{EVENT_IDX, Vmm, code},
    },
};

/// Keeps descriptors as systemd does: an open file once, whatever its names.
#[derive(Debug, Default)]
struct Store(Mutex<Vec<(String, OwnedFd)>>);

impl Store {
    /// What the next process gets.
    fn left(&self) -> Left {
        let kept = self.0.lock().unwrap();
        kept.iter().map(|(name, file)| (name.clone(), file.try_clone().unwrap())).collect()
    }
}

fn identity(file: BorrowedFd<'_>) -> (u64, String) {
    let about = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).unwrap();
    let id = about.lines().find(|line| line.starts_with("eventfd-id:")).unwrap_or_default();
    (fstat(file).unwrap().st_ino, id.to_owned())
}

impl Keeper for Store {
    fn keep(&self, name: &str, file: BorrowedFd<'_>) -> io::Result<()> {
        let mut kept = self.0.lock().unwrap();
        if kept.iter().all(|(_, one)| identity(one.as_fd()) != identity(file)) {
            kept.push((name.to_owned(), file.try_clone_to_owned()?));
        }
        Ok(())
    }

    fn forget(&self, name: &str) {
        self.0.lock().unwrap().retain(|(one, _)| one != name);
    }
}

/// A VM, its guest, and the agent that serves it.
struct Played {
    store: Arc<Store>,
    vm: ManuallyDrop<Vm<'static>>,
    device: Arc<Device>,
    accepted: Receiver<Connection>,
    vmm: Vmm,
    rings: Rings,
    /// Sessions, of which a killed agent closes none.
    sessions: Vec<Connection>,
    /// The guest's ports of connections that it takes for open.
    open: BTreeSet<u32>,
    /// After how many steps the agents are killed, the last one first.
    kills: Vec<u32>,
    killed: usize,
}

struct Parts(Arc<Device>, Receiver<Connection>, ManuallyDrop<Vm<'static>>);

fn build(
    store: &Arc<Store>,
    make: impl FnOnce(Names) -> (UnixStream, Arc<Record>, Setup, Earlier),
) -> Parts {
    let path: Arc<Path> = Path::new("/vm").into();
    let log = Arc::new(Log::new(Arc::clone(&path)));
    let keeper: Arc<dyn Keeper> = Arc::clone(store) as _;
    let (socket, record, setup, earlier) = make(Names::new(keeper, Arc::clone(&log)));
    let (sender, accepted) = channel(MAX_CONNECTIONS);
    let quota = Arc::new(Quota::new());
    let place = Place { path, cid: crate::DEFAULT_CID, port: crate::testing::nbd::PORT };
    let device = Arc::new(Device::new(&place, log, sender, &quota, Some(record)).unwrap());
    let vm = Vm::new(socket, Arc::clone(&device), quota, None, setup).unwrap();
    // A kill runs no destructor.
    let mut vm = ManuallyDrop::new(vm);
    vm.resume(earlier).unwrap();
    Parts(device, accepted, vm)
}

impl Played {
    fn new(kills: Vec<u32>) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let vmm = Vmm::over(theirs).unwrap();
        vmm.socket.set_nonblocking(true).unwrap();
        let rings = Rings::new(vmm.map().unwrap(), SIZE, true);
        let store = Arc::new(Store::default());
        let Parts(device, accepted, vm) = build(&store, |names| {
            let (record, names) = names.begin(&ours).unwrap();
            let setup = Setup::new(Some((Arc::clone(&record), names)));
            (ours, record, setup, Earlier::default())
        });
        let (sessions, open, killed) = (Vec::new(), BTreeSet::new(), 0);
        Self { store, vm, device, accepted, vmm, rings, sessions, open, kills, killed }
    }

    /// Does something as the agent, which may be killed in it. Then the next one takes over.
    fn agent<T>(&mut self, mut act: impl FnMut(&mut Self) -> T) -> T {
        loop {
            fault::arm(self.kills.last().copied());
            let done = catch_unwind(AssertUnwindSafe(|| act(self)));
            // The rest of the steps is for the next action.
            if let (Some(left), Some(kill)) = (fault::left(), self.kills.last_mut()) {
                *kill = left;
            }
            fault::arm(None);
            match done {
                Ok(done) => return done,
                Err(why) => {
                    assert_eq!(why.downcast_ref(), Some(&"killed"), "it was no kill");
                    self.take_over();
                }
            }
        }
    }

    fn take_over(&mut self) {
        self.killed += 1;
        self.kills.pop();
        forget(std::mem::take(&mut self.sessions));
        loop {
            fault::arm(self.kills.last().copied());
            let built = catch_unwind(AssertUnwindSafe(|| {
                build(&self.store, |names| {
                    let Takeover { vmm, record, setup, earlier } =
                        Takeover::of(self.store.left(), &names).unwrap();
                    (vmm, record, setup, earlier)
                })
            }));
            fault::arm(None);
            match built {
                Ok(Parts(device, accepted, vm)) => {
                    forget(std::mem::replace(&mut self.device, device));
                    forget(std::mem::replace(&mut self.accepted, accepted));
                    self.vm = vm;
                    return;
                }
                Err(why) => {
                    assert_eq!(why.downcast_ref(), Some(&"killed"), "it was no kill");
                    self.killed += 1;
                    self.kills.pop();
                }
            }
        }
    }

    /// The agent and the guest run until both are idle.
    fn settle(&mut self) {
        loop {
            self.agent(|played| {
                while played.vm.turn(EpollTimeout::ZERO).unwrap() > 0 || played.vm.has_more() {}
                while let Ok(session) = played.accepted.try_recv() {
                    played.sessions.push(session);
                }
            });
            if !self.hear() {
                return;
            }
            self.vmm.kick(0);
        }
    }

    /// The guest takes what it was sent.
    fn hear(&mut self) -> bool {
        let mut heard = false;
        let mut packet = Vec::new();
        while let Some(index) = self.rings.receive(&mut packet) {
            let header = Header::parse(packet.first_chunk().unwrap());
            match header.op {
                Op::Response => drop(self.open.insert(header.dst_port)),
                Op::Reset | Op::Shutdown => drop(self.open.remove(&header.dst_port)),
                _ => {}
            }
            self.rings.give_room(index);
            heard = true;
        }
        heard
    }

    /// The VMM sends a message, and waits for its reply.
    fn ask(&mut self, code: u32, body: &[u8]) -> Vec<u8> {
        self.vmm.say(code, body, &[]).unwrap();
        self.settle();
        let mut bytes = vec![0; 4096];
        let n = (&self.vmm.socket).read(&mut bytes).expect("a reply");
        bytes.truncate(n);
        bytes
    }

    fn send(&mut self, port: u32, op: Op, payload: &[u8]) {
        let header = Header { src_port: port, ..Driver::header(op, payload.len()) };
        assert!(self.rings.send(&header.bytes(), payload), "the queue is full");
        self.vmm.kick(1);
        self.settle();
    }

    fn connect(&mut self, port: u32) {
        self.send(port, Op::Request, &[]);
    }

    fn start(&mut self, queue: usize, base: u16) {
        self.vmm.start(queue, SIZE, base).unwrap();
        self.settle();
    }

    /// What a VM does in its life.
    fn live(&mut self) {
        let features = EVENT_IDX.to_ne_bytes();
        self.ask(code::GET_FEATURES, &[]);
        self.ask(code::GET_PROTOCOL_FEATURES, &[]);
        let protocol = crate::testing::vmm::PROTOCOL.to_ne_bytes();
        self.vmm.say(code::SET_PROTOCOL_FEATURES, &protocol, &[]).unwrap();
        self.vmm.say(code::SET_OWNER, &[], &[]).unwrap();
        self.vmm.say(code::SET_FEATURES, &features, &[]).unwrap();
        self.vmm.give_memory().unwrap();
        self.settle();
        self.rings.wipe();
        (0..SIZE).for_each(|index| self.rings.give_room(index));
        self.start(0, 0);
        self.start(1, 0);
        self.traffic(1);
        // Call eventfds change while the queues run, and the memory is given again.
        self.vmm.event(code::SET_VRING_CALL, 0, self.vmm.calls[1].as_fd()).unwrap();
        self.vmm.give_memory().unwrap();
        self.settle();
        self.traffic(10);
        // Stopped and continued.
        let reply = self.ask(code::GET_VRING_BASE, &[1_u32, 0].map(u32::to_ne_bytes).concat());
        let base = u16::from_ne_bytes([reply[reply.len() - 4], reply[reply.len() - 3]]);
        self.start(1, base);
        self.traffic(20);
        // The guest begins anew.
        self.vmm.say(code::RESET_DEVICE, &[], &[]).unwrap();
        self.settle();
        self.open.clear();
        self.rings = Rings::new(self.rings.memory.clone(), SIZE, true);
        self.rings.wipe();
        (0..SIZE).for_each(|index| self.rings.give_room(index));
        self.start(0, 0);
        self.start(1, 0);
        self.traffic(30);
    }

    /// Connections whose packets are held and finished out of order, and one that its session closes.
    fn traffic(&mut self, port: u32) {
        for one in port..port + 3 {
            self.connect(one);
        }
        for round in 0..2 {
            for one in port..port + 3 {
                if self.open.contains(&one) {
                    self.send(one, Op::Data, &[round; 100]);
                }
            }
        }
        self.agent(|played| {
            for session in played.sessions.iter().rev().take(2) {
                drop(session.try_recv(&mut [IoSliceMut::new(&mut [0; 150])]));
                drop(session.try_send(&[IoSlice::new(&[5; 300])]));
            }
            drop(played.sessions.pop());
        });
        self.settle();
    }
}

/// Plays a life with these kills, and one more at its end. Returns the number of kills.
fn survives(kills: Vec<u32>) -> usize {
    let mut played = Played::new(kills);
    played.live();
    let killed = played.killed;
    // Killed while it is idle.
    played.kills.clear();
    played.take_over();
    played.settle();
    assert!(played.open.is_empty(), "the guest waits on {:?} for nobody", played.open);
    assert!(played.rings.has_all_back());
    for port in [1, 77] {
        played.connect(port);
        assert!(played.open.contains(&port));
        played.send(port, Op::Data, b"hello");
        let mut bytes = [0; 5];
        let session = played.sessions.last().unwrap();
        assert_eq!(session.try_recv(&mut [IoSliceMut::new(&mut bytes)]).unwrap(), 5);
        assert_eq!(&bytes, b"hello");
    }
    // What was kept goes when the VM does.
    let Played { store, vm, .. } = played;
    drop(ManuallyDrop::into_inner(vm));
    assert_eq!(store.left().len(), 0);
    killed
}

#[test]
fn a_vm_survives_a_kill_between_any_two_steps() {
    let mut step = 0;
    while survives(vec![step]) > 0 {
        step += 1;
    }
    assert!(step > 200, "there are more steps than {step}");
    println!("killed at {step} steps");
}

proptest! {
    #[test]
    fn a_vm_survives_many_kills(kills in vec(0_u32..300, 0..12)) {
        survives(kills);
    }
}
