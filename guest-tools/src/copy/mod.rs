//! Copies a disk from one side to another: exports, files, block devices and streams. The command `copy`
//! calls it.
//!
//! ```text
//!  word -> Side ----+                          +-> Worker (thread, connections of its own)
//!  word -> Side ----+-> Rules -> Job --------- +-> Worker ...
//!                                              +-> this thread: signals, progress
//! ```
//!
//! Nothing is changed before both sides are open and fit each other. After that every error says that
//! the destination is incomplete.

mod backing;
mod chunk;
mod crew;
mod ends;
mod error;
mod halt;
mod job;
mod local;
mod ordered;
mod progress;
mod verify;
mod word;
mod worker;
mod zeroes;

use std::{
    fs::File,
    io,
    num::NonZero,
    os::fd::AsFd,
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use nbd::wire::BASE_ALLOCATION;
use nbd_client::Connector;
use nix::sys::stat::{FileStat, SFlag, fstat};

use self::{
    backing::{Depth, Overlap, System},
    crew::Crew,
    ends::Side,
    job::{Job, Rules},
    progress::Progress,
    verify::Verifier,
    worker::Worker,
};

pub(crate) use self::{
    error::CopyError,
    local::{sync, sync_name},
    progress::{How, per_second, short},
    word::Word,
};

/// The default number of connections to a server. There are no more than cores.
const CONNECTIONS: usize = 4;
/// The default number of requests and bytes in flight per worker. Many short requests fit, and long
/// ones stay in the processor's cache: 16 MiB cost a fifth more time than 4 MiB.
const REQUESTS: usize = 64;
const QUEUE: u64 = 4 << 20;
/// The default length of the runs of zeroes to look for, in bytes.
const SPARSE: u64 = 4096;

/// What to copy, and how.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) connector: Connector,
    pub(crate) source: Word,
    pub(crate) target: Word,
    pub(crate) connections: Option<usize>,
    pub(crate) requests: Option<usize>,
    pub(crate) request_size: u64,
    pub(crate) sparse: Option<u64>,
    pub(crate) extents: bool,
    pub(crate) zero: bool,
    pub(crate) allocate: bool,
    pub(crate) flush: bool,
    pub(crate) verify: bool,
    pub(crate) progress: How,
    /// Print only errors on standard error.
    pub(crate) quiet: bool,
    /// Print JSON on standard output at the end.
    pub(crate) json: bool,
}

/// The result of a copy.
#[derive(Debug)]
pub(crate) struct Copied {
    pub(crate) data: u64,
    pub(crate) zeroes: u64,
    pub(crate) connections: usize,
    pub(crate) flushed: bool,
    pub(crate) verified: bool,
    /// Without the verification.
    pub(crate) time: Duration,
}

/// Runs the copy.
pub(crate) fn copy(plan: &Plan) -> Result<Copied, CopyError> {
    let (source_name, target_name) = (plan.source_name(), plan.target_name());
    let names = (&*source_name, &*target_name);
    let mut progress = Progress::new(plan.progress)?;
    plan.check_words(names)?;
    let source = Side::source(&plan.connector, &plan.source)?;
    let target = match plan.target(&source, &progress, names) {
        Ok(target) => target,
        Err(error) => {
            source.close();
            return Err(error);
        }
    };
    let rules = match plan.rules(&source, &target, names) {
        Ok(rules) => rules,
        Err(error) => {
            source.close();
            target.close();
            return Err(error);
        }
    };
    let begun = Instant::now();
    if let (Side::File(local), size) = (&target, source.size().unwrap_or(0)) {
        local.prepare(size)?;
    }
    let pairs = plan.workers(source, target, &rules)?;
    let connections = pairs.len();
    let job = Job::new(rules, connections)?;
    let crew = Crew::new()?;
    progress.begin("copied");
    crew.work(&job, &mut progress, pairs, |job, (source, target)| {
        Worker::new(job, source, target, names).run();
    })?;
    progress.end();
    if let Some(source) = job.failure() {
        let (name, done, size) = (target_name.clone(), job.done(), rules.size);
        return Err(match source {
            CopyError::Undurable { .. } => source,
            // Every byte was copied. Only the flush was not waited for.
            CopyError::Interrupted if size == Some(done) => {
                CopyError::Undurable { name, source: Box::new(source) }
            }
            _ => CopyError::Incomplete { name, done, size, source: Box::new(source) },
        });
    }
    let time = begun.elapsed();
    progress.full();
    if plan.verify {
        let wrong = |source| match source {
            CopyError::Differ { .. } => source,
            _ => CopyError::Unverified { name: target_name.clone(), source: Box::new(source) },
        };
        plan.verify(&crew, &mut progress, rules, names).map_err(wrong)?;
    }
    Ok(Copied {
        data: job.data.load(Ordering::Relaxed),
        zeroes: job.zeroes.load(Ordering::Relaxed),
        connections,
        flushed: job.flushed.load(Ordering::Relaxed),
        verified: plan.verify,
        time,
    })
}

