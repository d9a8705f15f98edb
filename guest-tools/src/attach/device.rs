//! From a URI to a block device, and the process that stays behind it: connects, gives the kernel its
//! ends of the socket pairs, starts the relay, and then waits for signals, for people who ask for the
//! state, and for the end.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::Command,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nbd::{Uri, negotiate::Instead, wire::TransmissionFlags};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
        socket::{setsockopt, sockopt},
    },
};
use serde_json::{Value, json};

use super::{
    AttachError,
    control::Control,
    device_name,
    export::Export,
    harden::harden,
    lane::LaneError,
    netlink::{Connect, Driver},
    notify::{notify, tell},
    redial::{Redial, STACK, pause},
    relay::Relay,
    release::release,
    state::{Phase, Shared, State},
    tasks::Tasks,
};
use crate::{chain, error::SessionError, greet::Standing, link::Link};

/// Connections when nobody says how many, at most.
const CONNECTIONS: usize = 4;
/// Bytes of each direction of a socket pair.
const BUFFER: usize = 1 << 20;

/// What is to be attached, and how.
#[derive(Debug)]
pub(crate) struct Wish {
    pub(crate) uri: Uri,
    /// /dev/nbdN; else the first that is free.
    pub(crate) index: Option<u32>,
    pub(crate) connections: Option<usize>,
    pub(crate) read_only: bool,
    /// How long the kernel's requests wait for a server that is gone; `None`: for ever.
    pub(crate) dead_timeout: Option<Duration>,
    /// How long to try to connect at first.
    pub(crate) wait: Duration,
    /// Bytes of acknowledged changes that are kept.
    pub(crate) keep: usize,
    /// The other ends are in these hands, and no kernel is asked.
    pub(crate) ends: Vec<UnixStream>,
}

/// A device that can be used.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) device: String,
    pub(super) uri: String,
    pub(super) size: u64,
    pub(super) block: u32,
    pub(super) connections: usize,
    pub(super) read_only: bool,
    /// A relay stands between the kernel and the server.
    pub(super) relay: bool,
}

impl Ready {
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "device": self.device,
            "uri": self.uri,
            "size": self.size,
            "block_size": self.block,
            "connections": self.connections,
            "read_only": self.read_only,
            "relay": self.relay,
        })
    }
}

/// Attaches, says so by `ready`, and stays until the kernel has disconnected.
pub(crate) fn serve(mut wish: Wish, ready: impl FnOnce(&Ready)) -> Result<(), AttachError> {
    let system = AttachError::system;
    let ends = std::mem::take(&mut wish.ends);
    // What does not work anyway is told before anybody is connected to.
    let driver = if ends.is_empty() { Some(driver()?) } else { None };
    let instead = Instead { token: token().map_err(system("get random bytes"))?, generation: 1 };
    let count = if driver.is_none() { ends.len() } else { 0 };
    let (links, export, block) = connect(&wish, instead, count)?;
    // Before there are threads: all of them are to have it.
    harden();
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
    let blocked = signals.thread_block().map_err(|errno| system("block signals")(errno.into()));
    blocked?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .map_err(|errno| system("wait for signals")(errno.into()))?;
    let (kernels, ours) = if driver.is_some() { pairs(links.len())? } else { (Vec::new(), ends) };
    let mut facts = Ready {
        device: wish.index.map_or_else(|| "a device".to_owned(), device_name),
        uri: wish.uri.to_string(),
        size: export.visible(block),
        block,
        connections: links.len(),
        read_only: export.flags.contains(TransmissionFlags::READ_ONLY),
        relay: true,
    };
    let state = state(&facts);
    let flags = export.for_kernel().bits();
    let (relay, end) = start(&wish, ours, links, (export, block), instead, &state)?;
    let mut index = None;
    if let Some(mut driver) = driver {
        let asked = driver.connect(&Connect {
            index: wish.index,
            sockets: &kernels,
            size: facts.size,
            block,
            flags,
            identifier: &facts.uri,
        });
        // The kernel has them, or nobody; in that case the relay ends.
        drop(kernels);
        match asked {
            Ok(given) => index = Some(given),
            Err(source) => {
                joined(relay, &facts.device)?;
                return Err(refused(&facts.device, &facts.uri, source));
            }
        }
        facts.device = index.map_or_else(String::new, device_name);
        state.lock().device.clone_from(&facts.device);
    }
    let control = index.and_then(|index| {
        Control::open(index)
            .map_err(|error| tell(&format!("'guest-tools status' will not see this: {error}")))
            .ok()
    });
    ready(&facts);
    notify(&format!("READY=1\nSTATUS={} is {}", facts.device, facts.uri));
    stay(index, &signals, control.as_ref(), &end, &state);
    notify("STOPPING=1");
    joined(relay, &facts.device)
}

