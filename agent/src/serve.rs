//! The running agent: listeners on the main thread, sessions on the engine's threads, and the shutdown after a signal.
//!
//! `startup` calls `serve` once, with everything open.

mod status;
mod watchdog;

use std::{
    collections::HashMap,
    fmt, io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{Notify, watch},
    task::JoinSet,
};

use crate::{
    event_loop::EventLoop,
    lifecycle::Lifecycle,
    listen::{Accepted, Listener},
    peer::Peer,
    session::{self, Life, Rules},
    shell,
};

/// How long commands that run for a client have to end: a little more than the time that they get to end by themselves.
const COMMANDS: Duration = Duration::from_secs(3);
/// How long sessions have to close after `Life::Ending`.
const LAST_MOMENT: Duration = Duration::from_secs(1);

/// The threads that serve: one per processor, each with a runtime and an epoll of its own. tokio's multi-thread runtime
/// is not used: there each event may wake a second thread, which costs a request more than its work.
///
/// There is also one thread per VM whose memory the agent accesses. Touching a page of that memory blocks as long as
/// the VMM likes (for a file that is not in the page cache, or a hole that is being punched).
#[derive(Debug)]
pub(crate) struct Engine {
    workers: Vec<Worker>,
    /// By the path of the VM's socket.
    vms: HashMap<Arc<Path>, Worker>,
    /// Notified when a session has begun or ended.
    changed: Arc<Notify>,
}

#[derive(Debug)]
struct Worker {
    event_loop: EventLoop,
    sessions: Arc<AtomicUsize>,
}

/// A session's place on a thread. It is freed when the session ends in any way.
struct Seat {
    sessions: Arc<AtomicUsize>,
    changed: Arc<Notify>,
    peer: Peer,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.sessions.fetch_sub(1, Ordering::Relaxed);
        self.changed.notify_one();
        if thread::panicking() {
            tracing::error!(peer = %self.peer, "the session ended by a bug in agent; others go on");
        }
    }
}

impl Engine {
    /// Starts the threads that `listeners` need.
    ///
    /// # Errors
    /// Those of starting a thread.
    pub(crate) fn start(listeners: &[Listener]) -> io::Result<Self> {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let start = |index| Worker::start(format!("engine-{index}"));
        let workers = (0..threads).map(start).collect::<io::Result<_>>()?;
        let vms = listeners.iter().filter_map(Listener::vm).enumerate();
        let vms = vms.map(|(index, path)| Ok((path, Worker::start(format!("vm-{index}"))?)));
        Ok(Self { workers, vms: vms.collect::<io::Result<_>>()?, changed: Arc::default() })
    }

    fn all(&self) -> impl Iterator<Item = &Worker> {
        self.workers.iter().chain(self.vms.values())
    }

    /// The thread for the peer's session: its VM's own thread, or the one with the fewest sessions.
    fn worker(&self, peer: &Peer) -> &Worker {
        let own = match peer {
            Peer::Vm { path, .. } => self.vms.get(path),
            _ => None,
        };
        let count = |worker: &&Worker| worker.sessions.load(Ordering::Relaxed);
        own.or_else(|| self.workers.iter().min_by_key(count)).expect("there is always one thread")
    }

    /// Serves a client in a session of its own.
    fn serve(
        &self,
        sessions: &mut JoinSet<()>,
        accepted: Accepted,
        peer: Peer,
        rules: Arc<Rules>,
        life: watch::Receiver<Life>,
    ) {
        self.run(sessions, peer.clone(), async move {
            session::run(accepted, peer, rules, life).await;
        });
    }

    /// The number of open sessions.
    fn sessions(&self) -> usize {
        self.all().map(|worker| worker.sessions.load(Ordering::Relaxed)).sum()
    }

    /// Waits until every thread that is not a VM's has run a task. A thread that hangs never does.
    async fn answers(&self) {
        for worker in &self.workers {
            // It cannot panic, and nothing aborts it.
            worker.event_loop.handle().spawn(async {}).await.ok();
        }
    }

    /// Runs a session.
    fn run<S>(&self, sessions: &mut JoinSet<()>, peer: Peer, session: S)
    where
        S: Future<Output = ()> + Send + 'static,
    {
        let worker = self.worker(&peer);
        worker.sessions.fetch_add(1, Ordering::Relaxed);
        self.changed.notify_one();
        let (sessions_here, changed) = (Arc::clone(&worker.sessions), Arc::clone(&self.changed));
        let seat = Seat { sessions: sessions_here, changed, peer };
        let task = async move {
            let _seat = seat;
            session.await;
        };
        sessions.spawn_on(task, worker.event_loop.handle());
    }
}

