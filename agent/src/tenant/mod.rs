//! Tenants: the parties that connections are charged to.
//!
//! A tenant is the machine if a lease names one. Otherwise the peer's address determines it: the socket of its VM, the
//! vsock CID, the Unix uid, the IPv4 address or the IPv6 /64 network. `session` gets the tenant of each connection
//! here, and charges it for places, memory, blocking work and log lines. All connections of a tenant share its limits,
//! so a tenant gains nothing by opening more of them.

mod executor;
mod memory;
mod places;
mod threads;

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicUsize},
    time::{Duration, Instant},
};

use tokio::sync::{Semaphore, oneshot};
use vsock_cid::Cid;

use self::executor::QueueId;
#[cfg(test)]
pub(crate) use self::memory::FREE;
pub(crate) use self::{
    executor::{Executor, Work},
    memory::{Account, Cover, MemoryLimits},
    places::{Place, connections_within},
    threads::{OwnThread, own_threads_within},
};
use crate::{log::Allowance, peer::Peer};

/// How long a tenant without connections is kept. A client that reconnects again and again then does not get a fresh
/// allowance of log lines each time.
const REMEMBERED: Duration = Duration::from_mins(1);
/// The number of tenants from which unused ones are dropped, the longest unused first. An IPv6 peer may have many
/// networks.
const MOST_REMEMBERED: usize = 4096;

/// Identifies the tenant that a connection is charged to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub(crate) enum Key {
    /// A machine that a lease names.
    Machine(Arc<str>),
    /// The VM behind a `vhost-user:` or `hybrid:` socket.
    Vm(Arc<Path>),
    /// A vsock CID without a lease.
    Cid(Cid),
    /// A user of this host, over a Unix socket.
    Uid(u32),
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// An IPv6 /64 network: its upper 64 bits.
    V6(u64),
    /// The process that started the agent with a connection on stdin.
    Pipe,
}

impl Key {
    /// The tenant that a peer belongs to. `machine` is the machine that its lease names.
    pub(crate) fn of(peer: &Peer, machine: Option<&Arc<str>>) -> Self {
        if let Some(machine) = machine {
            return Self::Machine(Arc::clone(machine));
        }
        match peer {
            Peer::Vsock { cid, .. } => Self::Cid(*cid),
            Peer::Unix { uid, .. } => Self::Uid(*uid),
            Peer::Vm { path, .. } => Self::Vm(Arc::clone(path)),
            Peer::Pipe => Self::Pipe,
            Peer::Tcp(address) => match address.ip().to_canonical() {
                IpAddr::V4(address) => Self::V4(address),
                IpAddr::V6(address) => Self::V6((address.to_bits() >> 64) as u64),
            },
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Machine(name) => write!(f, "machine:{name}"),
            Self::Vm(path) => write!(f, "vm:{}", path.display()),
            Self::Cid(cid) => write!(f, "vsock:{cid}"),
            Self::Uid(uid) => write!(f, "uid:{uid}"),
            Self::V4(address) => write!(f, "tcp:{address}"),
            Self::V6(network) => {
                write!(f, "tcp:{}/64", std::net::Ipv6Addr::from_bits(u128::from(*network) << 64))
            }
            Self::Pipe => f.write_str("pipe"),
        }
    }
}

/// The limits of tenants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Connections per tenant, including those in a handshake.
    pub connections: usize,
    /// Connections in all. A tenant may have as many of them as it leaves free, so that a tenant that comes late finds
    /// a place.
    pub connections_in_all: usize,
    /// Connections in all that have a thread to themselves. A tenant may have as many as it leaves free.
    pub own_threads: usize,
    /// Commands that run at once per tenant, such as mkfs(8) for a `tmpdisk`.
    pub commands: usize,
    /// Memory that connections hold.
    pub memory: MemoryLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            connections_in_all: usize::MAX,
            own_threads: threads::OWN_THREADS,
            commands: 4,
            memory: MemoryLimits::default(),
        }
    }
}