/// The driver, loaded if that can be done.
pub(super) fn driver() -> Result<Driver, AttachError> {
    let is_missing = |error: &io::Error| error.raw_os_error() == Some(Errno::ENOENT as i32);
    match Driver::open() {
        Err(error) if is_missing(&error) => {}
        other => return other.map_err(AttachError::system("ask the kernel's nbd driver")),
    }
    // Whatever comes of it, the driver is there afterwards or not.
    Command::new("modprobe").arg("nbd").output().ok();
    Driver::open().map_err(|source| AttachError::NoDriver {
        mend: "modprobe nbd, as root; it is in the package of the kernel's modules",
        source,
    })
}

/// How many connections an export is given.
pub(super) fn connections(wish: &Wish, export: &Export) -> usize {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let count = wish.connections.unwrap_or_else(|| processors.min(CONNECTIONS)).max(1);
    if export.flags.contains(TransmissionFlags::CAN_MULTI_CONN) {
        return count;
    }
    if wish.connections.is_some_and(|count| count > 1) {
        tell("the server allows one connection: one is used");
    }
    1
}

/// All links; `count`, if not 0, is said by somebody else.
fn connect(
    wish: &Wish,
    instead: Instead,
    count: usize,
) -> Result<(Vec<Link>, Export, u32), AttachError> {
    let unfit = |why| AttachError::Unfit { uri: wish.uri.to_string(), why };
    let (first, standing) = first(wish, instead)?;
    let export = Export::of_link(&first, standing, wish.read_only);
    let block = export.block().map_err(unfit)?;
    if export.visible(block) == 0 {
        return Err(unfit("it has no bytes".to_owned()));
    }
    let count = if count == 0 { connections(wish, &export) } else { count };
    let mut links = vec![first];
    while links.len() < count {
        let (link, standing) = Link::open_instead(&wish.uri, instead)?;
        export.is_still(&export.again(&link, standing)).map_err(unfit)?;
        links.push(link);
    }
    Ok((links, export, block))
}

/// The first link: a server may come up later than its guest.
fn first(wish: &Wish, instead: Instead) -> Result<(Link, Standing), SessionError> {
    let until = Instant::now() + wish.wait;
    let mut tries = 1;
    loop {
        let error = match Link::open_instead(&wish.uri, instead) {
            Ok(opened) => return Ok(opened),
            Err(error) => error,
        };
        let left = until.saturating_duration_since(Instant::now());
        let comes = matches!(
            error,
            SessionError::Dial(_) | SessionError::Lost { .. } | SessionError::Closed { .. }
        );
        if left.is_zero() || !comes {
            return Err(error);
        }
        if tries == 1 {
            notify(&format!("STATUS=waiting for the server: {}", chain(&error)));
        }
        thread::park_timeout(pause(tries).min(left));
        tries += 1;
    }
}

/// What this relay names itself by, to its server only.
fn token() -> io::Result<u128> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u128::from_ne_bytes(bytes))
}

/// The kernel's ends and ours.
fn pairs(count: usize) -> Result<(Vec<OwnedFd>, Vec<UnixStream>), AttachError> {
    let (mut kernels, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let pair = UnixStream::pair().map_err(AttachError::system("make a pair of sockets"))?;
        for end in [&pair.0, &pair.1] {
            // With less they work too.
            setsockopt(end, sockopt::SndBufForce, &BUFFER).ok();
        }
        kernels.push(pair.0.into());
        ours.push(pair.1);
    }
    Ok((kernels, ours))
}

