//! Where the log goes: stderr, as lines or as JSON, a file, syslog, systemd's journal, or nowhere.
//!
//! `cli` decides it, `main` starts it before anything else, `plan` tells it of HUP.

mod syslog;

use std::{
    fs::{File, OpenOptions},
    io::{self, IsTerminal, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use thiserror::Error;
use tracing_subscriber::{
    Layer, Registry, filter::LevelFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt,
};

use crate::hooks::Hooks;

/// Where the log goes, and how much of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    pub target: Target,
    /// What the protocol does as well; on stderr where the target is syslog, as with nbdkit.
    pub verbose: bool,
}

/// nbdkit's words for where, and more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Stderr,
    /// stderr, an object a line.
    Json,
    /// Lines are appended; opened again at HUP.
    File(PathBuf),
    Syslog,
    /// With the fields of each line as fields of the journal.
    Journald,
    Null,
}

/// Why there is no log. The cause is the source.
#[derive(Debug, Error)]
pub enum LogError {
    #[error("--log={}: cannot open the file", .0.display())]
    File(PathBuf, #[source] io::Error),
    #[error("--log=journald: the journal of systemd is not there")]
    Journald(#[source] io::Error),
}

/// The log that was started.
#[derive(Debug)]
pub struct Started(Option<Arc<Reopened>>);

impl Log {
    /// From here on what is said goes there. Works once in a process.
    pub fn start(&self) -> Result<Started, LogError> {
        let level = if self.verbose { LevelFilter::DEBUG } else { LevelFilter::INFO };
        let mut file = None;
        let layer: Option<Box<dyn Layer<Registry> + Send + Sync>> = match &self.target {
            Target::Null => None,
            Target::Stderr => Some(lines().with_filter(level).boxed()),
            Target::Json => {
                let json = fmt::layer().json().flatten_event(true).with_target(false);
                let json = json.with_writer(io::stderr).log_internal_errors(false);
                Some(json.with_filter(level).boxed())
            }
            Target::File(path) => {
                let opened = Arc::new(Reopened::open(path)?);
                file = Some(Arc::clone(&opened));
                let layer = fmt::layer().with_ansi(false).with_target(false);
                let layer = layer.with_writer(move || Appending(Arc::clone(&opened)));
                Some(layer.log_internal_errors(false).with_filter(level).boxed())
            }
            Target::Syslog => {
                let layer = fmt::layer().with_ansi(false).with_target(false).without_time();
                let layer = layer.with_level(false).with_writer(syslog::Syslog::default());
                let quiet = layer.log_internal_errors(false).with_filter(LevelFilter::INFO);
                Some(if self.verbose {
                    quiet.and_then(lines().with_filter(level)).boxed()
                } else {
                    quiet.boxed()
                })
            }
            Target::Journald => {
                let layer = tracing_journald::layer().map_err(LogError::Journald)?;
                let layer = layer.with_field_prefix(None).with_syslog_identifier("agent".into());
                Some(layer.with_filter(level).boxed())
            }
        };
        if let Some(layer) = layer {
            tracing_subscriber::registry().with(layer).init();
            std::panic::set_hook(Box::new(|panic| {
                tracing::error!("a bug in agent, please report it: {panic}");
            }));
        } else {
            std::panic::set_hook(Box::new(|_| {}));
        }
        Ok(Started(file))
    }

    /// Something of it goes to stderr, and somebody may be there to read it.
    pub fn needs_stderr(&self) -> bool {
        match self.target {
            Target::Null => false,
            _ if self.verbose => true,
            Target::Stderr | Target::Json => true,
            Target::File(_) | Target::Syslog | Target::Journald => false,
        }
    }
}

impl Started {
    /// Lets HUP open the file again.
    pub fn hook(self, hooks: &mut Hooks) {
        if let Some(file) = self.0 {
            hooks.at_reload(move || file.reopen());
        }
    }
}

fn lines()
-> fmt::Layer<Registry, fmt::format::DefaultFields, fmt::format::Format, fn() -> io::Stderr> {
    let stderr: fn() -> io::Stderr = io::stderr;
    fmt::layer()
        .with_target(false)
        .with_ansi(io::stderr().is_terminal())
        // It would be said with eprintln!, which panics where stderr is gone.
        .log_internal_errors(false)
        .with_writer(stderr)
}

/// A file that another may have moved away, as logrotate does.
#[derive(Debug)]
struct Reopened {
    path: PathBuf,
    file: RwLock<File>,
}

impl Reopened {
    fn open(path: &Path) -> Result<Self, LogError> {
        // It is opened again from `/` when the agent is in the background.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        match append(&path) {
            Ok(file) => Ok(Self { path, file: RwLock::new(file) }),
            Err(error) => Err(LogError::File(path, error)),
        }
    }

    fn reopen(&self) {
        match append(&self.path) {
            Ok(file) => *self.file.write().unwrap_or_else(PoisonError::into_inner) = file,
            Err(error) => {
                let path = self.path.display();
                tracing::error!(
                    "{path} cannot be opened again, the log stays where it is: {error}"
                );
            }
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

struct Appending(Arc<Reopened>);

/// One write a line: lines of several threads do not mix (O_APPEND).
impl Write for Appending {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.0.file.read().unwrap_or_else(PoisonError::into_inner)).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
