//! Checks interleavings of a few threads with loom: `cargo test -p agent --features loom --lib interleavings`.

use super::*;

/// All interleavings would take hours. A fault needs few places where one thread overtakes another.
fn model(run: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(run);
}

/// Work that ends when all of its group have begun.
struct Meets(Arc<(Mutex<usize>, Condvar)>);

impl Work for Meets {
    fn run(self: Box<Self>) -> Option<Box<dyn Work>> {
        let (missing, changed) = &*self.0;
        let mut missing = missing.lock().unwrap();
        *missing -= 1;
        changed.notify_all();
        while *missing > 0 {
            missing = changed.wait(missing).unwrap();
        }
        None
    }
}

/// Returns itself once.
struct Twice(bool, Meets);

impl Work for Twice {
    fn run(mut self: Box<Self>) -> Option<Box<dyn Work>> {
        if std::mem::take(&mut self.0) { Some(self) } else { Box::new(self.1).run() }
    }
}

fn meeting(count: usize) -> impl Fn() -> Meets {
    let all = Arc::new((Mutex::new(count), Condvar::new()));
    move || Meets(Arc::clone(&all))
}

/// Loom would find a deadlock.
#[test]
fn nothing_that_is_queued_waits_for_a_thread_that_blocks() {
    model(|| {
        let executor = Executor::default();
        executor.start().unwrap();
        let one = meeting(2);
        executor.submit(&QueueId(1), Box::new(one()));
        executor.submit(&QueueId(2), Box::new(one()));
    });
}

#[test]
fn work_that_comes_back_finds_a_thread_too() {
    model(|| {
        let executor = Executor::default();
        let one = meeting(2);
        executor.submit(&QueueId(1), Box::new(Twice(true, one())));
        executor.submit(&QueueId(2), Box::new(one()));
    });
}

#[test]
fn work_of_two_threads_is_all_done() {
    model(|| {
        let executor = Arc::new(Executor::default());
        let other = Arc::clone(&executor);
        let one = meeting(2);
        let work = one();
        let submitting = thread::spawn(move || other.submit(&QueueId(1), Box::new(work)));
        executor.submit(&QueueId(2), Box::new(one()));
        submitting.join().unwrap();
    });
}
