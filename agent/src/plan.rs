//! Everything that was decided, and the start of the agent from it: disks, listeners, then the user, then ready.
//!
//! `cli` makes a `Plan`, `main` runs it. Nothing is opened before `run`.

use std::{
    io::{self, Write},
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use disk::{MemoryBudget, ring::Io};
use thiserror::Error;

use crate::{
    access::{AccessConfig, AccessConfigError, Changes},
    child, filter,
    lease::Leases,
    lifecycle::Lifecycle,
    listen::{Address, Adopted, BindError, Given, GivenError, Listener},
    log::{self, Log},
    machines::{MachineError, Machines},
    params::Word,
    plugin,
    process::{Background, Captive, Parted, Process, ProcessError, Variables},
    serve::{self, Engine, Signals},
    session::Rules,
    stack::{BuildError, Context, Stack},
    sys::{
        self,
        pid_file::{PidFile, PidFileError},
        process::notify,
    },
    tenant::{Limits, MemoryLimits, Tenants, connections_within, own_threads_within},
    tls::{self, TlsError},
};

/// What the agent is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Connections and listeners that are there already; none are opened then.
    pub given: Given,
    /// At least one, unless something is given.
    pub listen: Vec<Address>,
    pub plugin: String,
    /// Layers by name, the first nearest to the client.
    pub filters: Vec<String>,
    /// For the layers and the plugin; a value without a key is the plugin's main parameter.
    pub params: Vec<Word>,
    pub read_only: bool,
    pub access: AccessConfig,
    /// Most connections at once of one tenant; `None`: no limit of its own.
    pub connections_per_tenant: Option<usize>,
    pub memory: Memory,
    /// Virtual machines whose guests come in, as long as they live.
    pub machines: Machines,
    /// For the URIs that are printed.
    pub export_name: String,
    /// Most requests of a connection that are out at once, if not as many as is best; at least 1.
    pub threads: Option<usize>,
    /// How files are read and written.
    pub io: Io,
    pub handshake_timeout: Duration,
    pub shutdown_timeout: Duration,
    pub pid_file: Option<PathBuf>,
    pub print_uri: bool,
    /// SO_KEEPALIVE on TCP connections.
    pub keep_alive: bool,
    /// What clients may negotiate.
    pub offers: nbd::negotiate::Offers,
    pub process: Process,
    pub tls: tls::Wanted,
    pub log: Log,
}

/// How much memory is given, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// To what one connection holds.
    pub connection: u64,
    /// To all connections of a tenant.
    pub tenant: u64,
    /// To all connections; `None`: a quarter of what the process may have.
    pub total: Option<u64>,
    /// To all memory disks; `None`: half of what the process may have.
    pub disks: Option<u64>,
}

impl Memory {
    fn limits(&self) -> MemoryLimits {
        let total = self.total.unwrap_or_else(|| sys::memory::available() / 4);
        MemoryLimits { connection: self.connection, tenant: self.tenant, total }
    }

    fn disks(&self) -> Arc<MemoryBudget> {
        let most = self.disks.unwrap_or_else(|| sys::memory::available() / 2);
        Arc::new(MemoryBudget::new(most))
    }
}