impl Worker {
    fn start(name: String) -> io::Result<Self> {
        let event_loop = EventLoop::start(name, ())?;
        Ok(Self { event_loop, sessions: Arc::default() })
    }
}

/// The signals that the agent handles. SIGPIPE is ignored by Rust's runtime.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hangup: Signal,
    report: Signal,
}

impl Signals {
    /// Installs the handlers. Must be called on a runtime.
    pub(crate) fn catch() -> io::Result<Self> {
        // A write beyond the limit on file sizes would end the agent; with a handler it fails with EFBIG for the one
        // client. The handler remains when the value returned here is dropped.
        drop(signal(SignalKind::from_raw(libc::SIGXFSZ))?);
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hangup: signal(SignalKind::hangup())?,
            report: signal(SignalKind::user_defined1())?,
        })
    }

    /// Waits for a signal to stop and returns its name. Handles the other signals until then.
    pub(crate) async fn stop(&mut self, lifecycle: &Lifecycle) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "TERM",
                _ = self.interrupt.recv() => return "INT",
                _ = self.quit.recv() => return "QUIT",
                _ = self.hangup.recv() => {
                    tracing::info!("HUP: reading again what can be");
                    status::reloading(|| lifecycle.reload());
                }
                _ = self.report.recv() => lifecycle.report(),
            }
        }
    }
}

/// How the agent ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    InOrder,
    /// A second signal ended it before the sessions had finished.
    AtOnce,
}

/// Serves until a signal, and then ends the sessions in order. They finish the requests in flight for up to
/// `shutdown_timeout`, and are cut after it. A second signal cuts them at once. Without a listener it also ends with
/// the last of the `connected`.
pub(crate) async fn serve(
    listeners: Vec<Listener>,
    connected: Vec<(Accepted, Peer)>,
    rules: Arc<Rules>,
    engine: Engine,
    signals: &mut Signals,
    lifecycle: &Lifecycle,
    shutdown_timeout: Duration,
) -> Ended {
    let (life, _) = watch::channel(Life::Serving);
    let engine = Arc::new(engine);
    let mut attendants = JoinSet::new();
    for listener in listeners {
        let (engine, rules) = (Arc::clone(&engine), Arc::clone(&rules));
        attendants.spawn(attend(listener, engine, rules, life.subscribe()));
    }

    if !connected.is_empty() {
        let (engine, rules) = (Arc::clone(&engine), Arc::clone(&rules));
        attendants.spawn(attend_connected(connected, engine, rules, life.subscribe()));
    }

    let pings = watchdog::pings(&engine);
    let status = status::tell(&engine);
    let stop = lifecycle.stop();
    let why = tokio::select! {
        // These two futures never complete.
        () = pings => None,
        () = status => None,
        name = signals.stop(lifecycle) => Some(name.to_owned()),
        why = stop.asked() => Some(why),
        // With a listener this never completes: the agent accepts as long as it serves.
        () = all(&mut attendants) => None,
    };
    if let Some(why) = why {
        tracing::info!("{why}: no new connections; ending when those that are open are done");
    } else {
        tracing::info!("the last connection has ended");
    }
    status::stopping();
    life.send_replace(Life::Draining);
    let mut ended = Ended::InOrder;
    tokio::select! {
        () = all(&mut attendants) => {}
        name = signals.stop(lifecycle) => {
            tracing::warn!("{name} again: ending now, whatever is in flight");
            ended = Ended::AtOnce;
        }
        () = tokio::time::sleep(shutdown_timeout) => {
            let seconds = shutdown_timeout.as_secs_f64();
            tracing::warn!("sessions have not ended within {seconds} s (--shutdown-timeout): closing them");
            life.send_replace(Life::Ending);
            tokio::select! {
                () = all(&mut attendants) => {}
                _ = signals.stop(lifecycle) => ended = Ended::AtOnce,
                () = tokio::time::sleep(LAST_MOMENT) => {}
            }
        }
    }
    // Commands of clients that are gone remove what they have made.
    if ended == Ended::InOrder {
        tokio::time::timeout(COMMANDS, shell::all_ended()).await.ok();
    }
    lifecycle.exit();
    ended
}

