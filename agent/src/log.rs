//! The log: which events become lines, in which form, and where they are written. Text that a peer sent is escaped
//! first (`line`).
//!
//! `cli` makes the settings, and `main` starts the log before anything else. `plan` moves the writing to threads of
//! their own and lets HUP reopen the file. All other modules use the macros of `tracing`. There are no spans.
//!
//! Logging never waits for the target (`queue`), and no peer can fill it (`allowance`).

mod allowance;
mod clock;
mod line;
mod logger;
mod outlet;
mod queue;

use std::{io, path::PathBuf, sync::Arc, time::Instant};

use thiserror::Error;
use tracing::level_filters::LevelFilter;

pub(crate) use self::allowance::Allowance;
use self::{
    line::Format,
    logger::{AT_EXIT, Branch, Logger, SETTLED, Shared},
    outlet::{Datagrams, JOURNAL, LogFile, Outlet, SYSLOG, Wait},
    queue::Queue,
};
use crate::lifecycle::Lifecycle;

/// Where log lines are written, and how many of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Log {
    pub target: Target,
    /// Also log what the protocol does. With syslog as the target these lines are written to stderr, as with nbdkit.
    pub verbose: bool,
}

/// nbdkit's words for log targets, and some more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// stderr, or syslog if stderr is the client's.
    Default,
    Stderr,
    /// stderr, one JSON object per line.
    Json,
    /// Lines are appended. HUP opens the file again.
    File(PathBuf),
    Syslog,
    /// The fields of a line become fields of the journal.
    Journald,
    Null,
}

/// Why the log cannot be started. The cause is the source.
#[derive(Debug, Error)]
pub(crate) enum LogError {
    #[error("--log={}: cannot open the file", .0.display())]
    File(PathBuf, #[source] io::Error),
    #[error("--log=journald: cannot reach {JOURNAL}")]
    Journald(#[source] io::Error),
    #[error("--log={0}: cannot make a socket")]
    Socket(&'static str, #[source] io::Error),
    #[error("cannot start the thread that writes the log")]
    Thread(#[source] io::Error),
}

impl LogError {
    /// What to do about it, if that is known.
    pub(crate) fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::File(_, error) => match error.kind() {
                io::ErrorKind::NotFound => "make its directory first",
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    "choose a file that this user may write to"
                }
                _ => return None,
            },
            Self::Journald(_) => "is systemd-journald running? Without it use --log=stderr",
            Self::Thread(_) => "raise the limit of processes (ulimit -u, TasksMax=)",
            Self::Socket(..) => return None,
        };
        Some(hint.into())
    }
}

/// A running log. Dropping it writes the queued lines, unless the target takes no more.
#[derive(Debug)]
pub(crate) struct Started(Arc<Logger>);

impl Log {
    /// Starts the log: from now on every event, and every panic, is written to the target. Works once per process.
    /// `spared` says that stderr was the client's and is now /dev/null.
    pub(crate) fn start(&self, spared: bool) -> Result<Started, LogError> {
        let logger = Arc::new(self.open(spared)?);
        if self.target == Target::Null {
            std::panic::set_hook(Box::new(|_| {}));
        } else {
            let panicked = Arc::clone(&logger);
            std::panic::set_hook(Box::new(move |panic| {
                tracing::error!("a bug in agent, please report it: {panic}");
                panicked.hasten();
            }));
            // This fails only if `start` was called before.
            tracing::subscriber::set_global_default(Shared(Arc::clone(&logger))).ok();
        }
        Ok(Started(logger))
    }

    fn open(&self, spared: bool) -> Result<Logger, LogError> {
        let most = if self.verbose { LevelFilter::DEBUG } else { LevelFilter::INFO };
        let branch = |outlet, format| Branch { queue: Arc::new(Queue::new(outlet, format)), most };
        let stderr = || branch(Outlet::Stderr, Format::Human { colours: outlet::has_colours() });
        let socket =
            |path, word| Datagrams::to(path).map_err(|error| LogError::Socket(word, error));
        let branches = match &self.target {
            Target::Null => Vec::new(),
            Target::Default if !spared => vec![stderr()],
            Target::Stderr => vec![stderr()],
            Target::Json => vec![branch(Outlet::Stderr, Format::Json)],
            Target::File(path) => match LogFile::open(path) {
                Ok(file) => vec![branch(Outlet::File(file), Format::Human { colours: false })],
                Err(error) => return Err(LogError::File(path.clone(), error)),
            },
            Target::Default | Target::Syslog => {
                let outlet = Outlet::Datagrams(socket(SYSLOG, "syslog")?);
                // Lines that -v adds are for an operator at the terminal: nbdkit-service(1), LOGGING.
                let syslog = Branch { most: LevelFilter::INFO, ..branch(outlet, Format::Syslog) };
                if self.verbose { vec![syslog, stderr()] } else { vec![syslog] }
            }
            Target::Journald => {
                let journal = socket(JOURNAL, "journald")?;
                journal.reach().map_err(LogError::Journald)?;
                vec![branch(Outlet::Datagrams(journal), Format::Journal)]
            }
        };
        Ok(Logger::new(most, branches))
    }

    /// Whether some lines are written to stderr, where a person may read them.
    pub(crate) fn needs_stderr(&self) -> bool {
        match self.target {
            Target::Stderr | Target::Json => true,
            Target::Default | Target::Syslog => self.verbose,
            Target::Null | Target::File(_) | Target::Journald => false,
        }
    }
}

/// Writes to stderr, for at most as long as the agent's exit waits for the log.
pub(crate) fn last_words(text: &str) {
    let (done, written) = std::sync::mpsc::channel();
    let words = text.to_owned();
    let write = move || {
        // If stderr is gone, there is nowhere to report it.
        Outlet::Stderr.put(&words, Wait::ForEver).ok();
        done.send(()).ok();
    };
    if std::thread::Builder::new().name("last-words".into()).spawn(write).is_ok() {
        written.recv_timeout(AT_EXIT).ok();
    } else {
        // A failure to start threads may be the very error to report.
        Outlet::Stderr.put(text, Wait::Briefly).ok();
    }
}

impl Started {
    /// Starts the threads that write lines. From then on logging does not wait for a target. Must not be called before
    /// a fork.
    pub(crate) fn write_aside(&self) -> Result<(), LogError> {
        self.0.start_threads().map_err(LogError::Thread)
    }

    /// Waits for a moment until all lines so far are written: before the agent reports that it is ready, and before it
    /// gives up stderr.
    pub(crate) fn settle(&self) {
        self.0.flush(Instant::now() + SETTLED);
    }

    /// Makes HUP open the file again.
    pub(crate) fn hook(&self, lifecycle: &mut Lifecycle) {
        let logger = Arc::clone(&self.0);
        lifecycle.at_reload(move || logger.reopen());
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.0.tell();
        self.0.flush(Instant::now() + AT_EXIT);
    }
}

#[cfg(test)]
mod tests;
