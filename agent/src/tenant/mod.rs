//! Tenants: the parties that connections are charged to.
//!
//! A tenant is the machine where one is known, else what the peer's address says: the vsock CID, the Unix
//! uid, the IPv4 address or the IPv6 /64 network. `session` finds the tenant of each connection here, and
//! charges it for places, memory, blocking work and log lines. All connections of a tenant share its limits,
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

use self::executor::QueueId;
pub use self::{
    executor::{Executor, Work},
    memory::{Account, Cover, FREE, MemoryLimits},
    places::{Full, Place, connections_within},
    threads::{OwnThread, own_threads_within},
};
use crate::{log::Allowance, peer::Peer};

/// How long a tenant without connections is remembered, so that a client which connects again and again
/// does not begin with a fresh allowance of log lines each time.
const REMEMBERED: Duration = Duration::from_mins(1);
/// Tenants that are remembered without connections; the longest unused ones go first. An IPv6 peer may
/// have many networks.
const MOST_REMEMBERED: usize = 4096;

/// Who a connection is charged to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Key {
    /// A machine that a lease names.
    Machine(Arc<str>),
    /// The VM behind a `vhost-user:` or `hybrid:` socket.
    Vm(Arc<Path>),
    /// A vsock CID without a lease.
    Cid(u32),
    /// A user of this host, over a Unix socket.
    Uid(u32),
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// An IPv6 /64 network: its upper 64 bits.
    V6(u64),
    /// Whoever started the agent with its connection on stdin.
    Pipe,
}

impl Key {
    /// The tenant that a peer belongs to; `machine` is the one that its lease names.
    pub fn of(peer: &Peer, machine: Option<&Arc<str>>) -> Self {
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

/// What tenants may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections of one tenant, handshakes included.
    pub connections: usize,
    /// Connections in all. A tenant may have as many of them as it leaves free, so that one which comes late
    /// finds a place.
    pub connections_in_all: usize,
    /// Connections in all that have a thread to themselves. A tenant may have as many as it leaves free.
    pub own_threads: usize,
    /// Commands that run for one tenant at once, such as mkfs(8) for a `tmpdisk`.
    pub commands: usize,
    /// What connections hold.
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

/// Every tenant of this process.
#[derive(Debug, Default)]
pub struct Tenants {
    limits: Limits,
    by_key: Mutex<HashMap<Key, Arc<Tenant>>>,
    /// Connections of all of them.
    connections: Arc<AtomicUsize>,
    /// Connections of all of them that have a thread to themselves.
    own_threads: Arc<AtomicUsize>,
    executor: Arc<Executor>,
    memory: Arc<memory::Pool>,
}

/// One tenant, shared by its connections.
#[derive(Debug)]
pub struct Tenant {
    key: Key,
    limits: Limits,
    connections: AtomicUsize,
    /// Those of all tenants.
    all_connections: Arc<AtomicUsize>,
    own_threads: AtomicUsize,
    /// Those of all tenants.
    all_own_threads: Arc<AtomicUsize>,
    commands: Arc<Semaphore>,
    log: Arc<Allowance>,
    executor: Arc<Executor>,
    queue: QueueId,
    memory: memory::Share,
    /// When its last connection ended or began.
    used: Mutex<Instant>,
}

impl Tenants {
    /// Tenants with these limits.
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Bytes that their connections hold.
    #[cfg(test)]
    pub(crate) fn memory_used(&self) -> u64 {
        self.memory.used()
    }

    /// Places that are taken.
    #[cfg(test)]
    pub(crate) fn places(&self) -> usize {
        self.connections.load(std::sync::atomic::Ordering::Acquire)
    }

    /// The threads that work for all of them.
    pub fn executor(&self) -> &Executor {
        &self.executor
    }

    /// The tenant of that key, as long as somebody uses it and a while longer.
    pub fn get(&self, key: Key) -> Arc<Tenant> {
        let mut by_key = lock(&self.by_key);
        if let Some(tenant) = by_key.get(&key) {
            tenant.touch();
            return Arc::clone(tenant);
        }
        forget(&mut by_key);
        let tenant = Arc::new(Tenant {
            key: key.clone(),
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

/// Drops the tenants that nobody uses: all that are old, and the older half when there are too many. Half of
/// them, so that a peer with ever new addresses does not cost a walk over all of them each time.
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
    /// Its number, which no other tenant of this process ever has; at least 1.
    pub fn number(&self) -> disk::Payer {
        self.queue.number()
    }

    /// Who it is.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// A permit for each command that may run for it.
    pub(crate) fn commands(&self) -> &Arc<Semaphore> {
        &self.commands
    }

    /// Its allowance of log lines. What is done for a client is done within it.
    pub fn log(&self) -> &Arc<Allowance> {
        &self.log
    }

    /// Queues work that blocks a thread.
    pub fn submit(&self, work: Box<dyn Work>) {
        self.executor.submit(&self.queue, Box::new(Logged { log: Arc::clone(&self.log), work }));
    }

    /// Does on a thread of its own what would block this one. `None` if it panicked, which is logged. If
    /// this is dropped before, it is done all the same once it has begun.
    pub async fn run<T: Send + 'static>(
        &self,
        act: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        self.run_as(act, false).await
    }

    /// The same for what may take a processor for long (`Work::is_long`).
    pub async fn run_long<T: Send + 'static>(
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
            // Whoever waited for it may be gone.
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

    /// Somebody else than the table has it. Nobody can get it meanwhile: the table is locked.
    fn is_used(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) > 1
    }
}

/// Work whose lines in the log are charged to its tenant.
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

/// Work that is done in one go.
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
        let guest = Peer::Vsock { cid: 3, port: 1, to: 2 };
        assert_eq!(Key::of(&guest, None), Key::Cid(3));
        let name: Arc<str> = "web1".into();
        assert_eq!(Key::of(&guest, Some(&name)).to_string(), "machine:web1");
        assert_eq!(tcp("[2001:db8::1]:5").to_string(), "tcp:2001:db8::/64");
    }

    #[test]
    fn a_tenant_is_remembered_for_a_while_and_there_are_never_too_many() {
        let tenants = Tenants::default();
        let first = Arc::as_ptr(&tenants.get(Key::Cid(1)));
        assert_eq!(Arc::as_ptr(&tenants.get(Key::Cid(1))), first, "its log allowance stays");
        let used = tenants.get(Key::Cid(2));
        for cid in 3..2 * u32::try_from(MOST_REMEMBERED).unwrap() {
            tenants.get(Key::Cid(cid));
        }
        assert!(lock(&tenants.by_key).len() <= MOST_REMEMBERED);
        assert!(Arc::ptr_eq(&tenants.get(Key::Cid(2)), &used), "one that is used stays");
    }
}
