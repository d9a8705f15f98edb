//! The log: what becomes a line, in which form, and where it goes. Nothing that a peer sent reaches
//! it unescaped (`line`).
//!
//! `cli` decides it, `main` starts it before anything else, `plan` tells it of HUP; all others use
//! the macros of `tracing`. There are no spans.

mod clock;
mod line;
mod outlet;

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use thiserror::Error;
use tracing::{
    Event, Metadata, Subscriber,
    level_filters::LevelFilter,
    span::{Attributes, Id, Record},
    subscriber::Interest,
};

use self::{
    line::Line,
    outlet::{Datagrams, JOURNAL, LogFile, Outlet, SYSLOG},
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
}

impl LogError {
    /// What to do about it, where that is known.
    pub fn mend(&self) -> Option<String> {
        let mend = match self {
            Self::File(_, error) => match error.kind() {
                io::ErrorKind::NotFound => "make its directory first",
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    "choose a file that this user may write to"
                }
                _ => return None,
            },
            Self::Journald(_) => "is systemd-journald running? Without it use --log=stderr",
            Self::Socket(..) => return None,
        };
        Some(mend.into())
    }
}

/// The log that was started.
#[derive(Debug)]
pub struct Started(Arc<Logger>);

#[derive(Debug)]
struct Logger {
    /// What is said at all; the rest costs the comparison of a number.
    most: LevelFilter,
    outlets: Mutex<Vec<Branch>>,
}

/// An outlet, and what of all that is said goes there.
#[derive(Debug)]
struct Branch {
    outlet: Outlet,
    most: LevelFilter,
}

impl Log {
    /// From here on what is said goes there, a panic too. Works once in a process. `spared`: stderr
    /// was the client's, and is nobody's now.
    pub fn start(&self, spared: bool) -> Result<Started, LogError> {
        let logger = Arc::new(self.open(spared)?);
        if self.target == Target::Null {
            std::panic::set_hook(Box::new(|_| {}));
        } else {
            std::panic::set_hook(Box::new(|panic| {
                tracing::error!("a bug in agent, please report it: {panic}");
            }));
            // Only who called this before could be in the way.
            tracing::subscriber::set_global_default(Shared(Arc::clone(&logger))).ok();
        }
        Ok(Started(logger))
    }

    fn open(&self, spared: bool) -> Result<Logger, LogError> {
        let most = if self.verbose { LevelFilter::DEBUG } else { LevelFilter::INFO };
        let branch = |outlet| vec![Branch { outlet, most }];
        let socket =
            |path, word| Datagrams::to(path).map_err(|error| LogError::Socket(word, error));
        let outlets = match &self.target {
            Target::Null => Vec::new(),
            Target::Default if !spared => branch(Outlet::stderr()),
            Target::Stderr => branch(Outlet::stderr()),
            Target::Json => branch(Outlet::Json),
            Target::File(path) => match LogFile::open(path) {
                Ok(file) => branch(Outlet::File(file)),
                Err(error) => return Err(LogError::File(path.clone(), error)),
            },
            Target::Default | Target::Syslog => {
                let outlet = Outlet::Syslog(socket(SYSLOG, "syslog")?);
                // What -v adds is for who watches: nbdkit-service(1), LOGGING.
                let mut outlets = vec![Branch { outlet, most: LevelFilter::INFO }];
                if self.verbose {
                    outlets.push(Branch { outlet: Outlet::stderr(), most });
                }
                outlets
            }
            Target::Journald => {
                let journal = socket(JOURNAL, "journald")?;
                journal.reach().map_err(LogError::Journald)?;
                branch(Outlet::Journal(journal))
            }
        };
        Ok(Logger { most, outlets: Mutex::new(outlets) })
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

impl Started {
    /// Lets HUP open the file again.
    pub fn hook(self, hooks: &mut Hooks) {
        hooks.at_reload(move || self.0.reopen());
    }
}

impl Logger {
    fn lock(&self) -> MutexGuard<'_, Vec<Branch>> {
        self.outlets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reopen(&self) {
        let mut failed = Vec::new();
        for branch in self.lock().iter_mut() {
            if let Outlet::File(file) = &mut branch.outlet
                && let Err(error) = file.reopen()
            {
                failed.push((file.path().to_owned(), error));
            }
        }
        // Not under the lock, which a line needs.
        for (path, error) in failed {
            let path = path.display();
            tracing::error!("{path} cannot be opened again, the log stays where it is: {error}");
        }
    }
}

/// What `tracing` calls.
struct Shared(Arc<Logger>);

impl Subscriber for Shared {
    fn register_callsite(&self, about: &'static Metadata<'static>) -> Interest {
        if self.enabled(about) { Interest::always() } else { Interest::never() }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.0.most)
    }

    fn enabled(&self, about: &Metadata<'_>) -> bool {
        !about.is_span() && *about.level() <= self.0.most
    }

    fn event(&self, event: &Event<'_>) {
        let line = Line::of(event);
        for branch in self.0.lock().iter_mut().filter(|branch| line.level <= branch.most) {
            branch.outlet.put(&line);
        }
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[cfg(test)]
mod tests;
