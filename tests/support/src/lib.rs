//! The harness of all tests of this workspace.
//!
//! Integration tests of every crate use it as a dev-dependency. It knows none of our crates: a test
//! passes the path of the program under test, `env!("CARGO_BIN_EXE_…")`, to the functions that start
//! one. Everything here panics when something fails, because the caller is a test. What is started
//! ends when its value is dropped.

pub mod agent;
pub mod certificates;
pub mod client;
pub mod faulty;
pub mod log;
pub mod process;
pub mod qemu;
pub mod random;
pub mod server;
pub mod wire;

use std::{
    sync::{Condvar, Mutex},
    thread,
    time::{Duration, Instant},
};

/// No wait on a busy machine takes longer. A test whose wait reaches this deadline has failed.
pub const DEADLINE: Duration = Duration::from_mins(1);

/// How often [`until`] looks.
const STEP: Duration = Duration::from_millis(5);

/// Waits until `done`, and panics with `what` at the [`DEADLINE`]. For conditions that no event announces,
/// such as the files of /proc.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < deadline, "not in {DEADLINE:?}: {what}");
        thread::sleep(STEP);
    }
}

/// A gate that is closed until it is opened, once.
#[derive(Debug, Default)]
pub struct Gate {
    is_open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    /// Opens it for all who wait and all who come.
    pub fn open(&self) {
        *self.is_open.lock().expect("no panic at the gate") = true;
        self.opened.notify_all();
    }

    /// Waits until it is open, for any time.
    pub fn pass(&self) {
        let is_open = self.is_open.lock().expect("no panic at the gate");
        drop(self.opened.wait_while(is_open, |is_open| !*is_open).expect("no panic at the gate"));
    }
}
