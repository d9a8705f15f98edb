//! How busy the machine is with what is no part of the test.

use std::{
    fs, hint, thread,
    time::{Duration, Instant},
};

/// The latencies that are promised, on a machine with nothing else to do.
const P99: Duration = Duration::from_millis(50);
const WORST: Duration = Duration::from_millis(250);
/// How long it is measured.
const LOOK: Duration = Duration::from_millis(60);
/// What scheduling costs on a quiet machine is no load.
const QUIET: f64 = 1.25;

/// What a quiet tenant may have to wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) p99: Duration,
    pub(crate) worst: Duration,
}

/// How many times slower than alone a busy thread on each core is now.
///
/// The everyday tests run beside each other, and beside a build. An agent that has something to do for the
/// noisy tenant is then slower by this factor, whatever it does, so the bounds grow by it; on a quiet machine
/// they are the promised ones.
pub(crate) fn slowness() -> f64 {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let (ran, waited) = thread::scope(|scope| {
        let spinning: Vec<_> = (0..cores).map(|_| scope.spawn(spin)).collect();
        spinning.into_iter().fold((0.0, 0.0), |(ran, waited), thread| {
            let (more, longer) = thread.join().expect("a thread that spins");
            (ran + more, waited + longer)
        })
    });
    let slowness = (ran + waited) / ran;
    if slowness < QUIET { 1.0 } else { slowness }
}

/// The bounds on a machine that is so slow, of a disk which waits `own` for each request by itself.
///
/// The noise itself makes the agent busy, and what else runs on the machine waits together with it: hence twice
/// the factor where there is one.
pub(crate) fn bounds(slowness: f64, own: Duration) -> Bounds {
    let factor = if slowness > 1.0 { 2.0 * slowness } else { 1.0 };
    Bounds { p99: P99.mul_f64(factor) + own, worst: WORST.mul_f64(factor) + own }
}

/// Nanoseconds that a busy thread ran, and waited for a core.
fn spin() -> (f64, f64) {
    let (ran, waited) = schedstat();
    let start = Instant::now();
    while start.elapsed() < LOOK {
        hint::spin_loop();
    }
    let (ran_then, waited_then) = schedstat();
    (ran_then - ran, waited_then - waited)
}

fn schedstat() -> (f64, f64) {
    let text = fs::read_to_string("/proc/thread-self/schedstat").expect("the thread's statistics");
    let mut numbers = text.split_whitespace().map(|n| n.parse().expect("a number"));
    (numbers.next().expect("time on a core"), numbers.next().expect("time in a queue"))
}
