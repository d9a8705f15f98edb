//! The log: what becomes a line, in which form, and where it goes. Nothing that a peer sent reaches
//! it unescaped (`line`).
//!
//! `cli` decides it, `main` starts it before anything else, `plan` has it written on threads of its own
//! and tells it of HUP; all others use the macros of `tracing`. There are no spans.
//!
//! Nobody who logs waits for the target (`queue`), and no peer fills it (`allowance`).

mod allowance;
mod clock;
mod line;
mod logger;
mod outlet;
mod queue;

use std::{io, path::PathBuf, sync::Arc, time::Instant};

use thiserror::Error;
use tracing::level_filters::LevelFilter;

pub use self::allowance::{Allowance, charged};
use self::{
    line::Format,
    logger::{AT_EXIT, Branch, Logger, SETTLED, Shared},
    outlet::{Datagrams, JOURNAL, LogFile, Outlet, SYSLOG, Wait},
    queue::Queue,
};
use crate::lifecycle::Lifecycle;

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
    /// stderr, and syslog where stderr would be the client's.
    Default,
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
    #[error("--log=journald: cannot reach {JOURNAL}")]
    Journald(#[source] io::Error),
    #[error("--log={0}: cannot make a socket")]
    Socket(&'static str, #[source] io::Error),
    #[error("cannot start the thread that writes the log")]
    Thread(#[source] io::Error),
}

impl LogError {
    /// What to do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
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

/// The log that was started. What is on its way is written when this is dropped, unless the target takes
/// nothing any more.
#[derive(Debug)]
pub struct Started(Arc<Logger>);

impl Log {
    /// From here on what is said goes there, a panic too. Works once in a process. `spared`: stderr
    /// was the client's, and is nobody's now.
    pub fn start(&self, spared: bool) -> Result<Started, LogError> {
        let logger = Arc::new(self.open(spared)?);
        if self.target == Target::Null {
            std::panic::set_hook(Box::new(|_| {}));
        } else {
            let panicked = Arc::clone(&logger);
            std::panic::set_hook(Box::new(move |panic| {
                tracing::error!("a bug in agent, please report it: {panic}");
                panicked.hasten();
            }));
            // Only who called this before could be in the way.
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
                // What -v adds is for who watches: nbdkit-service(1), LOGGING.
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

    /// Something of it goes to stderr, and somebody may be there to read it.
    pub fn needs_stderr(&self) -> bool {
        match self.target {
            Target::Stderr | Target::Json => true,
            Target::Default | Target::Syslog => self.verbose,
            Target::Null | Target::File(_) | Target::Journald => false,
        }
    }
}

/// Writes to stderr, and waits for that no longer than the end of the agent waits for the log.
pub fn last_words(text: &str) {
    let (done, written) = std::sync::mpsc::channel();
    let words = text.to_owned();
    let write = move || {
        // Where stderr is gone there is nobody to tell.
        Outlet::Stderr.put(&words, Wait::ForEver).ok();
        done.send(()).ok();
    };
    if std::thread::Builder::new().name("last-words".into()).spawn(write).is_ok() {
        written.recv_timeout(AT_EXIT).ok();
    } else {
        // That there are no threads may be what is to be said.
        Outlet::Stderr.put(text, Wait::Briefly).ok();
    }
}

impl Started {
    /// From here on lines are written by threads, and nobody else waits for a target. Not before a fork.
    pub fn write_aside(&self) -> Result<(), LogError> {
        self.0.start_threads().map_err(LogError::Thread)
    }

    /// Waits a moment until what was said so far is written: before others are told that the agent is
    /// ready, and before stderr is given up.
    pub fn settle(&self) {
        self.0.flush(Instant::now() + SETTLED);
    }

    /// Lets HUP open the file again.
    pub fn hook(&self, lifecycle: &mut Lifecycle) {
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