/// All tenants of this process.
#[derive(Debug, Default)]
pub(crate) struct Tenants {
    limits: Limits,
    by_key: Mutex<HashMap<Key, Arc<Tenant>>>,
    /// Connections of all tenants.
    connections: Arc<AtomicUsize>,
    /// Connections of all tenants that have a thread to themselves.
    own_threads: Arc<AtomicUsize>,
    executor: Arc<Executor>,
    memory: Arc<memory::Pool>,
}

/// One tenant, shared by its connections.
#[derive(Debug)]
pub(crate) struct Tenant {
    limits: Limits,
    connections: AtomicUsize,
    /// Connections of all tenants.
    all_connections: Arc<AtomicUsize>,
    own_threads: AtomicUsize,
    /// Threads of all tenants that serve one connection each.
    all_own_threads: Arc<AtomicUsize>,
    commands: Arc<Semaphore>,
    log: Arc<Allowance>,
    executor: Arc<Executor>,
    queue: QueueId,
    memory: memory::Share,
    /// When a connection of it last began or ended.
    used: Mutex<Instant>,
}

impl Tenants {
    /// Creates an empty table with these limits.
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Bytes that all connections hold.
    #[cfg(test)]
    pub(crate) fn memory_used(&self) -> u64 {
        self.memory.used()
    }

    /// The number of taken places.
    #[cfg(test)]
    pub(crate) fn places(&self) -> usize {
        self.connections.load(std::sync::atomic::Ordering::Acquire)
    }

    /// The threads that work for all tenants.
    pub(crate) fn executor(&self) -> &Executor {
        &self.executor
    }

    /// The tenant with this key. It is kept while it is in use, and for `REMEMBERED` after that.
    pub(crate) fn get(&self, key: Key) -> Arc<Tenant> {
        let mut by_key = lock(&self.by_key);
        if let Some(tenant) = by_key.get(&key) {
            tenant.touch();
            return Arc::clone(tenant);
        }
        forget(&mut by_key);
        let tenant = Arc::new(Tenant {
            limits: self.limits.clone(),
            connections: AtomicUsize::new(0),
            all_connections: Arc::clone(&self.connections),
            own_threads: AtomicUsize::new(0),
            all_own_threads: Arc::clone(&self.own_threads),
            commands: Arc::new(Semaphore::new(self.limits.commands)),
            log: Arc::new(Allowance::new(key.to_string())),
            executor: Arc::clone(&self.executor),
            queue: QueueId::new(),
            memory: memory::Share::new(self.limits.memory, Arc::clone(&self.memory)),
            used: Mutex::new(Instant::now()),
        });
        by_key.insert(key, Arc::clone(&tenant));
        tenant
    }
}

/// Drops unused tenants once there are too many: first all that are old, and then the older half of the unused ones if
/// there are still too many. It drops half, so that a peer with ever new addresses does not cause a walk over all of
/// them each time.
fn forget(by_key: &mut HashMap<Key, Arc<Tenant>>) {
    if by_key.len() < MOST_REMEMBERED {
        return;
    }
    by_key.retain(|_, tenant| tenant.is_used() || tenant.idle() < REMEMBERED);
    let unused = by_key.values().filter(|tenant| !tenant.is_used());
    let mut idle: Vec<_> = unused.map(|tenant| tenant.idle()).collect();
    if by_key.len() < MOST_REMEMBERED || idle.is_empty() {
        return;
    }
    let middle = idle.len() / 2;
    let median = *idle.select_nth_unstable(middle).1;
    by_key.retain(|_, tenant| tenant.is_used() || tenant.idle() < median);
}

impl Tenant {
    /// Its number, unique in this process; at least 1.
    pub(crate) fn number(&self) -> disk::Payer {
        self.queue.number()
    }

    /// The permits for commands: one per command that may run for the tenant.
    pub(crate) fn commands(&self) -> &Arc<Semaphore> {
        &self.commands
    }

    /// Its allowance of log lines. All work for its clients runs within it.
    pub(crate) fn log(&self) -> &Arc<Allowance> {
        &self.log
    }

    /// Queues work that blocks a thread.
    pub(crate) fn submit(&self, work: Box<dyn Work>) {
        self.executor.submit(&self.queue, Box::new(Logged { log: Arc::clone(&self.log), work }));
    }

