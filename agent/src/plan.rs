//! Everything that was decided, and the start of the agent from it: disks, listeners, then ready.
//!
//! `cli` makes a `Plan`, `main` runs it. Nothing is opened before `run`.

use std::{
    io::{self, Write},
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use thiserror::Error;

use crate::{
    admission::Admission,
    hooks::Hooks,
    layer,
    listen::{Address, Adopted, BindError, Given, GivenError, Listener},
    plugin,
    recipe::{BuildError, Context, Stack, Word},
    serve::{self, Engine, Signals},
    session::Rules,
    sys::process::{self, PidFile},
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
    pub admission: Admission,
    /// For the URIs that are printed.
    pub export_name: String,
    /// Most requests of a connection that block at once; at least 1.
    pub threads: usize,
    pub handshake_timeout: Duration,
    pub shutdown_timeout: Duration,
    pub pid_file: Option<PathBuf>,
    pub print_uri: bool,
    pub log: Log,
}

/// Where the log goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Log {
    Stderr { verbose: bool },
    Null,
}

/// Why the agent did not start. The cause is the source.
#[derive(Debug, Error)]
pub enum Failure {
    #[error(transparent)]
    Given(#[from] GivenError),
    #[error("cannot start the engine's threads")]
    Engine(#[source] io::Error),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("cannot write the pid file {}", .path.display())]
    PidFile { path: PathBuf, source: io::Error },
    #[error("cannot print the URI on stdout")]
    Stdout(#[source] io::Error),
}

impl Failure {
    /// What to do about it, where that is known and not said already.
    pub fn mend(&self) -> Option<String> {
        match self {
            Self::Bind(error) => error.mend(),
            Self::Given(error) => error.mend(),
            Self::PidFile { source, .. } => match source.kind() {
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
    /// Starts the agent and serves until a signal ends it, or the last client that was there already.
    pub fn run(self) -> Result<(), Failure> {
        if let Err(error) = process::raise_open_files() {
            tracing::debug!("the limit of open files stays as it is: {error}");
        }
        // This thread accepts, the engine's threads serve.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Failure::Engine)?;
        let mut hooks = Hooks::default();
        let (given, stack) = {
            let _runtime = runtime.enter();
            // First of all, so that nothing is said to a client on stdout.
            (self.given.adopt()?, self.stack(&mut hooks)?)
        };
        let rules = Arc::new(Rules {
            exports: stack.exports,
            gates: stack.gates,
            refusals: Arc::default(),
            connections: AtomicU64::new(0),
            handshake_timeout: self.handshake_timeout,
            read_only: self.read_only,
            threads: self.threads,
        });
        let engine = Engine::start().map_err(Failure::Engine)?;
        runtime.block_on(self.serve(given, rules, engine, hooks))
    }

    /// What is served: the plugin, and the layers around it.
    fn stack(&self, hooks: &mut Hooks) -> Result<Stack, BuildError> {
        let mut words = self.params.iter().collect();
        let layers = layer::choose(&self.filters, &mut words)?;
        let mut context = Context { read_only: self.read_only, hooks };
        let bottom = plugin::find(&self.plugin)?.build(&words, &mut context)?;
        let stack = layer::wrap(bottom, &layers, &mut context)?;
        self.admission.guard(stack, hooks).map_err(|error| BuildError::Own(Box::new(error)))
    }

    async fn serve(
        self,
        given: Adopted,
        rules: Arc<Rules>,
        engine: Engine,
        hooks: Hooks,
    ) -> Result<(), Failure> {
        // Before the first socket stands in the filesystem, so that no signal leaves it there.
        let signals = Signals::catch().map_err(Failure::Engine)?;
        let Adopted { mut listeners, connected } = given;
        for address in &self.listen {
            listeners.extend(Listener::bind(address)?);
        }
        for listener in &listeners {
            tracing::info!("listening on {listener}");
        }
        // Held to the end, and removed with it.
        let _pid_file = match self.pid_file {
            Some(path) => match PidFile::write(&path) {
                Ok(file) => Some(file),
                Err(source) => return Err(Failure::PidFile { path, source }),
            },
            None => None,
        };
        if self.print_uri {
            print_uris(&listeners, &self.export_name).map_err(Failure::Stdout)?;
        }
        if let Err(error) = process::notify("READY=1") {
            tracing::warn!("the service manager cannot be told READY=1: {error}");
        }
        serve::serve(listeners, connected, rules, engine, signals, hooks, self.shutdown_timeout)
            .await;
        Ok(())
    }
}

/// A line a listener; the wildcard addresses of both families have one in common.
fn print_uris(listeners: &[Listener], export: &str) -> io::Result<()> {
    let mut uris: Vec<String> =
        listeners.iter().filter_map(|listener| listener.uri(export)).collect();
    uris.dedup();
    let mut stdout = io::stdout().lock();
    for uri in uris {
        writeln!(stdout, "{uri}")?;
    }
    stdout.flush()
}
