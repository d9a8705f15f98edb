//! The thread that writes lines, and its queue. No request waits for the thread: when the queue is full, lines are
//! dropped, and a line in their place says how many.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use human::chain;
use thiserror::Error;

use super::line::{Line, Type, Value};
use crate::child::Job;

/// Most bytes of queued lines: about 50,000 lines.
const ROOM: usize = 16 << 20;
/// How long the agent waits at its end for a file or a script that hangs.
const LAST_MOMENT: Duration = Duration::from_secs(2);
/// How long a script may take per line.
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
    filled: Condvar,
    emptied: Condvar,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// No further line comes.
    Ended,
    /// All lines are written.
    Written,
}

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<Line>,
    /// Bytes of the lines that are queued or being written.
    bytes: usize,
    /// Lines are dropped until half of `ROOM` is free again.
    full: bool,
    /// Dropped lines that no line has reported yet.
    lost: u64,
    reopen: bool,
    state: State,
}

impl Queue {
    fn has_room(&mut self) -> bool {
        let most = if self.full { ROOM / 2 } else { ROOM };
        self.full = self.bytes > most;
        !self.full
    }

    fn add(&mut self, line: Line) {
        self.bytes += line.bytes();
        self.lines.push_back(line);
    }

    /// Adds a line that reports dropped lines.
    fn report_lost(&mut self) {
        if self.lost > 0 {
            let lost = i64::try_from(std::mem::take(&mut self.lost)).unwrap_or(i64::MAX);
            let fields = vec![("lines", Value::Number(lost))];
            self.add(Line::new(None, Type::Print, "Lost", None, fields));
        }
    }
}

/// The destinations of lines.
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

    /// Queues a line, or drops and counts it. Never waits.
    pub(super) fn push(&self, line: Line) {
        let mut queue = self.lock();
        if !queue.has_room() {
            queue.lost += 1;
            return;
        }
        queue.report_lost();
        queue.add(line);
        drop(queue);
        self.filled.notify_one();
    }

    /// Opens the file again before the next line, because the old file may have been moved away.
    pub(super) fn reopen(&self) {
        self.lock().reopen = true;
        self.filled.notify_one();
    }

    /// Waits until all lines are written, or `LAST_MOMENT` is over.
    pub(super) fn finish(&self) {
        let mut queue = self.lock();
        queue.state = State::Ended;
        self.filled.notify_one();
        drop(
            self.emptied
                .wait_timeout_while(queue, LAST_MOMENT, |queue| queue.state != State::Written),
        );
    }

    fn run(&self, mut output: Output) {
        loop {
            let idle = |queue: &mut Queue| {
                queue.lines.is_empty()
                    && queue.lost == 0
                    && queue.state == State::Open
                    && !queue.reopen
            };
            let mut queue =
                self.filled.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
            if queue.lines.is_empty() {
                queue.report_lost();
            }
            let lines = std::mem::take(&mut queue.lines);
            if std::mem::take(&mut queue.reopen) {
                drop(queue);
                output.reopen();
            } else if lines.is_empty() {
                queue.state = State::Written;
                self.emptied.notify_all();
                return;
            } else {
                drop(queue);
            }
            output.write(&lines);
            self.lock().bytes -= lines.iter().map(Line::bytes).sum::<usize>();
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
                // As in nbdkit, the exit status has no meaning.
                if let Err(error) = Job::new(shell).within(PATIENCE).status() {
                    tracing::error!("filter log: logscript: {}", chain(&error));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader},
        time::Instant,
    };

    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    #[test]
    fn nobody_waits_for_a_file_that_hangs_and_what_is_lost_is_told() {
        const LINES: usize = 200_000;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        // Opened for both directions, so that neither open waits.
        let reader = File::options().read(true).write(true).open(&path).unwrap();
        let writer = Writer::start(Some(path), true, None, Format::Text).unwrap();
        let start = Instant::now();
        for n in 0..LINES {
            let fields = vec![("offset", Value::Hex(n as u64))];
            writer.push(Line::new(Some(1), Type::Enter, "Read", Some(1), fields));
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
        let mut next = 0;
        for line in BufReader::new(reader).lines().map(Result::unwrap) {
            if let Some((_, lost)) = line.split_once(" Lost lines=") {
                assert_eq!(next + lost.parse::<usize>().unwrap(), LINES);
                break;
            }
            assert!(line.contains(&format!(" offset={next:#x} ")), "in order: {line}");
            next += 1;
        }
        assert!((10_000..LINES).contains(&next), "{next} lines found room");
    }
}