fn state(facts: &Ready) -> Shared {
    Shared::new(State {
        device: facts.device.clone(),
        uri: facts.uri.clone(),
        size: facts.size,
        connections: facts.connections,
        read_only: facts.read_only,
        phase: Phase::Connected,
        since: Instant::now(),
        reconnects: 0,
        repeated: 0,
        replayed: 0,
        under_way: 0,
        unflushed: 0,
        last_error: None,
    })
}

type Running = JoinHandle<Result<(), LaneError>>;

/// The relay on its own thread, and a socket whose other end closes with it.
fn start(
    wish: &Wish,
    ours: Vec<UnixStream>,
    links: Vec<Link>,
    (export, block): (Export, u32),
    instead: Instead,
    state: &Shared,
) -> Result<(Running, UnixStream), AttachError> {
    let longest = links.first().map_or((0, 0), |l| (l.longest_payload(), l.longest_range()));
    let tasks = Tasks::new(&export, block, longest);
    let redial = Redial::start(wish.uri.clone(), links.len(), export, instead);
    let redial = redial.map_err(AttachError::system("start a thread"))?;
    let limits = (wish.dead_timeout, wish.keep);
    let relay = Relay::new(ours, links, redial, tasks, limits, state.clone());
    let relay = relay.map_err(AttachError::system("set up the sockets"))?;
    let (end, alive) = UnixStream::pair().map_err(AttachError::system("make a pair of sockets"))?;
    let thread = thread::Builder::new().name("relay".to_owned()).stack_size(STACK);
    let running = thread.spawn(move || {
        let done = relay.run();
        drop(alive);
        done
    });
    Ok((running.map_err(AttachError::system("start a thread"))?, end))
}

fn joined(relay: Running, device: &str) -> Result<(), AttachError> {
    let panicked = || LaneError::Socket(io::Error::other("the relay panicked, which is a bug"));
    let ended = relay.join().unwrap_or_else(|_| Err(panicked()));
    ended.map_err(|source| AttachError::Lane { device: device.to_owned(), source })
}

/// Answers questions and signals until the relay ends.
fn stay(
    index: Option<u32>,
    signals: &SignalFd,
    control: Option<&Control>,
    end: &UnixStream,
    state: &Shared,
) {
    loop {
        let mut fds = vec![
            PollFd::new(end.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        fds.extend(control.map(|control| PollFd::new(control.as_fd(), PollFlags::POLLIN)));
        // An interruption is a turn like any other.
        poll(&mut fds, PollTimeout::NONE).ok();
        let happened: Vec<_> = fds.iter().map(|fd| fd.any().unwrap_or_default()).collect();
        drop(fds);
        if happened.first() == Some(&true) {
            return;
        }
        if let Some(control) = control {
            control.answer(state);
        }
        while let Ok(Some(signal)) = signals.read_signal() {
            // A terminal that closes is no wish to lose a disk.
            if i32::try_from(signal.ssi_signo) == Ok(Signal::SIGHUP as i32) {
                continue;
            }
            let Some(index) = index else { return };
            // Flushing may take its time, and state is to be told in it.
            let ending = move || {
                if let Err(error) = release(index, false) {
                    tell(&format!("asked to end, but {}", chain(&error)));
                }
            };
            let thread = thread::Builder::new().stack_size(STACK).spawn(ending);
            if let Err(error) = thread {
                tell(&format!("cannot start a thread: {error}"));
            }
        }
    }
}

/// What the driver's refusal means.
pub(super) fn refused(device: &str, uri: &str, source: io::Error) -> AttachError {
    let mend = match source.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EPERM | Errno::EACCES) => "only root may: CAP_SYS_ADMIN is needed",
        Some(Errno::EBUSY) => {
            "another program has it, or has it open: see 'guest-tools status', fuser"
        }
        Some(Errno::EINVAL) if fs::exists("/sys/module/nbd").unwrap_or(false) => {
            "the kernel's driver refuses it: dmesg says why; without --direct it gets a relay's \
             sockets"
        }
        Some(Errno::ENOENT | Errno::ENODEV) => "there is no such device: leave --device out",
        _ => "dmesg may say why",
    };
    let (device, uri) = (device.to_owned(), uri.to_owned());
    AttachError::Connect { device, uri, mend, source }
}
