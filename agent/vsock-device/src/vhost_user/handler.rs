//! Executes the messages of the VMM.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use virtio_bindings::{
    virtio_config::VIRTIO_F_VERSION_1,
    virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC},
};

use super::{
    Refused,
    message::{
        CONFIG, Header, Kind, PROTOCOL_FEATURES, Places, REPLY_ACK, RESET, Region, Reply, Request,
    },
};
use crate::{
    device::Device,
    foreign::Foreign,
    memory::{Memory, Quota},
    ring::{Ring, Which},
    setup::Setup,
    sys::eventfd,
    vm::Events,
};

/// What is offered.
const FEATURES: u64 = 1 << VIRTIO_F_VERSION_1
    | 1 << VIRTIO_RING_F_EVENT_IDX
    | 1 << VIRTIO_RING_F_INDIRECT_DESC
    | PROTOCOL_FEATURES;
const PROTOCOL: u64 = REPLY_ACK | CONFIG | RESET;

/// A conversation with a VMM.
#[derive(Debug)]
pub(crate) struct Handler {
    device: Arc<Device>,
    quota: Arc<Quota>,
    /// The features that the VMM has accepted of `FEATURES` and of `PROTOCOL`.
    features: u64,
    protocol: u64,
    /// The regions of the guest's memory, by which the VMM's addresses of rings are translated.
    regions: Vec<Region>,
    /// What a process that takes the device over has to execute again.
    pub(crate) setup: Setup,
}

impl Handler {
    pub(crate) fn new(device: Arc<Device>, quota: Arc<Quota>, setup: Setup) -> Self {
        Self { device, quota, features: 0, protocol: 0, regions: Vec::new(), setup }
    }

    /// Executes one message, and returns the reply to it.
    pub(crate) fn handle(
        &mut self,
        header: Header,
        body: &[u8],
        files: Vec<Foreign>,
        events: &mut Events,
    ) -> Result<Option<Vec<u8>>, Refused> {
        let kind = header.kind;
        let request = Request::parse(kind, body)?;
        if files.len() != request.files() {
            return Err(Refused::Files(kind, files.len(), request.files()));
        }
        let needs = match kind {
            Kind::GetConfig | Kind::SetConfig => CONFIG,
            Kind::ResetDevice => RESET,
            _ => 0,
        };
        if self.protocol & needs != needs {
            return Err(Refused::NotTaken(kind));
        }
        let reply = self.act((kind, body), request, files, events)?;
        let acknowledged = header.need_reply && self.protocol & REPLY_ACK != 0;
        let reply = reply.or_else(|| acknowledged.then_some(Reply::Number(0)));
        Ok(reply.map(|reply| reply.bytes(kind)))
    }

    fn act(
        &mut self,
        (kind, body): (Kind, &[u8]),
        request: Request,
        files: Vec<Foreign>,
        events: &mut Events,
    ) -> Result<Option<Reply>, Refused> {
        let mut files = files.into_iter();
        match request {
            Request::GetFeatures => return Ok(Some(Reply::Number(FEATURES))),
            Request::GetProtocolFeatures => return Ok(Some(Reply::Number(PROTOCOL))),
            // `struct virtio_vsock_config` is read-only for the driver.
            Request::SetOwner | Request::SetConfig => {}
            Request::SetFeatures(features) => {
                only(features, FEATURES, kind)?;
                self.features = features;
                self.device.set_event_idx(features & 1 << VIRTIO_RING_F_EVENT_IDX != 0);
                // A VMM without this feature cannot enable rings and expects them enabled.
                if features & PROTOCOL_FEATURES == 0 {
                    for which in [Which::Rx, Which::Tx] {
                        self.enable(which, true, events);
                    }
                }
                self.setup.note(kind, body, &[]);
            }
            Request::SetProtocolFeatures(features) => {
                only(features, PROTOCOL, kind)?;
                self.protocol = features;
                self.setup.note(kind, body, &[]);
            }
            Request::Reset => {
                self.device.reset();
                self.device.set_event_idx(self.features & 1 << VIRTIO_RING_F_EVENT_IDX != 0);
                self.setup.reset();
            }
            Request::SetMemTable(regions) => {
                let memory = Memory::from_regions(&regions, files, &self.quota)
                    .map_err(|error| Refused::Memory(kind, error))?;
                let files: Vec<_> = regions.iter().filter_map(|at| memory.file(at.guest)).collect();
                self.setup.note(kind, body, &files);
                self.device.set_memory(memory);
                self.regions = regions;
            }
            Request::SetVringNum(queue, size) => {
                self.change(kind, queue, |ring| ring.set_size(size))?
                    .map_err(|()| Refused::Size(kind, size))?;
                self.setup.note(kind, body, &[]);
            }
            Request::SetVringBase(queue, base) => {
                self.change(kind, queue, |ring| ring.set_base(base))?;
                self.setup.note(kind, body, &[]);
            }
            Request::SetVringAddr(queue, places) => {
                self.place(kind, queue, places)?;
                self.setup.note(kind, body, &[]);
            }
            Request::GetVringBase(queue) => {
                let which = which(kind, queue)?;
                events.set_kick(which, None).map_err(|error| Refused::System(kind, error))?;
                let base = self.device.stop(which);
                self.setup.stopped(queue, base);
                return Ok(Some(Reply::Base(queue, base)));
            }
            Request::SetVringKick(queue, _) => {
                let which = which(kind, queue)?;
                let kick = self.checked(files.next(), "kick");
                let is_there = kick.is_some();
                self.setup.note(kind, body, kick.as_ref().map(AsFd::as_fd).as_slice());
                events.set_kick(which, kick).map_err(|error| Refused::System(kind, error))?;
                if is_there {
                    self.device.start(which);
                    events.look = true;
                }
            }
            Request::SetVringCall(queue, _) => {
                let which = which(kind, queue)?;
                let call = self.checked(files.next(), "call");
                self.setup.note(kind, body, call.as_ref().map(AsFd::as_fd).as_slice());
                self.device.set_call(which, call);
            }
            // The error eventfd, which the device never uses.
            Request::SetVringErr(queue, _) => drop(which(kind, queue)?),
            Request::SetVringEnable(queue, on) => {
                if self.features & PROTOCOL_FEATURES == 0 {
                    return Err(Refused::NotTaken(kind));
                }
                self.enable(which(kind, queue)?, on, events);
                self.setup.note(kind, body, &[]);
            }
            Request::GetConfig(offset, len) => {
                return Ok(Some(Reply::Config(offset, self.config(offset, len))));
            }
        }
        Ok(None)
    }

