//! Makes a block device from a URI and runs the process that serves it. `serve` connects, gives the
//! kernel its ends of the socket pairs and starts the relay. Then it waits for signals, for clients
//! of the control socket and for the end of the relay.

use std::{
    fs::File,
    io::{self, Read},
    os::{fd::AsFd, unix::net::UnixStream},
    thread::{self, JoinHandle},
    time::Instant,
};

use agent_contexts::FencingToken;
use human::chain;
use nbd::wire::TransmissionFlags;
use nbd_client::{Client, ClientError};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
};

use super::{
    AttachError,
    control::Control,
    driver::Driver,
    export::Export,
    fenced::{Standing, open_fenced},
    frontend::{Frontend, FrontendError},
    harden::harden,
    inflight::Inflight,
    name::Device,
    notify::{notify, tell},
    redial::{Redial, STACK, pause},
    relay::Relay,
    release::release,
    saved::{Mark, Saved},
    state::{Phase, Shared, State},
    unfit::Unfit,
    wish::{Ready, Wish},
};

/// The most connections that are opened when no number is given.
const CONNECTIONS: usize = 4;

/// Attaches, calls `ready`, and returns when the kernel has disconnected.
pub(crate) fn serve(mut wish: Wish, ready: impl FnOnce(&Ready)) -> Result<(), AttachError> {
    let system = AttachError::system;
    // Report what cannot work before a server is connected to.
    let mut driver = Driver::choose(&mut wish)?;
    let fencing = match driver.before() {
        Some(before) => before.next(),
        None => FencingToken { token: token().map_err(system("get random bytes"))?, generation: 1 },
    };
    let (clients, export, block) = connect(&wish, fencing, &driver)?;
    if let Some(before) = driver.before() {
        let unfit = |why| AttachError::Unfit { uri: wish.uri.to_string(), why };
        before.is_still(&export).map_err(unfit)?;
    }
    // Before any thread is started, so that all of them inherit it.
    harden();
    let signals =
        SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT]);
    let blocked = signals.thread_block().map_err(|errno| system("block signals")(errno.into()));
    blocked?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .map_err(|errno| system("wait for signals")(errno.into()))?;
    let mut facts = Ready {
        device: wish.device.map_or_else(|| "a device".to_owned(), |device| device.to_string()),
        uri: wish.uri.to_string(),
        size: export.visible(block),
        block,
        connections: clients.len(),
        read_only: export.flags.contains(TransmissionFlags::READ_ONLY),
        relay: true,
    };
    let frontends = driver.frontends(&mut facts, &export)?;
    let saved = driver.saved(&facts, &export, fencing)?;
    let state = state(&facts);
    let inherits = driver.before().is_some_and(|before| before.unflushed);
    let known = (fencing, saved, inherits);
    let (relay, end) = start(&wish, (frontends, clients), (&export, block), known, &state)?;
    let device = match driver.start(&facts, &export) {
        Ok(device) => device,
        Err(refused) => {
            if driver.gives_up() {
                joined(relay, &facts.device)?;
                driver.end();
            }
            return Err(refused);
        }
    };
    facts.device = device.map_or_else(String::new, |device| device.to_string());
    state.lock().device.clone_from(&facts.device);
    let control = device.and_then(|device| {
        Control::open(device)
            .map_err(|error| tell(&format!("'guest-tools status' will not see this: {error}")))
            .ok()
    });
    ready(&facts);
    notify(&format!("READY=1\nSTATUS={} is {}", facts.device, facts.uri));
    let leaves = stay(device, &signals, control.as_ref(), &end, &state);
    notify("STOPPING=1");
    if leaves {
        // The kernel keeps the device for the next relay. This relay ends with its process.
        return Ok(());
    }
    joined(relay, &facts.device)?;
    driver.end();
    Ok(())
}

/// How many connections to open to an export.
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

/// Opens all connections to the server.
fn connect(
    wish: &Wish,
    fencing: FencingToken,
    driver: &Driver,
) -> Result<(Vec<Client>, Export, u32), AttachError> {
    let unfit = |why| AttachError::Unfit { uri: wish.uri.to_string(), why };
    let (first, standing) = first(wish, fencing)?;
    let mut export = Export::of_link(&first, standing, wish.read_only);
    let block = export.block().map_err(unfit)?;
    if export.visible(block) == 0 {
        return Err(unfit(Unfit::Empty));
    }
    let count = driver.count().unwrap_or_else(|| connections(wish, &export));
    let mut clients = vec![first];
    while clients.len() < count {
        let (client, standing) = open_fenced(&wish.connector, &wish.uri, fencing)?;
        let again = export.again(&client, standing);
        export.is_still(&again).map_err(unfit)?;
        export.and(&again);
        clients.push(client);
    }
    Ok((clients, export, block))
}

