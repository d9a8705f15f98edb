//! How busy the machine is with work that is not part of the test.

use std::{
    fs, hint, thread,
    time::{Duration, Instant},
};

/// The promised latencies on an idle machine.
const P99: Duration = Duration::from_millis(50);
const WORST: Duration = Duration::from_millis(250);
/// The length of the measurement.
const LOOK: Duration = Duration::from_millis(60);
/// Up to this factor it is the normal cost of scheduling on a quiet machine, and not load.
const QUIET: f64 = 1.25;

/// How long a quiet tenant may have to wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) p99: Duration,
    pub(crate) worst: Duration,
}

/// How many times slower than alone a busy thread on each core is now.
///
/// The everyday tests run concurrently, and beside a build. Work of the agent for the noisy tenant is then
/// slower by this factor in any case, so the bounds grow by it. On a quiet machine they are the promised ones.
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

/// The bounds on a machine of this slowness, for a disk that itself delays each request by `own`.
///
/// The noise itself makes the agent busy, and other programs on the machine compete with it. Therefore the
/// factor is doubled if there is other load.
pub(crate) fn bounds(slowness: f64, own: Duration) -> Bounds {
    let factor = if slowness > 1.0 { 2.0 * slowness } else { 1.0 };
    Bounds { p99: P99.mul_f64(factor) + own, worst: WORST.mul_f64(factor) + own }
}

/// The nanoseconds that a busy thread ran, and those that it waited for a core.
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
