use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;

/// Reports when it begins, and ends when it is told to.
struct Waits(Sender<()>, Receiver<()>);

impl Work for Waits {
    fn run(self: Box<Self>) -> Option<Box<dyn Work>> {
        self.0.send(()).ok();
        self.1.recv().ok();
        None
    }
}

/// Returns itself this number of times.
struct Again(u32, Sender<u32>);

impl Work for Again {
    fn run(mut self: Box<Self>) -> Option<Box<dyn Work>> {
        self.1.send(self.0).ok();
        self.0 = self.0.checked_sub(1)?;
        Some(self)
    }
}

const SOON: Duration = Duration::from_secs(20);
/// A tenant's share of the threads while no other tenant has any.
const ALONE: usize = THREADS / 2;

#[test]
fn a_tenant_that_takes_all_it_can_leaves_threads_for_another() {
    let executor = Executor::default();
    let (greedy, other) = (QueueId::new(), QueueId::new());
    let (begun, begins) = channel();
    let mut held = Vec::new();
    for _ in 0..200 {
        let (go, wait) = channel();
        held.push(go);
        executor.submit(&greedy, Box::new(Waits(begun.clone(), wait)));
    }
    for _ in 0..ALONE {
        begins.recv_timeout(SOON).unwrap();
    }
    let (done, finished) = channel();
    executor.submit(&other, Box::new(Again(3, done)));
    assert_eq!(
        (0..4).map(|_| finished.recv_timeout(SOON).unwrap()).collect::<Vec<_>>(),
        [3, 2, 1, 0]
    );
    assert!(begins.try_recv().is_err(), "the greedy one has no more than its share");
    drop(held);
    for _ in ALONE..200 {
        begins.recv_timeout(SOON).unwrap();
    }
}

#[test]
fn work_queued_after_work_that_blocks_a_woken_thread_finds_another() {
    let (one, other) = (QueueId::new(), QueueId::new());
    for _ in 0..100 {
        // As after a pause: there is one thread, and it waits.
        let executor = Executor::default();
        executor.start().unwrap();
        while executor.shared.lock().idle < 1 {
            thread::yield_now();
        }
        let (begun, begins) = channel();
        let (held, waits): (Vec<_>, Vec<_>) = (0..2).map(|_| channel()).unzip();
        for (id, wait) in [&one, &other].into_iter().zip(waits) {
            executor.submit(id, Box::new(Waits(begun.clone(), wait)));
        }
        for _ in 0..2 {
            begins.recv_timeout(SOON).unwrap();
        }
        drop(held);
    }
}

#[test]
fn however_many_tenants_take_all_they_can_the_next_finds_a_thread() {
    let executor = Executor::default();
    let (begun, begins) = channel();
    let mut held = Vec::new();
    // Each tenant takes half of the threads that the ones before have left. After that each has one thread, and they
    // take turns.
    for _ in 0..THREADS.ilog2() {
        let id = QueueId::new();
        for _ in 0..THREADS {
            let (go, wait) = channel();
            held.push(go);
            executor.submit(&id, Box::new(Waits(begun.clone(), wait)));
        }
        begins.recv_timeout(SOON).unwrap();
        let (done, finished) = channel();
        executor.submit(&QueueId::new(), Box::new(Again(0, done)));
        finished.recv_timeout(SOON).unwrap();
    }
}

#[test]
fn long_work_that_waits_for_another_machine_delays_no_other_work() {
    struct Remote(u8, Waits);
    impl Work for Remote {
        fn run(mut self: Box<Self>) -> Option<Box<dyn Work>> {
            let Some(left) = self.0.checked_sub(1) else { return Box::new(self.1).run() };
            self.0 = left;
            Some(self)
        }
        fn stays_short(&self) -> bool {
            true
        }
    }
    let executor = Executor::default();
    let (begun, begins) = channel();
    let mut held = Vec::new();
    for _ in 0..*LONG_THREADS {
        let (go, wait) = channel();
        held.push(go);
        executor.submit(&QueueId::new(), Box::new(Remote(3, Waits(begun.clone(), wait))));
        begins.recv_timeout(SOON).unwrap();
    }
    let (done, finished) = channel();
    executor.submit(&QueueId::new(), Box::new(Again(3, done)));
    let begun = (0..4).map(|_| finished.recv_timeout(SOON).unwrap());
    assert_eq!(begun.collect::<Vec<_>>(), [3, 2, 1, 0]);
}

#[test]
fn work_for_ever_lets_the_other_work_of_its_tenant_through() {
    struct Forever;
    impl Work for Forever {
        fn run(self: Box<Self>) -> Option<Box<dyn Work>> {
            thread::sleep(Duration::from_micros(100));
            Some(self)
        }
    }
    let executor = Executor::default();
    let id = QueueId::new();
    for _ in 0..2 * THREADS {
        executor.submit(&id, Box::new(Forever));
    }
    let (done, finished) = channel();
    executor.submit(&id, Box::new(Again(5, done)));
    for _ in 0..6 {
        finished.recv_timeout(SOON).unwrap();
    }
    // Ends the work, so that its threads find nothing more to do.
    executor.shared.lock().queues.clear();
    executor.shared.lock().ready_long.clear();
}

#[test]
fn little_long_work_is_done_at_the_same_time_and_tenants_have_equal_parts_of_it() {
    struct Long(Waits);
    impl Work for Long {
        fn run(self: Box<Self>) -> Option<Box<dyn Work>> {
            Box::new(self.0).run()
        }
        fn is_long(&self) -> bool {
            true
        }
    }
    let executor = Executor::default();
    let (greedy, other) = (QueueId::new(), QueueId::new());
    let (begun, begins) = channel();
    let mut held = VecDeque::new();
    for _ in 0..THREADS {
        let (go, wait) = channel();
        held.push_back(go);
        executor.submit(&greedy, Box::new(Long(Waits(begun.clone(), wait))));
    }
    for _ in 0..(*LONG_THREADS / 2).max(1) {
        begins.recv_timeout(SOON).unwrap();
    }
    // Work that is not long continues, and the other tenant's long work is next.
    let (done, finished) = channel();
    executor.submit(&greedy, Box::new(Again(0, done)));
    finished.recv_timeout(SOON).unwrap();
    assert!(begins.try_recv().is_err(), "no more of it at the same time");
    let (others, others_begin) = channel();
    let (go, wait) = channel();
    executor.submit(&other, Box::new(Long(Waits(others, wait))));
    held.pop_front();
    others_begin.recv_timeout(SOON).unwrap();
    drop((go, held));
}

#[test]
fn a_panic_ends_the_work_and_not_the_thread() {
    struct Panics;
    impl Work for Panics {
        fn run(self: Box<Self>) -> Option<Box<dyn Work>> {
            panic!("for the test")
        }
    }
    let executor = Executor::default();
    let id = QueueId::new();
    for _ in 0..2 * THREADS {
        executor.submit(&id, Box::new(Panics));
    }
    let (done, finished) = channel();
    executor.submit(&id, Box::new(Again(0, done)));
    assert_eq!(finished.recv_timeout(SOON).unwrap(), 0);
}

#[test]
fn idle_threads_do_not_keep_a_dropped_executor() {
    let executor = Executor::default();
    executor.start().unwrap();
    let shared = Arc::downgrade(&executor.shared);
    drop(executor);
    let start = Instant::now();
    while shared.strong_count() > 0 {
        assert!(start.elapsed() < SOON, "the thread is still there");
        thread::yield_now();
    }
}