    fn enable(&self, which: Which, on: bool, events: &mut Events) {
        self.device.enable(which, on);
        // The guest may have kicked before the ring was enabled.
        events.look = true;
    }

    /// Changes a ring that must not run.
    fn change<T>(
        &self,
        kind: Kind,
        queue: u32,
        change: impl FnOnce(&mut Ring) -> T,
    ) -> Result<T, Refused> {
        let which = which(kind, queue)?;
        let mut inner = self.device.lock();
        let ring = inner.ring(which);
        if ring.runs() { Err(Refused::Runs(kind, queue)) } else { Ok(change(ring)) }
    }

    fn place(&self, kind: Kind, queue: u32, places: Places) -> Result<(), Refused> {
        let guest = |user| self.guest_address(user).ok_or(Refused::Place(kind));
        let places = Places {
            table: guest(places.table)?,
            avail: guest(places.avail)?,
            used: guest(places.used)?,
        };
        let memory = self.device.lock().memory.clone().ok_or(Refused::Place(kind))?;
        let placed = self.change(kind, queue, |ring| ring.set_places(places, &memory))?;
        placed.map_err(|_| Refused::Place(kind))
    }

    /// The guest's address of a place, given by the VMM's address.
    fn guest_address(&self, user: u64) -> Option<u64> {
        self.regions.iter().find_map(|region| {
            let at = user.checked_sub(region.user).filter(|at| *at < region.len)?;
            region.guest.checked_add(at)
        })
    }

    /// `struct virtio_vsock_config`: the guest's CID.
    fn config(&self, offset: u32, len: u32) -> Vec<u8> {
        let config = u64::from(self.device.cid().get()).to_le_bytes();
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let to = from.saturating_add(usize::try_from(len).unwrap_or(usize::MAX));
        config.get(from..to).unwrap_or_default().to_vec()
    }

    /// The descriptor, if it is an eventfd, which can be used without blocking. Others are closed.
    fn checked(&self, file: Option<Foreign>, what: &str) -> Option<OwnedFd> {
        let file = file?;
        let prepared = |()| eventfd::prepare(file.as_fd()).map_err(|_| "cannot be prepared");
        match eventfd::check(file.as_fd()).and_then(prepared) {
            Ok(()) => Some(file.known()),
            Err(why) => {
                let log = self.device.log();
                log.warn(format_args!(
                    "the VMM gave a {what} that {why}: that queue does not work"
                ));
                None
            }
        }
    }
}

fn which(kind: Kind, queue: u32) -> Result<Which, Refused> {
    Which::from_wire(queue).ok_or(Refused::NoQueue(kind, queue))
}

/// Refuses features that were not offered.
fn only(taken: u64, offered: u64, kind: Kind) -> Result<(), Refused> {
    if taken & !offered == 0 { Ok(()) } else { Err(Refused::NotOffered(kind, taken & !offered)) }
}