    /// Runs `act`, which may block, on another thread. `None` if it panicked, which is logged. If this future is
    /// dropped, `act` still completes if it has begun.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        act: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        self.run_as(act, false).await
    }

    /// As `run`, for work that may occupy a processor for long (`Work::is_long`).
    pub(crate) async fn run_long<T: Send + 'static>(
        &self,
        act: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        self.run_as(act, true).await
    }

    async fn run_as<T: Send + 'static>(
        &self,
        act: impl FnOnce() -> T + Send + 'static,
        long: bool,
    ) -> Option<T> {
        let (tell, told) = oneshot::channel();
        let act = move || {
            // The future that waited for it may have been dropped.
            if !tell.is_closed() {
                tell.send(act()).ok();
            }
        };
        self.submit(Box::new(Once { act, long }));
        told.await.ok()
    }

    fn touch(&self) {
        *lock(&self.used) = Instant::now();
    }

    fn idle(&self) -> Duration {
        lock(&self.used).elapsed()
    }

    /// Whether it has a holder besides the table. None can be added meanwhile, because the table is locked.
    fn is_used(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) > 1
    }
}

/// Work whose log lines are charged to its tenant.
struct Logged {
    log: Arc<Allowance>,
    work: Box<dyn Work>,
}

impl Work for Logged {
    fn run(self: Box<Self>) -> Option<Box<dyn Work>> {
        let Self { log, work } = *self;
        let work = log.scope(|| work.run())?;
        Some(Box::new(Self { log, work }))
    }

    fn is_long(&self) -> bool {
        self.work.is_long()
    }

    fn stays_short(&self) -> bool {
        self.work.stays_short()
    }
}

/// Work that completes in one call.
struct Once<F> {
    act: F,
    long: bool,
}

impl<F: FnOnce() + Send> Work for Once<F> {
    fn run(self: Box<Self>) -> Option<Box<dyn Work>> {
        (self.act)();
        None
    }

    fn is_long(&self) -> bool {
        self.long
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(address: &str) -> Key {
        Key::of(&Peer::Tcp(address.parse().unwrap()), None)
    }

    #[test]
    fn peers_of_one_party_are_one_tenant() {
        assert_eq!(tcp("192.0.2.1:5"), tcp("192.0.2.1:6"));
        assert_eq!(tcp("192.0.2.1:5"), tcp("[::ffff:192.0.2.1]:6"));
        assert_ne!(tcp("192.0.2.1:5"), tcp("192.0.2.2:5"));
        assert_eq!(tcp("[2001:db8::1]:5"), tcp("[2001:db8::ffff:1]:6"));
        assert_ne!(tcp("[2001:db8:0:1::1]:5"), tcp("[2001:db8:0:2::1]:5"));
        let guest = Peer::Vsock { cid: Cid::new(3), port: 1, to: Cid::HOST };
        assert_eq!(Key::of(&guest, None), Key::Cid(Cid::new(3)));
        let name: Arc<str> = "web1".into();
        assert_eq!(Key::of(&guest, Some(&name)).to_string(), "machine:web1");
        assert_eq!(tcp("[2001:db8::1]:5").to_string(), "tcp:2001:db8::/64");
    }

    #[test]
    fn a_tenant_is_remembered_for_a_while_and_there_are_never_too_many() {
        let tenants = Tenants::default();
        let first = Arc::as_ptr(&tenants.get(Key::Cid(Cid::new(1))));
        assert_eq!(
            Arc::as_ptr(&tenants.get(Key::Cid(Cid::new(1)))),
            first,
            "its log allowance stays"
        );
        let used = tenants.get(Key::Cid(Cid::new(2)));
        for cid in 3..2 * u32::try_from(MOST_REMEMBERED).unwrap() {
            tenants.get(Key::Cid(Cid::new(cid)));
        }
        assert!(lock(&tenants.by_key).len() <= MOST_REMEMBERED);
        assert!(Arc::ptr_eq(&tenants.get(Key::Cid(Cid::new(2))), &used), "one that is used stays");
    }
}