/// Why the agent did not start. The cause is the source.
#[derive(Debug, Error)]
pub enum Failure {
    #[error(transparent)]
    Given(#[from] GivenError),
    #[error("--io=uring: there is no io_uring here")]
    Io(#[source] io::Error),
    #[error("cannot start the engine's threads")]
    Engine(#[source] io::Error),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Machine(#[from] Box<MachineError>),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error("{0} came before the agent was ready; nothing was served")]
    Stopped(&'static str),
    #[error("cannot write the pid file {}", .path.display())]
    PidFile { path: PathBuf, source: PidFileError },
    #[error("cannot print the URI on stdout")]
    Stdout(#[source] io::Error),
    #[error(transparent)]
    Log(#[from] log::LogError),
}

impl Failure {
    /// What to do about it, where that is known and not said already.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Bind(error) => error.hint(),
            Self::Given(error) => error.hint(),
            Self::Tls(error) => error.hint(),
            Self::Machine(error) => error.hint(),
            Self::Log(error) => error.hint(),
            Self::Io(_) => {
                Some("leave --io out: files are then read and written by threads".into())
            }
            Self::Engine(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Some("raise the limit of threads (ulimit -u, or TasksMax= of the unit)".into())
            }
            Self::PidFile { source: PidFileError::Taken(_), .. } => {
                Some("end that one first, or choose another file".into())
            }
            Self::PidFile { source: PidFileError::Io(error), .. } => match error.kind() {
                io::ErrorKind::NotFound => Some("make its directory first".into()),
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    Some("choose a directory that this user may write to".into())
                }
                _ => None,
            },
            _ => None,
        }
    }
}

impl Plan {
    /// Starts the agent and serves until it is to end, or to the end of the last client that
    /// was there already. Gives the exit status: 0, or that of the
    /// command of `--run`, or of the process that went into the background and did not get ready.
    pub fn run(self, log: log::Started) -> Result<u8, Failure> {
        let background = match self.process.part()? {
            Parted::Working(background) => background,
            Parted::Over(status) => return Ok(status),
        };
        log.write_aside()?;
        if let Err(error) = sys::process::raise_open_files() {
            tracing::debug!("the limit of open files stays as it is: {error}");
        }
        let tls = self.tls.prepare()?;
        // This thread accepts, the engine's threads serve.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Failure::Engine)?;
        let status = runtime.block_on(self.serve(background, tls, log));
        // Scripts that still run belong to nobody now.
        child::end_all();
        // What still waits for a name server or a disk is not waited for.
        runtime.shutdown_background();
        status
    }

    fn rules(&self, stack: Stack, changes: Changes, tls: tls::Policy) -> Rules {
        let descriptors = sys::process::open_files();
        Rules {
            exports: stack.exports,
            gates: stack.gates,
            changes: (self.access.file.is_some() || self.tls.verify_peer).then_some(changes),
            fencing: Arc::default(),
            tenants: Arc::new(Tenants::new(Limits {
                memory: self.memory.limits(),
                connections: self.connections_per_tenant.unwrap_or(usize::MAX),
                connections_in_all: connections_within(descriptors),
                own_threads: own_threads_within(descriptors),
                ..Limits::default()
            })),
            connections: AtomicU64::new(0),
            handshake_timeout: self.handshake_timeout,
            offers: self.offers,
            read_only: self.read_only,
            threads: self.threads,
            tls,
        }
    }

    /// What is served: the plugin, and the layers around it.
    fn stack(
        &self,
        lifecycle: &mut Lifecycle,
        tls: &tls::Policy,
        leases: &Arc<Leases>,
        changes: &Changes,
    ) -> Result<Stack, BuildError> {
        let mut words = self.params.iter().collect();
        let filters = filter::choose(&self.filters, &mut words)?;
        let read_only = self.read_only || filter::only_reads_below(&filters);
        let changes_user = self.process.user.is_some() || self.process.group.is_some();
        let mut context =
            Context { read_only, changes_user, lifecycle, memory: self.memory.disks() };
        let bottom = plugin::find(&self.plugin)?.build(&words, &mut context)?;
        let stack = filter::wrap(bottom, &filters, &mut context)?;
        let certificates =
            self.tls.verify_peer && matches!(tls.acceptor(), Some(tls::Acceptor::Certificates(_)));
        if !certificates {
            stack.check_without_certificates().map_err(AccessConfigError::from)?;
        }
        let stack = stack.guarded_by(self.access.gates(lifecycle, changes, certificates)?);
        if self.machines.is_empty() {
            return Ok(stack);
        }
        Ok(stack.with_first_gate(Arc::clone(leases) as _))
    }

    async fn serve(
        self,
        background: Option<Background>,
        tls: tls::Policy,
        log: log::Started,
    ) -> Result<u8, Failure> {
        // First of all, so that nothing is said to a client on stdout.
        let adopted = self.given.adopt()?;
        if self.keep_alive {
            adopted.keep_alive();
        }
        let Adopted { mut listeners, connected } = adopted;
        let change = self.process.check()?;
        let mut lifecycle = Lifecycle::default();
        log.hook(&mut lifecycle);
        let leases = Arc::default();
        let changes = Changes::default();
        if let Some(source) = tls.source() {
            let (at_reload, watched, changes) =
                (Arc::clone(source), Arc::clone(source), changes.clone());
            lifecycle.at_reload(move || {
                if at_reload.reload() {
                    changes.tell();
                }
            });
            tokio::spawn(watched.watch());
        }
        disk::ring::choose(self.io).map_err(Failure::Io)?;
        let stack = self.stack(&mut lifecycle, &tls, &leases, &changes)?;
        let rules = Arc::new(self.rules(stack, changes, tls));
        // Before the first socket stands in the filesystem, so that no signal leaves it there.
        let mut signals = Signals::catch().map_err(Failure::Engine)?;
        self.announce(&listeners);
        tokio::select! {
            opened = self.open(&leases) => listeners.extend(opened?),
            signal = signals.stop(&lifecycle) => return Err(Failure::Stopped(signal)),
        }
        self.process.lock()?;
        // The command is whose the agent was when it started, as with nbdkit.
        let mut captive = None;
        let changes = change.is_some();
        if let Some(change) = change {
            captive = self.captive(&listeners, &lifecycle, &rules.tls)?;
            change.make(&listeners)?;
        }
        // Again after a change of the user.
        let parent = self.process.follow_parent()?;
        // No thread before this: a user is changed for all of them or for none.
        let engine = Engine::start(&listeners).map_err(Failure::Engine)?;
        rules.tenants.executor().start().map_err(Failure::Engine)?;
        disk::start_closer().map_err(Failure::Engine)?;
        // Held to the end, and removed with it.
        let _pid_file = match &self.pid_file {
            Some(path) => match PidFile::write(path) {
                Ok(file) => Some(file),
                Err(source) => return Err(Failure::PidFile { path: path.clone(), source }),
            },
            None => None,
        };
        log.settle();
        if self.print_uri {
            print_uris(&listeners, &self.export_name, &rules.tls).map_err(Failure::Stdout)?;
        }
        let mut ready = "READY=1".to_owned();
        if let Some(background) = background {
            // A terminal or a pipe is not held; a file of the user's own goes on.
            let stays = self.log.verbose || sys::process::stderr_is_a_file();
            background.detach(self.log.needs_stderr() && stays)?;
            ready = format!("{ready}\nMAINPID={}", std::process::id());
        }
        if !changes {
            captive = self.captive(&listeners, &lifecycle, &rules.tls)?;
        }
        if let Err(error) = notify(&ready) {
            tracing::warn!("the service manager cannot be told READY=1: {error}");
        }
        let timeout = self.shutdown_timeout;
        let ended =
            serve::serve(listeners, connected, rules, engine, &mut signals, &lifecycle, timeout)
                .await;
        match captive {
            Some(captive) => Ok(captive.outlast(ended, parent, &mut signals, &lifecycle).await),
            None => Ok(0),
        }
    }

    /// All that may wait for another process: for its lock, or for a QEMU's answer.
    async fn open(&self, leases: &Arc<Leases>) -> Result<Vec<Listener>, Failure> {
        let listeners = self.process.labelled(self.bind()).await??;
        self.announce(&listeners);
        // Last of what other programs see, and while the user may open what only root can.
        for machine in self.machines.wire(leases).await.map_err(Box::new)? {
            tokio::spawn(machine.follow());
        }
        Ok(listeners)
    }

    async fn bind(&self) -> Result<Vec<Listener>, BindError> {
        let mut listeners = Vec::new();
        for address in &self.listen {
            listeners.extend(Listener::bind(address).await?);
        }
        Ok(listeners)
    }

    fn announce(&self, listeners: &[Listener]) {
        for listener in listeners {
            tracing::info!("listening on {listener}");
            if self.keep_alive
                && let Err(error) = listener.keep_alive()
            {
                tracing::warn!("--keepalive has no effect on {listener}: {error}");
            }
        }
    }

    /// Starts the command of `--run`, if there is one, and tells it of the first listener. From then
    /// on the agent is what its children are not.
    fn captive(
        &self,
        listeners: &[Listener],
        lifecycle: &Lifecycle,
        tls: &tls::Policy,
    ) -> Result<Option<Captive>, Failure> {
        let Some(command) = &self.process.command else {
            self.process.spare();
            return Ok(None);
        };
        let first = listeners.first();
        let (certificates, shared_keys) = self.tls.named(tls);
        let needed = match (tls, shared_keys, certificates) {
            (tls::Policy::Require(_), Some(keys), _) => Some(("tls-psk-file", keys)),
            (tls::Policy::Require(_), _, Some(directory)) => Some(("tls-certificates", directory)),
            _ => None,
        };
        let uri = first.and_then(|first| first.local_uri(&self.export_name, needed));
        let variables = Variables {
            uri: uri.map(|uri| tls.uri(uri)).unwrap_or_default(),
            export_name: self.export_name.clone(),
            port: first.and_then(Listener::port),
            unix_socket: first.and_then(Listener::unix_path).map(Into::into),
            tls: tls.level(),
            tls_certificates: certificates.map(Into::into),
            tls_psk: shared_keys.map(Into::into),
        };
        let captive = Captive::start(command, &variables, lifecycle.stop());
        let captive = captive.map_err(ProcessError::Command)?;
        self.process.spare();
        Ok(Some(captive))
    }
}

/// A line a listener; the wildcard addresses of both families have one in common.
fn print_uris(listeners: &[Listener], export: &str, tls: &tls::Policy) -> io::Result<()> {
    let uris = listeners.iter().filter_map(|listener| listener.uri(export));
    let mut uris: Vec<String> = uris.map(|uri| tls.uri(uri)).collect();
    uris.dedup();
    let mut stdout = io::stdout().lock();
    for uri in uris {
        writeln!(stdout, "{uri}")?;
    }
    stdout.flush()
}
