//! Threads that close what may take its time to close.
//!
//! A disk is dropped where its connection ends, on a thread that serves other connections. To close a
//! file with unwritten data may take as long as the medium takes, or for ever on a network filesystem.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
};

/// Threads at the same time. They end when there is nothing left to close.
const THREADS: usize = 64;
/// Bytes of their stacks: they do little.
const STACK: usize = 128 << 10;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Closer {
    waiting: VecDeque<Job>,
    threads: usize,
}

/// Waits until all is closed.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn wait() {
    while lock().threads > 0 {
        thread::sleep(std::time::Duration::from_millis(1));
    }
}

static CLOSER: Mutex<Closer> = Mutex::new(Closer { waiting: VecDeque::new(), threads: 0 });

fn lock() -> MutexGuard<'static, Closer> {
    CLOSER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Drops `what`, soon, on another thread; here and now if there can be none.
pub fn close(what: impl Send + 'static) {
    {
        let mut closer = lock();
        closer.waiting.push_back(Box::new(move || drop(what)));
        if closer.threads == THREADS {
            return;
        }
        closer.threads += 1;
    }
    let thread = thread::Builder::new().name("close".into()).stack_size(STACK);
    if let Err(error) = thread.spawn(work) {
        tracing::warn!("no thread can be started to close disks: {error}");
        work();
    }
}

fn work() {
    let _thread = Working;
    loop {
        let Some(job) = lock().waiting.pop_front() else { return };
        job();
    }
}

/// One of the threads; ends when dropped, by a panic too.
struct Working;

impl Drop for Working {
    fn drop(&mut self) {
        lock().threads -= 1;
    }
}