async fn all(tasks: &mut JoinSet<()>) {
    while tasks.join_next().await.is_some() {}
}

/// Accepts on one listener while the agent serves, then closes it and waits for its sessions.
async fn attend(
    mut listener: Listener,
    engine: Arc<Engine>,
    rules: Arc<Rules>,
    life: watch::Receiver<Life>,
) {
    let mut serving = life.clone();
    let mut sessions = JoinSet::new();
    loop {
        tokio::select! {
            _ = serving.wait_for(|life| *life != Life::Serving) => break,
            // The log has its end already; this only removes it from the set.
            Some(_) = sessions.join_next() => {}
            (accepted, peer) = listener.accept() => {
                engine.serve(&mut sessions, accepted, peer, Arc::clone(&rules), life.clone());
            }
        }
    }
    let name = listener.to_string();
    drop(listener);
    tracing::debug!("closed {name}");
    all(&mut sessions).await;
}

/// Serves connections that existed at the start.
async fn attend_connected(
    connected: Vec<(Accepted, Peer)>,
    engine: Arc<Engine>,
    rules: Arc<Rules>,
    life: watch::Receiver<Life>,
) {
    let mut sessions = JoinSet::new();
    for (accepted, peer) in connected {
        engine.serve(&mut sessions, accepted, peer, Arc::clone(&rules), life.clone());
    }
    all(&mut sessions).await;
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seat").field("peer", &self.peer).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{iter, sync::mpsc};

    use vsock_cid::Cid;

    use super::*;

    /// Waits until `count` sessions have ended. Returns how many of them panicked.
    async fn ended(sessions: &mut JoinSet<()>, count: usize) -> usize {
        let mut panics = 0;
        for _ in 0..count {
            let result = sessions.join_next().await.expect("as many as were started");
            panics += usize::from(result.is_err_and(|error| error.is_panic()));
        }
        panics
    }

    /// An engine with `threads` threads, and one for a VM.
    fn engine(threads: usize) -> Engine {
        let worker = || Worker::start("engine".into()).unwrap();
        let workers = iter::repeat_with(worker).take(threads).collect();
        let vms = HashMap::from([(Path::new("/vm").into(), worker())]);
        Engine { workers, vms, changed: Arc::default() }
    }

    #[tokio::test]
    async fn a_vm_whose_memory_blocks_delays_no_other_thread() {
        let engine = engine(1);
        let mut sessions = JoinSet::new();
        let (come, memory) = mpsc::channel::<()>();
        let memory = std::sync::Mutex::new(memory);
        let vm = Peer::Vm { path: Path::new("/vm").into(), port: Some(1) };
        engine.run(&mut sessions, vm, async move {
            memory.lock().unwrap().recv().ok();
        });
        // Neither the sessions of others nor the watchdog wait for it.
        engine.run(
            &mut sessions,
            Peer::Vsock { cid: Cid::new(3), port: 1, to: Cid::HOST },
            async {},
        );
        assert_eq!(ended(&mut sessions, 1).await, 0);
        engine.answers().await;
        assert_eq!(engine.sessions(), 1);
        come.send(()).unwrap();
        assert_eq!(ended(&mut sessions, 1).await, 0);
    }

    fn taken(engine: &Engine) -> Vec<usize> {
        engine.workers.iter().map(|worker| worker.sessions.load(Ordering::Relaxed)).collect()
    }

    #[tokio::test]
    async fn sessions_are_spread_and_a_panic_ends_one_of_them() {
        let engine = engine(2);
        let peer = || Peer::Vsock { cid: Cid::new(3), port: 1, to: Cid::HOST };
        let mut sessions = JoinSet::new();
        let (finish, life) = watch::channel(Life::Serving);
        for _ in 0..4 {
            let mut life = life.clone();
            engine.run(&mut sessions, peer(), async move {
                life.wait_for(|life| *life == Life::Ending).await.expect("the sender lives");
            });
        }
        assert_eq!(taken(&engine), [2, 2]);
        engine.run(&mut sessions, peer(), async { panic!("a bug, for the test") });
        assert_eq!(ended(&mut sessions, 1).await, 1);
        assert_eq!(taken(&engine), [2, 2], "its place is free again");
        finish.send_replace(Life::Ending);
        assert_eq!(ended(&mut sessions, 4).await, 0, "the others went on");
        assert_eq!(taken(&engine), [0, 0]);
    }
}
