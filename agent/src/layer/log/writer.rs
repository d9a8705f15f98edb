//! The thread that writes lines, and the queue to it.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use thiserror::Error;

use super::line::Line;
use crate::{causes::chain, child::Job};

/// Lines that may wait, and as many again of requests that were already let in.
const ROOM: usize = 16 * 1024;
/// How long the end of the agent waits for a file or a script that hangs.
const LAST_MOMENT: Duration = Duration::from_secs(2);
/// How long a script may take for a line.
const PATIENCE: Duration = Duration::from_mins(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Text,
    Json,
}

#[derive(Debug, Error)]
pub(super) enum LogError {
    #[error("filter log: cannot open logfile={}", .path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("filter log: cannot start its thread")]
    Thread(#[source] io::Error),
}

#[derive(Debug)]
pub(super) struct Writer {
    queue: Mutex<Queue>,
    /// What is in the queue or is being written.
    weight: AtomicUsize,
    filled: Condvar,
    emptied: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<Line>,
    reopen: bool,
    /// Nothing comes any more.
    ended: bool,
    /// Everything is written.
    done: bool,
}

/// Where lines go.
struct Output {
    file: Option<(PathBuf, File)>,
    script: Option<String>,
    format: Format,
}

fn open(path: &Path, append: bool) -> io::Result<File> {
    File::options().create(true).write(true).append(append).truncate(!append).open(path)
}

impl Writer {
    pub(super) fn start(
        path: Option<PathBuf>,
        append: bool,
        script: Option<String>,
        format: Format,
    ) -> Result<Arc<Self>, LogError> {
        let file = match path {
            Some(path) => match open(&path, append) {
                Ok(file) => Some((path, file)),
                Err(source) => return Err(LogError::Open { path, source }),
            },
            None => None,
        };
        let writer = Arc::new(Self {
            queue: Mutex::default(),
            weight: AtomicUsize::new(0),
            filled: Condvar::new(),
            emptied: Condvar::new(),
        });
        let writing = Arc::clone(&writer);
        thread::Builder::new()
            .name("log".into())
            .spawn(move || writing.run(Output { file, script, format }))
            .map_err(LogError::Thread)?;
        Ok(writer)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Never waits.
    pub(super) fn push(&self, line: Line) {
        self.weight.fetch_add(line.weight(), Ordering::Relaxed);
        let mut queue = self.lock();
        queue.lines.push_back(line);
        let first = queue.lines.len() == 1;
        drop(queue);
        if first {
            self.filled.notify_one();
        }
    }

    /// Requests may be let in.
    pub(super) fn has_room(&self) -> bool {
        self.weight.load(Ordering::Relaxed) < ROOM
    }

    pub(super) fn wait_for_room(&self) {
        if !self.has_room() {
            let full = |queue: &mut Queue| !self.has_room() && !queue.done;
            drop(self.emptied.wait_while(self.lock(), full));
        }
    }

    /// The file may have been moved away: the next line goes to a new one.
    pub(super) fn reopen(&self) {
        self.lock().reopen = true;
        self.filled.notify_one();
    }

    /// Waits until all is written.
    pub(super) fn finish(&self) {
        let mut queue = self.lock();
        queue.ended = true;
        self.filled.notify_one();
        drop(self.emptied.wait_timeout_while(queue, LAST_MOMENT, |queue| !queue.done));
    }

    fn run(&self, mut output: Output) {
        loop {
            let idle = |queue: &mut Queue| queue.lines.is_empty() && !queue.ended && !queue.reopen;
            let mut queue =
                self.filled.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
            let lines = std::mem::take(&mut queue.lines);
            if std::mem::take(&mut queue.reopen) {
                drop(queue);
                output.reopen();
            } else if lines.is_empty() {
                queue.done = true;
                self.emptied.notify_all();
                return;
            } else {
                drop(queue);
            }
            output.write(&lines);
            let weight = lines.iter().map(Line::weight).sum();
            self.weight.fetch_sub(weight, Ordering::Relaxed);
            // With the lock, so that nobody looks before and waits after.
            let _queue = self.lock();
            self.emptied.notify_all();
        }
    }
}

impl Output {
    fn reopen(&mut self) {
        if let Some((path, file)) = &mut self.file {
            match open(path, true) {
                Ok(new) => *file = new,
                Err(error) => {
                    tracing::error!("filter log: cannot open {} again: {error}", path.display());
                }
            }
        }
    }

    fn write(&mut self, lines: &VecDeque<Line>) {
        if let Some((path, file)) = &mut self.file {
            let text: String = match self.format {
                Format::Text => lines.iter().map(Line::text).collect(),
                Format::Json => lines.iter().map(Line::json).collect(),
            };
            if let Err(error) = file.write_all(text.as_bytes()) {
                tracing::error!("filter log: cannot write to {}: {error}", path.display());
            }
        }
        if let Some(script) = &self.script {
            for line in lines {
                let mut shell = Command::new("sh");
                shell.arg("-c").arg(script).envs(line.variables());
                // What it exits with means nothing, as in nbdkit.
                if let Err(error) = Job::new(shell).within(PATIENCE).status() {
                    tracing::error!("filter log: logscript: {}", chain(&error));
                }
            }
        }
    }
}