/// The process of the source's server, if that has the destination open.
fn served(system: &System, source: &Side, target: &File) -> Option<i32> {
    let server = source.linked()?.server()?;
    system.serves(server, target).then_some(server)
}

/// Whether both are one file, pipe or device. Terminals and /dev/null are allowed.
fn is_same(said: impl AsFd, bytes: &File) -> bool {
    let (Ok(said), Ok(bytes)) = (fstat(said), fstat(bytes)) else { return false };
    let kind = |facts: &FileStat| SFlag::from_bits_truncate(facts.st_mode) & SFlag::S_IFMT;
    let device = kind(&said) == SFlag::S_IFBLK && kind(&bytes) == SFlag::S_IFBLK;
    let one = (said.st_dev, said.st_ino) == (bytes.st_dev, bytes.st_ino);
    kind(&said) != SFlag::S_IFCHR && (one || device && said.st_rdev == bytes.st_rdev)
}

impl Plan {
    pub(crate) fn source_name(&self) -> String {
        match &self.source {
            Word::Stdio => "standard input".to_owned(),
            other => other.to_string(),
        }
    }

    pub(crate) fn target_name(&self) -> String {
        match &self.target {
            Word::Stdio => "standard output".to_owned(),
            other => other.to_string(),
        }
    }

    /// Checks what can be checked before anything is opened.
    fn check_words(&self, names: (&str, &str)) -> Result<(), CopyError> {
        if let (Word::Uri(from), Word::Uri(to)) = (&self.source, &self.target)
            && from == to
        {
            return Err(CopyError::Same(names.0.to_owned(), names.1.to_owned()));
        }
        Ok(())
    }

    /// Opens the destination, and checks that it differs from the source, has room, and can be
    /// verified.
    fn target(
        &self,
        source: &Side,
        progress: &Progress,
        names: (&str, &str),
    ) -> Result<Side, CopyError> {
        let stream = |name: &str| CopyError::Stream(name.to_owned());
        if self.verify && matches!(source, Side::Stream(_)) {
            return Err(stream(names.0));
        }
        let target = Side::target(&self.connector, &self.target)?;
        let checked = match (source, &target) {
            (_, Side::Stream(_) | Side::Null) if self.verify => Err(stream(names.1)),
            _ => self.are_apart(source, &target, names).and_then(|()| {
                match (source.size(), target.room()) {
                    (Some(size), Some(room)) if room < size => Err(CopyError::Small {
                        name: names.1.to_owned(),
                        room,
                        source_name: names.0.to_owned(),
                        size,
                    }),
                    _ => Ok(()),
                }
            }),
        };
        if let Err(error) = checked.and_then(|()| self.words(&target, progress)) {
            target.close();
            return Err(error);
        }
        Ok(target)
    }

    /// Refuses to print progress or JSON to where the data goes.
    fn words(&self, target: &Side, progress: &Progress) -> Result<(), CopyError> {
        let Some(file) = target.file() else { return Ok(()) };
        let (stdout, stderr) = (io::stdout(), io::stderr());
        let said = [
            (progress.descriptor(), "the progress"),
            (self.json.then(|| stdout.as_fd()), "the JSON"),
            ((!self.quiet).then(|| stderr.as_fd()), "standard error"),
        ];
        for (fd, what) in said {
            if fd.is_some_and(|fd| is_same(fd, file)) {
                return Err(CopyError::Words { what });
            }
        }
        Ok(())
    }