/// Opens the first connection. Tries for `wish.wait`, because a server may start later than its
/// guest.
fn first(wish: &Wish, fencing: FencingToken) -> Result<(Client, Standing), ClientError> {
    let until = Instant::now() + wish.wait;
    let mut tries = 1;
    loop {
        let error = match open_fenced(&wish.connector, &wish.uri, fencing) {
            Ok(opened) => return Ok(opened),
            Err(error) => error,
        };
        let left = until.saturating_duration_since(Instant::now());
        let comes = matches!(
            error,
            ClientError::Dial(_) | ClientError::Lost { .. } | ClientError::Closed { .. }
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

/// The random token that identifies this relay to its server. It is a secret between the two.
fn token() -> io::Result<u128> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u128::from_ne_bytes(bytes))
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

type Running = JoinHandle<Result<(), FrontendError>>;

/// Starts the relay on its own thread. The other end of the returned socket closes when the relay
/// ends.
fn start(
    wish: &Wish,
    (frontends, clients): (Vec<Box<dyn Frontend>>, Vec<Client>),
    (export, block): (&Export, u32),
    (fencing, saved, inherits): (FencingToken, Option<Saved>, bool),
    state: &Shared,
) -> Result<(Running, UnixStream), AttachError> {
    let longest = clients.first().map_or((0, 0), |l| (l.longest_payload(), l.longest_range()));
    let inflight = Inflight::new(export, block, longest);
    let redial = Redial::start(
        (wish.connector.clone(), wish.uri.clone()),
        clients.len(),
        export.clone(),
        fencing,
    );
    let redial = redial.map_err(AttachError::system("start a thread"))?;
    let limits = (wish.dead_timeout, wish.keep);
    let mark = saved.as_ref().map(|saved| Mark::new(&saved.path, inherits)).transpose();
    let mark = mark.map_err(AttachError::system("write what the next relay has to know"))?;
    let known = (saved.zip(mark), inherits);
    let relay = Relay::new((frontends, clients), redial, inflight, limits, known, state.clone());
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
    let panicked = || FrontendError::Socket(io::Error::other("the relay panicked, which is a bug"));
    let ended = relay.join().unwrap_or_else(|_| Err(panicked()));
    ended.map_err(|source| AttachError::Frontend { device: device.to_owned(), source })
}

/// Handles control clients and signals until the relay ends. Returns whether the relay leaves its
/// device to another one, which SIGQUIT asks for if the driver keeps the device.
fn stay(
    device: Option<Device>,
    signals: &SignalFd,
    control: Option<&Control>,
    end: &UnixStream,
    state: &Shared,
) -> bool {
    loop {
        let mut fds = vec![
            PollFd::new(end.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        fds.extend(control.map(|control| PollFd::new(control.as_fd(), PollFlags::POLLIN)));
        // After an interruption the loop goes round once more.
        poll(&mut fds, PollTimeout::NONE).ok();
        let happened: Vec<_> = fds.iter().map(|fd| fd.any().unwrap_or_default()).collect();
        drop(fds);
        if happened.first() == Some(&true) {
            return false;
        }
        if let Some(control) = control {
            control.answer(state);
        }
        while let Ok(Some(signal)) = signals.read_signal() {
            let is = |wanted| i32::try_from(signal.ssi_signo) == Ok(wanted as i32);
            let keeps = matches!(device, Some(Device::Ublk(_)));
            match device {
                Some(_) if keeps && is(Signal::SIGQUIT) => return true,
                // A terminal that is closed does not mean that the disk is to go.
                _ if is(Signal::SIGHUP) || is(Signal::SIGQUIT) => continue,
                _ => {}
            }
            let Some(device) = device else { return false };
            // On a thread of its own, because a flush may take long and the state must still be
            // reported meanwhile.
            let ending = move || {
                if let Err(error) = release(device, false) {
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
