//! A path on which VMs connect, one after the other: vhost-user (QEMU's docs/interop/vhost-user.rst).
//!
//! The protocol is rust-vmm's, on threads of its own: one that speaks with the VMM and one that hears
//! the guest's kicks. Neither waits for a disk.

use std::{
    fmt, io,
    os::{fd::AsRawFd, unix::net::UnixListener},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use nix::sys::socket::{Shutdown, shutdown};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use vhost::vhost_user::{Listener, VhostUserProtocolFeatures, message::VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackend, VhostUserDaemon};
use virtio_bindings::{
    virtio_config::VIRTIO_F_VERSION_1,
    virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC},
};
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::{
    epoll::EventSet,
    event::{EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier},
};

use super::{
    connection::Connection,
    device::{Device, Kick},
    memory::Memory,
    peers::MOST,
    vring::Vring,
};

/// RX, what the guest receives by, and TX; its events are QEMU's own.
const QUEUES: usize = 2;
const QUEUE_SIZE: usize = 1024;
/// Token of the device's own kick, behind those of the queues and of the thread's end.
const KICK: u16 = 8;
/// After a VMM that could not be served, so that one that comes again and again costs little.
const PAUSE: Duration = Duration::from_millis(50);

/// Which VM, and what it reaches.
#[derive(Debug, Clone)]
pub struct Place {
    pub path: Arc<Path>,
    /// The guest's, inside its VM.
    pub cid: u32,
    /// The port of the host that is ours.
    pub port: u32,
}

/// Serves the VMs of one path until it is dropped.
pub struct Host {
    place: Place,
    accepted: Receiver<Connection>,
    listener: UnixListener,
    ending: Arc<AtomicBool>,
}

impl Host {
    /// `listener` stands at the place's path.
    pub fn start(listener: UnixListener, place: Place) -> io::Result<Self> {
        // A VM has no more connections than that.
        let (sender, accepted) = channel(MOST);
        let ending = Arc::new(AtomicBool::new(false));
        let (theirs, its_place, its_end) =
            (listener.try_clone()?, place.clone(), Arc::clone(&ending));
        thread::Builder::new()
            .name("vhost-user".into())
            .spawn(move || serve(theirs, &its_place, &sender, &its_end))?;
        Ok(Self { place, accepted, listener, ending })
    }

    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The next connection of a guest.
    pub async fn accept(&mut self) -> io::Result<Connection> {
        // The thread ends only with us.
        self.accepted.recv().await.ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Release);
        // Ends the thread's accept(2).
        shutdown(self.listener.as_raw_fd(), Shutdown::Both).ok();
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("place", &self.place).finish_non_exhaustive()
    }
}

/// One VM after the other.
fn serve(
    listener: UnixListener,
    place: &Place,
    accepted: &Sender<Connection>,
    ending: &AtomicBool,
) {
    let mut listener = Listener::from(listener);
    let path = place.path.display();
    while !ending.load(Ordering::Acquire) {
        match one(&mut listener, place, accepted) {
            Ok(()) => tracing::info!("the VM at {path} is gone: waiting for the next"),
            Err(_) if ending.load(Ordering::Acquire) => return,
            Err(error) => {
                tracing::warn!("vhost-user:{path}: {error}; waiting for the next VM");
                thread::sleep(PAUSE);
            }
        }
    }
}

fn one(
    listener: &mut Listener,
    place: &Place,
    accepted: &Sender<Connection>,
) -> Result<(), Box<dyn std::error::Error>> {
    let (kicked, kick) = new_event_consumer_and_notifier(EventFlag::NONBLOCK)?;
    let device = Arc::new(Device::new(place.clone(), accepted.clone(), Kick::new(kick)));
    let backend = Arc::new(Backend { device: Arc::clone(&device), kicked });
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let mut daemon = VhostUserDaemon::new("vhost-user".into(), Arc::clone(&backend), memory)
        .map_err(|error| error.to_string())?;
    for handler in daemon.get_epoll_handlers() {
        handler.register_listener(backend.kicked.as_raw_fd(), EventSet::IN, KICK.into())?;
    }
    daemon.start(listener).map_err(|error| error.to_string())?;
    tracing::info!("a VM is connected at {}", place.path.display());
    let ended = daemon.wait();
    device.end();
    drop(daemon);
    match ended {
        Ok(())
        | Err(vhost_user_backend::Error::HandleRequest(
            vhost::vhost_user::Error::Disconnected | vhost::vhost_user::Error::PartialMessage,
        )) => Ok(()),
        Err(error) => Err(error.to_string().into()),
    }
}

/// What rust-vmm asks.
struct Backend {
    device: Arc<Device>,
    kicked: EventConsumer,
}

impl VhostUserBackend for Backend {
    type Bitmap = ();
    type Vring = Vring;

    fn num_queues(&self) -> usize {
        QUEUES
    }

    fn max_queue_size(&self) -> usize {
        QUEUE_SIZE
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_F_VERSION_1
            | 1 << VIRTIO_RING_F_EVENT_IDX
            | 1 << VIRTIO_RING_F_INDIRECT_DESC
            | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::CONFIG | VhostUserProtocolFeatures::RESET_DEVICE
    }

    fn reset_device(&self) {
        self.device.reset();
    }

    /// Each queue knows by itself.
    fn set_event_idx(&self, _enabled: bool) {}

    /// `struct virtio_vsock_config`: the guest's CID.
    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let config = u64::from(self.device.cid()).to_le_bytes();
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let to = from.saturating_add(usize::try_from(size).unwrap_or(usize::MAX));
        config.get(from..to).unwrap_or_default().to_vec()
    }

    fn update_memory(&self, memory: GuestMemoryAtomic<GuestMemoryMmap>) -> io::Result<()> {
        self.device.set_memory(Memory::new(memory.memory().into_inner())?);
        Ok(())
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        new_event_consumer_and_notifier(EventFlag::NONBLOCK).ok()
    }

    fn stop_vring(&self, _index: u32) -> io::Result<()> {
        self.device.stop();
        Ok(())
    }

    fn handle_event(
        &self,
        event: u16,
        _set: EventSet,
        vrings: &[Vring],
        _thread: usize,
    ) -> io::Result<()> {
        if event == KICK {
            // Nothing to read is as good.
            self.kicked.consume().ok();
        }
        if let [rx, tx, ..] = vrings {
            self.device.kicked(rx, tx);
        }
        Ok(())
    }
}
