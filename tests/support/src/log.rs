//! The lines that a process writes, as they come.

use std::{
    io::{BufRead, BufReader, Read},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread,
    time::Duration,
};

/// Collects the lines of a stream on a thread. The readers wait for lines and poll nothing.
#[derive(Debug)]
pub struct Log(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<String>,
    /// Lines that [`Log::up_to`] and [`Log::rest`] have returned.
    taken: usize,
    /// The stream has ended.
    ended: bool,
}

impl State {
    fn take(&mut self, end: usize) -> Vec<String> {
        let lines = self.lines[self.taken..end].to_vec();
        self.taken = end;
        lines
    }
}

/// The line did not come in time, or the stream has ended without it.
#[derive(Debug)]
pub struct Missing {
    /// The lines that came instead.
    pub lines: Vec<String>,
    /// The stream has ended.
    pub ended: bool,
}

impl Log {
    /// Starts to read `stream`. Bytes that are not UTF-8 become replacement characters.
    pub fn follow(stream: impl Read + Send + 'static) -> Self {
        let shared = Arc::new(Shared::default());
        let log = Self(Arc::clone(&shared));
        thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                lock(&shared).lines.push(line);
                shared.changed.notify_all();
            }
            lock(&shared).ended = true;
            shared.changed.notify_all();
        });
        log
    }

    /// Waits until `found` returns something or the stream has ended.
    fn wait<T>(
        &self,
        timeout: Duration,
        mut found: impl FnMut(&mut State) -> Option<T>,
    ) -> (MutexGuard<'_, State>, Option<T>) {
        let mut result = None;
        let unfinished = |state: &mut State| {
            result = found(state);
            result.is_none() && !state.ended
        };
        let waited = self.0.changed.wait_timeout_while(lock(&self.0), timeout, unfinished);
        let (state, _) = waited.expect("no panic in the reader");
        (state, result)
    }

    /// Waits for a line that contains `part`, and takes all lines up to it that have not been taken.
    pub fn up_to(&self, part: &str, timeout: Duration) -> Result<Vec<String>, Missing> {
        let mut looked = 0;
        let (mut state, found) = self.wait(timeout, |state| {
            let from = looked.max(state.taken);
            looked = state.lines.len();
            state.lines[from..].iter().position(|line| line.contains(part)).map(|n| from + n + 1)
        });
        let end = found.unwrap_or(state.lines.len());
        let (lines, ended) = (state.take(end), state.ended);
        if found.is_some() { Ok(lines) } else { Err(Missing { lines, ended }) }
    }

    /// Waits for the first line of the whole log that contains `part`, and returns what follows `part` in that
    /// line. It takes no line.
    pub fn after(&self, part: &str, timeout: Duration) -> Option<String> {
        let after = |line: &String| line.split_once(part).map(|(_, rest)| rest.to_owned());
        self.wait(timeout, |state| state.lines.iter().find_map(after)).1
    }

    /// Waits until the lines of the whole log satisfy `done`; whether they do. It takes no line.
    pub fn wait_until(&self, timeout: Duration, done: impl Fn(&[String]) -> bool) -> bool {
        self.wait(timeout, |state| done(&state.lines).then_some(())).1.is_some()
    }

    /// Waits for the end of the stream, and takes the lines that have not been taken. `None`: it has not ended
    /// in time.
    pub fn rest(&self, timeout: Duration) -> Option<Vec<String>> {
        let (mut state, _) = self.wait::<()>(timeout, |_| None);
        let end = state.lines.len();
        state.ended.then(|| state.take(end))
    }

    /// All lines so far, also those that have been taken.
    pub fn lines(&self) -> Vec<String> {
        lock(&self.0).lines.clone()
    }
}

fn lock(shared: &Shared) -> MutexGuard<'_, State> {
    shared.state.lock().expect("no panic in the reader")
}

#[cfg(test)]
mod tests;
