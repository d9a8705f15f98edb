//! A bounded queue of lines, and the thread that writes them.
//!
//! A target can stop taking lines: a pipe that nobody reads, a daemon that hangs, a disk that does not answer. Only the
//! writing thread waits for it, and a thread that logs never does. Lines that find the queue full are dropped and
//! counted, and so are lines that cannot be written. A line of the log reports their number.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::Instant,
};

use tracing::Level;

use super::{
    line::{Format, Line},
    outlet::{Outlet, Wait},
};

/// Maximum size of the queued lines in bytes. This is about 10,000 lines: more than a burst of session events, and
/// little memory.
const MOST_BYTES: usize = 4 << 20;
/// Bytes that a line costs besides its text.
const OVERHEAD: usize = 64;

/// The queue of one target.
#[derive(Debug)]
pub(super) struct Queue {
    format: Format,
    state: Mutex<State>,
    /// Tells the writer that there is something to do.
    filled: Condvar,
    /// Tells waiting threads that lines were written.
    written: Condvar,
}

#[derive(Debug)]
struct State {
    entries: VecDeque<Entry>,
    /// Size of all lines in `entries`, with their overhead.
    bytes: usize,
    /// Lines are being dropped, until half of the queue is free again.
    full: bool,
    /// Lines that were lost and not reported yet.
    lost: u64,
    /// The last line could not be written, so a line about losses could not be either.
    failing: bool,
    /// Number of entries pushed so far. `done` counts those that are finished.
    pushed: u64,
    done: u64,
    /// When the writer has to call `tell`.
    tell: Option<Instant>,
    /// Present until there is a thread. Until then the logging thread writes lines itself.
    outlet: Option<Outlet>,
}

#[derive(Debug)]
enum Entry {
    Line(String),
    /// This many lines were lost here.
    Lost(u64),
    /// The file was moved away.
    Reopen,
}

impl Queue {
    pub(super) fn new(outlet: Outlet, format: Format) -> Self {
        let state = State {
            entries: VecDeque::new(),
            bytes: 0,
            full: false,
            lost: 0,
            failing: false,
            pushed: 0,
            done: 0,
            tell: None,
            outlet: Some(outlet),
        };
        Self { format, state: Mutex::new(state), filled: Condvar::new(), written: Condvar::new() }
    }

    /// Starts the thread that writes lines from now on. It calls `tell` at the time given by `tell_at`.
    ///
    /// # Errors
    /// The error of starting the thread. The logging thread then still writes lines itself.
    pub(super) fn start(
        self: &Arc<Self>,
        tell: impl Fn() + Send + 'static,
    ) -> Result<(), io::Error> {
        let queue = Arc::clone(self);
        let (give, taken) = mpsc::channel();
        thread::Builder::new().name("log".into()).spawn(move || {
            if let Ok(outlet) = taken.recv() {
                queue.run(outlet, &tell);
            }
        })?;
        // Done here and not on the new thread, so that no logging thread waits from now on.
        if let Some(outlet) = self.lock().outlet.take() {
            give.send(outlet).ok();
        }
        Ok(())
    }

    /// Queues a line. Never waits once there is a thread.
    pub(super) fn push(&self, line: &Line) {
        let text = self.format.text(line);
        let mut state = self.lock();
        if let Some(mut outlet) = state.outlet.take() {
            let result = outlet.put(&text, Wait::Briefly);
            state.written(1, &result);
            state.outlet = Some(outlet);
            return;
        }
        if !state.has_room(text.len()) {
            state.lost += 1;
            return;
        }
        if state.lost > 0 && !state.failing {
            let lost = std::mem::take(&mut state.lost);
            state.add(Entry::Lost(lost));
        }
        state.add(Entry::Line(text));
        drop(state);
        self.filled.notify_one();
    }

    /// Makes the writer call `tell` at that time.
    pub(super) fn tell_at(&self, at: Instant) {
        self.lock().tell = Some(at);
        self.filled.notify_one();
    }

    /// Opens the target again, if it is a file, after the queued lines. Waits for that until `deadline`.
    pub(super) fn reopen(&self, deadline: Instant) {
        let mut state = self.lock();
        if let Some(outlet) = &mut state.outlet {
            let reopened = outlet.reopen();
            drop(state);
            return say_reopened(reopened);
        }
        state.add(Entry::Reopen);
        drop(state);
        self.filled.notify_one();
        self.flush(deadline);
    }