    /// Refuses two sides that are the same or that are stored on one another. A name may be a client, a
    /// standard stream may be a file, and a device may be a file or, through `attach`, an export.
    fn are_apart(
        &self,
        source: &Side,
        target: &Side,
        names: (&str, &str),
    ) -> Result<(), CopyError> {
        let system = System::here();
        let made = |upper: &str, lower: &str| {
            Err(CopyError::Made { upper: upper.to_owned(), lower: lower.to_owned() })
        };
        match (source.file(), target.file()) {
            (Some(from), Some(to)) => match system.overlap(from, to) {
                None => Ok(()),
                Some(Overlap::Same) => Err(CopyError::Same(names.0.to_owned(), names.1.to_owned())),
                Some(Overlap::SourceOverTarget) => made(names.0, names.1),
                Some(Overlap::TargetOverSource) => made(names.1, names.0),
            },
            (Some(from), None) if system.is_over_export(from, Depth::Filesystems, &self.target) => {
                made(names.0, names.1)
            }
            // A destination file is truncated first, which would lose what the server serves. In the
            // other direction the copy writes what is already there.
            (None, Some(to)) if let Some(server) = served(&system, source, to) => {
                let (file, uri) = (names.1.to_owned(), names.0.to_owned());
                Err(CopyError::Served { file, uri, server })
            }
            (None, Some(to)) if system.is_over_export(to, Depth::Bytes, &self.source) => {
                made(names.1, names.0)
            }
            _ => Ok(()),
        }
    }

    /// Derives the parameters of the copy from both sides.
    fn rules(&self, source: &Side, target: &Side, names: (&str, &str)) -> Result<Rules, CopyError> {
        let align = source.minimum().max(target.minimum());
        for (side, name) in [(source, names.0), (target, names.1)] {
            if side.longest() < align {
                let other = if name == names.0 { names.1 } else { names.0 };
                return Err(CopyError::Pieces(other.to_owned(), align, side.longest()));
            }
        }
        let longest = source.longest().min(target.longest());
        let request = self.request_size.min(longest);
        let request = (request - request % align).max(align);
        let depth = self.requests.unwrap_or(REQUESTS).max(1);
        let asked = self.requests.map_or(0, |requests| requests as u64 * request);
        let sparse = match self.sparse {
            Some(0) => 0,
            Some(sparse) => sparse.max(align),
            None => SPARSE.max(target.preferred()).min(request).max(align),
        };
        Ok(Rules {
            size: source.size(),
            room: target.room(),
            request,
            depth,
            queue: QUEUE.max(asked),
            align,
            sparse: if sparse.is_multiple_of(align) { sparse } else { align },
            extents: self.extents
                && match source {
                    Side::Client(client) => client.terms().context(BASE_ALLOCATION).is_some(),
                    _ => true,
                },
            zero: self.zero,
            allocate: self.allocate,
            flush: self.flush,
        })
    }

    /// Opens the two sides once per worker, as often as wanted and possible.
    fn workers(
        &self,
        source: Side,
        target: Side,
        rules: &Rules,
    ) -> Result<Vec<(Side, Side)>, CopyError> {
        let processors = thread::available_parallelism().map_or(1, NonZero::get);
        let wanted = self.connections.unwrap_or_else(|| CONNECTIONS.min(processors)).max(1);
        // A worker that gets only a few requests is not worth its connections.
        let useful = rules.size.unwrap_or(0) / (8 * rules.request);
        let workers = wanted.min(usize::try_from(useful).unwrap_or(usize::MAX)).max(1);
        let multiple = source.is_multiple() && target.is_multiple();
        let mut pairs = Vec::new();
        for _ in 1..if multiple { workers } else { 1 } {
            pairs.push((
                source.again(&self.connector, &self.source)?,
                target.again(&self.connector, &self.target)?,
            ));
        }
        pairs.push((source, target));
        Ok(pairs)
    }

    /// Reads both sides again, on new connections, and compares them.
    fn verify(
        &self,
        crew: &Crew,
        progress: &mut Progress,
        rules: Rules,
        names: (&str, &str),
    ) -> Result<(), CopyError> {
        let source = Side::reopen(&self.connector, &self.source, rules.size)?;
        let target = Side::reopen(&self.connector, &self.target, rules.room)?;
        let local = |side: &Side| match side {
            Side::File(local) => Some(Arc::clone(local)),
            _ => None,
        };
        let (from, to) = (local(&source), local(&target));
        let due = rules.size.unwrap_or(0);
        let both = || from.iter().chain(&to).try_for_each(|local| local.has_size(due));
        from.iter().chain(&to).for_each(|local| local.forget());
        both()?;
        let pairs = self.workers(source, target, &rules)?;
        let job = Job::new(rules, pairs.len())?;
        progress.begin("verified");
        crew.work(&job, progress, pairs, |job, (source, target)| {
            Verifier::new(job, [source, target], names).run();
        })?;
        progress.end();
        job.failure().map_or(Ok(()), Err)?;
        both()?;
        from.map_or(Ok(()), |local| local.is_unchanged())
    }
}
