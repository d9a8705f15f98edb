//! The start of the agent: opens what the plan names, in the order of ARCHITECTURE.md, and serves.
//!
//! `main` calls `run` once. Nothing is opened before.

use std::{
    io::{self, Write},
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64},
};

use thiserror::Error;

use crate::{
    access::{AccessConfigError, Changes},
    child,
    fd_store::Kept,
    filter,
    lease::Leases,
    lifecycle::Lifecycle,
    listen::{Adopted, BindError, GivenError, Listener},
    log,
    machines::MachineError,
    plan::Plan,
    plugin,
    process::{Background, Captive, Parted, ProcessError, Variables},
    serve::{self, Engine, Signals},
    session::Rules,
    stack::{BuildError, Context, Stack},
    sys::{
        self,
        pid_file::{PidFile, PidFileError},
        process::notify,
    },
    tenant::{Limits, Tenants, connections_within, own_threads_within},
    tls::{self, TlsError},
};

/// Why the agent did not start. The cause is the source.
#[derive(Debug, Error)]
pub(crate) enum Failure {
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
    /// What to do about it, if that is known and not in the message already.
    pub(crate) fn hint(&self) -> Option<String> {
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
                Some("end that agent first, or choose another file".into())
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

/// Starts the agent and serves until it is told to end. Without listeners it also ends when the last client that was
/// connected at the start has gone. Returns the exit status: 0, or the status of the command of `--run`, or that of a
/// background process that did not become ready.
///
/// # Errors
/// Why the agent did not start.
pub(crate) fn run(plan: Plan, log: log::Started, kept: Kept) -> Result<u8, Failure> {
    Startup { plan }.run(log, kept)
}

/// A plan that is being carried out.
#[derive(Debug)]
struct Startup {
    plan: Plan,
}

impl Startup {
    fn run(self, log: log::Started, kept: Kept) -> Result<u8, Failure> {
        let background = match self.plan.process.part()? {
            Parted::Working(background) => background,
            Parted::Over(status) => return Ok(status),
        };
        log.write_aside()?;
        if let Err(error) = sys::process::raise_open_files() {
            tracing::debug!("the limit of open files stays as it is: {error}");
        }
        let tls = self.plan.tls.prepare()?;
        // This thread accepts, the engine's threads serve.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Failure::Engine)?;
        let status = runtime.block_on(self.serve(background, tls, log, kept));
        // Nothing waits for scripts that still run.
        child::end_all();
        // Work that still waits for a name server or a disk is abandoned.
        runtime.shutdown_background();
        status
    }

    fn rules(&self, stack: Stack, changes: Changes, tls: tls::Policy) -> Rules {
        let descriptors = sys::process::open_files();
        Rules {
            exports: stack.exports,
            gates: stack.gates,
            changes: (self.plan.access.file.is_some() || self.plan.tls.verify_peer)
                .then_some(changes),
            fencing: Arc::default(),
            tenants: Arc::new(Tenants::new(Limits {
                memory: self.plan.memory.limits(),
                connections: self.plan.connections_per_tenant.unwrap_or(usize::MAX),
                connections_in_all: connections_within(descriptors),
                own_threads: own_threads_within(descriptors),
                ..Limits::default()
            })),
            connections: AtomicU64::new(0),
            handshake_timeout: self.plan.handshake_timeout,
            offers: self.plan.offers,
            read_only: self.plan.read_only,
            threads: self.plan.threads,
            tls,
        }
    }

    /// Builds what is served: the plugin, and the layers around it.
    fn stack(
        &self,
        lifecycle: &mut Lifecycle,
        tls: &tls::Policy,
        leases: &Arc<Leases>,
        changes: &Changes,
    ) -> Result<Stack, BuildError> {
        let mut words = self.plan.params.iter().collect();
        let filters = filter::choose(&self.plan.filters, &mut words)?;
        let read_only = self.plan.read_only || filter::only_reads_below(&filters);
        let changes_user = self.plan.process.user.is_some() || self.plan.process.group.is_some();
        let mut context =
            Context { read_only, changes_user, lifecycle, memory: self.plan.memory.disks() };
        let bottom = plugin::find(&self.plan.plugin)?.build(&words, &mut context)?;
        let stack = filter::wrap(bottom, &filters, &mut context)?;
        let certificates = self.plan.tls.verify_peer
            && matches!(tls.acceptor(), Some(tls::Acceptor::Certificates(_)));
        if !certificates {
            stack.check_without_certificates().map_err(AccessConfigError::from)?;
        }
        let stack = stack.guarded_by(self.plan.access.gates(lifecycle, changes, certificates)?);
        if self.plan.machines.is_empty() {
            return Ok(stack);
        }
        Ok(stack.with_first_gate(Arc::clone(leases) as _))
    }

    async fn serve(
        self,
        background: Option<Background>,
        tls: tls::Policy,
        log: log::Started,
        kept: Kept,
    ) -> Result<u8, Failure> {
        // First of all, so that nothing is printed to a client on stdout.
        let adopted = self.plan.given.adopt()?;
        if self.plan.keep_alive {
            adopted.keep_alive();
        }
        let Adopted { mut listeners, connected } = adopted;
        let change = self.plan.process.check()?;
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
        disk::ring::choose(self.plan.io);
        if change.is_none() {
            disk::ring::settle().map_err(Failure::Io)?;
        }
        let stack = self.stack(&mut lifecycle, &tls, &leases, &changes)?;
        let rules = Arc::new(self.rules(stack, changes, tls));
        // Before the first socket exists in the filesystem, so that no signal leaves it behind.
        let mut signals = Signals::catch().map_err(Failure::Engine)?;
        self.announce(&listeners);
        tokio::select! {
            opened = self.open(&leases, kept.connect()) => listeners.extend(opened?),
            signal = signals.stop(&lifecycle) => return Err(Failure::Stopped(signal)),
        }
        self.plan.process.lock()?;
        // The command runs as the user that started the agent, as with nbdkit.
        let mut captive = None;
        let changes = change.is_some();
        if let Some(change) = change {
            captive = self.captive(&listeners, &lifecycle, &rules.tls)?;
            change.make(&listeners)?;
        }
        if changes {
            // What the user may do now is what the agent may do to its end.
            disk::ring::settle().map_err(Failure::Io)?;
        }
        // Again after a change of the user.
        let parent = self.plan.process.follow_parent()?;
        // No thread is started before this: a change of user applies to all threads or to none.
        let engine = Engine::start(&listeners).map_err(Failure::Engine)?;
        rules.tenants.executor().start().map_err(Failure::Engine)?;
        disk::start_closer().map_err(Failure::Engine)?;
        // Held until the end; its drop removes the file.
        let _pid_file = match &self.plan.pid_file {
            Some(path) => match PidFile::write(path) {
                Ok(file) => Some(file),
                Err(source) => return Err(Failure::PidFile { path: path.clone(), source }),
            },
            None => None,
        };
        log.settle();
        if self.plan.print_uri {
            print_uris(&listeners, &self.plan.export_name, &rules.tls).map_err(Failure::Stdout)?;
        }
        let mut ready = "READY=1".to_owned();
        if let Some(background) = background {
            // A terminal or a pipe is not kept open; a file of the user is.
            let stays = self.plan.log.verbose || sys::process::stderr_is_a_file();
            background.detach(self.plan.log.needs_stderr() && stays)?;
            ready = format!("{ready}\nMAINPID={}", std::process::id());
        }
        if !changes {
            captive = self.captive(&listeners, &lifecycle, &rules.tls)?;
        }
        if let Err(error) = notify(&ready) {
            tracing::warn!("cannot send READY=1 to the service manager: {error}");
        }
        let timeout = self.plan.shutdown_timeout;
        let ended =
            serve::serve(listeners, connected, rules, engine, &mut signals, &lifecycle, timeout)
                .await;
        match captive {
            Some(captive) => Ok(captive.outlast(ended, parent, &mut signals, &lifecycle).await),
            None => Ok(0),
        }
    }

    /// Does everything that may wait for another process: for its lock, or for an answer of QEMU.
    async fn open(&self, leases: &Arc<Leases>, mut kept: Kept) -> Result<Vec<Listener>, Failure> {
        if !self.plan.outlives_the_process() {
            std::mem::take(&mut kept).finish();
        }
        let bound = Listener::bind_all(&self.plan.listen, kept);
        let listeners = self.plan.process.labelled(bound).await??;
        self.announce(&listeners);
        // The last step that other programs can see, done while the user may still open what only root can.
        for machine in self.plan.machines.wire(leases).await.map_err(Box::new)? {
            tokio::spawn(machine.follow());
        }
        Ok(listeners)
    }

    fn announce(&self, listeners: &[Listener]) {
        for listener in listeners {
            tracing::info!("listening on {listener}");
            if self.plan.keep_alive
                && let Err(error) = listener.keep_alive()
            {
                tracing::warn!("--keepalive has no effect on {listener}: {error}");
            }
        }
    }

    /// Starts the command of `--run`, if there is one, and passes it the address of the first listener. Then protects
    /// the agent from the kernel's OOM killer, if asked to; the command must not inherit that.
    fn captive(
        &self,
        listeners: &[Listener],
        lifecycle: &Lifecycle,
        tls: &tls::Policy,
    ) -> Result<Option<Captive>, Failure> {
        let Some(command) = &self.plan.process.command else {
            self.plan.process.spare();
            return Ok(None);
        };
        let first = listeners.first();
        let (certificates, shared_keys) = self.plan.tls.named(tls);
        let needed = match (tls, shared_keys, certificates) {
            (tls::Policy::Require(_), Some(keys), _) => Some(("tls-psk-file", keys)),
            (tls::Policy::Require(_), _, Some(directory)) => Some(("tls-certificates", directory)),
            _ => None,
        };
        let uri = first.and_then(|first| first.local_uri(&self.plan.export_name, needed));
        let variables = Variables {
            uri: uri.map(|uri| tls.uri(uri)).unwrap_or_default(),
            export_name: self.plan.export_name.clone(),
            port: first.and_then(Listener::port),
            unix_socket: first.and_then(Listener::unix_path).map(Into::into),
            tls: tls.level(),
            tls_certificates: certificates.map(Into::into),
            tls_psk: shared_keys.map(Into::into),
        };
        let captive = Captive::start(command, &variables, lifecycle.stop());
        let captive = captive.map_err(ProcessError::Command)?;
        self.plan.process.spare();
        Ok(Some(captive))
    }
}
/// Prints one line per listener; the wildcard addresses of both families share one.
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