    /// Waits until the lines so far are written, at most until `deadline`. Returns whether they are.
    pub(super) fn flush(&self, deadline: Instant) -> bool {
        let mut state = self.lock();
        if state.outlet.is_some() {
            return true;
        }
        let last = state.pushed;
        while state.done < last || state.owes_a_line() {
            let rest = deadline.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return false;
            }
            let waited = self.written.wait_timeout(state, rest);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// How many entries are finished. A caller that waited in vain compares it to see whether waiting again is useless.
    pub(super) fn progress(&self) -> u64 {
        self.lock().done
    }

    fn run(&self, mut outlet: Outlet, tell: &dyn Fn()) {
        loop {
            match self.next() {
                Next::Tell => tell(),
                Next::Entry(Entry::Line(text)) => {
                    let result = outlet.put(&text, Wait::ForEver);
                    self.finish(1, 1, &result);
                }
                Next::Entry(Entry::Lost(count)) => {
                    let result = outlet.put(&self.format.text(&losses(count)), Wait::ForEver);
                    self.finish(1, count, &result);
                }
                Next::Losses(count) => {
                    let result = outlet.put(&self.format.text(&losses(count)), Wait::ForEver);
                    self.finish(0, count, &result);
                }
                Next::Entry(Entry::Reopen) => {
                    say_reopened(outlet.reopen());
                    self.finish(1, 0, &Ok(()));
                }
            }
        }
    }

    /// Waits for something to do.
    fn next(&self) -> Next {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            if state.tell.is_some_and(|at| at <= now) {
                state.tell = None;
                return Next::Tell;
            }
            if let Some(entry) = state.take() {
                return Next::Entry(entry);
            }
            if state.owes_a_line() {
                return Next::Losses(std::mem::take(&mut state.lost));
            }
            state = match state.tell {
                None => self.filled.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(at) => {
                    let waited = self.filled.wait_timeout(state, at - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    fn finish(&self, entries: u64, lines: u64, result: &io::Result<()>) {
        let mut state = self.lock();
        state.written(lines, result);
        state.done += entries;
        drop(state);
        self.written.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the writer does next.
enum Next {
    Entry(Entry),
    /// This many lines were lost, and no later line has reported it.
    Losses(u64),
    Tell,
}

impl State {
    fn has_room(&mut self, len: usize) -> bool {
        let most = if self.full { MOST_BYTES / 2 } else { MOST_BYTES };
        self.full = self.bytes + len + OVERHEAD > most;
        !self.full
    }

    fn add(&mut self, entry: Entry) {
        self.bytes += entry.bytes();
        self.pushed += 1;
        self.entries.push_back(entry);
    }

    fn take(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        self.bytes -= entry.bytes();
        if self.entries.is_empty() {
            // Frees the memory of a burst.
            self.entries = VecDeque::new();
        }
        Some(entry)
    }

    fn owes_a_line(&self) -> bool {
        self.lost > 0 && !self.failing && self.entries.is_empty()
    }

    /// Counts `lines` as lost if writing them failed.
    fn written(&mut self, lines: u64, result: &io::Result<()>) {
        self.failing = result.is_err();
        if self.failing {
            self.lost += lines;
        }
    }
}

impl Entry {
    fn bytes(&self) -> usize {
        match self {
            Self::Line(text) => text.len() + OVERHEAD,
            Self::Lost(_) | Self::Reopen => OVERHEAD,
        }
    }
}

/// The line that reports lost lines.
fn losses(count: u64) -> Line {
    let message = "lines of the log are missing here: they could not be written in time";
    Line::new(Level::WARN, message, &[("lines", count)])
}

/// If the file cannot be opened again, the log stays in the open file and reports it there.
fn say_reopened(result: Result<(), (std::path::PathBuf, io::Error)>) {
    if let Err((path, error)) = result {
        let path = path.display();
        tracing::error!("{path} cannot be opened again, the log stays where it is: {error}");
    }
}

#[cfg(test)]
mod tests;
