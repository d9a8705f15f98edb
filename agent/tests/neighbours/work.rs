//! One row: a disk, noise, and how it affects the quiet tenant and the host.

use std::{
    env,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use support::random::seed;

use crate::{
    host::{Host, THREADS},
    load::{bounds, slowness},
    medium::longest_wait,
    noise::Noise,
    quiet::{Errors, Quiet},
};

/// How long the noise lasts.
const NOISE: Duration = Duration::from_millis(700);
/// How long an agent may continue to work for clients that have gone: a started request is finished up to its
/// next piece.
pub(crate) const AFTER: Duration = Duration::from_secs(1);
/// How many requests of others the kernel may finish before one to the same file, each at the speed of the
/// medium. An inode has one lock, which a trim and a write into a hole hold while they wait for it.
const AHEAD: u32 = 8;
/// The properties of a disk.
pub(crate) struct Row<'a> {
    pub(crate) errors: Errors,
    /// The quiet tenant's export, where it may not be the noisy tenant's default export.
    pub(crate) export: &'static str,
    /// How long the disk itself delays a request.
    pub(crate) own: Duration,
    /// The directory of the disk's file, if it is one: programs outside the test may keep the medium busy.
    pub(crate) medium: Option<&'a Path>,
    /// The memory of the disk itself, in MiB.
    pub(crate) contents_mib: u64,
    /// The threads of the disk itself.
    pub(crate) threads: u64,
}

impl Default for Row<'_> {
    fn default() -> Self {
        let own = Duration::ZERO;
        Self { errors: Errors::None, export: "", own, medium: None, contents_mib: 0, threads: 0 }
    }
}

impl Row<'_> {
    /// Serves to both tenants the disk that `words` describe.
    pub(crate) fn run(&self, words: &[&str]) {
        let mut host = Host::start(words);
        let seed = seed("NEIGHBOURS_SEED");
        println!("NEIGHBOURS_SEED={seed} {words:?}");
        let before = slowness();
        let mut client = host.agent.connect();
        let size = client.negotiate_export(self.export);
        client.disconnect();
        let noise = Noise { address: host.tcp, size, seed };
        let mut quiet = Quiet::new(self.export, self.errors);
        let stop = AtomicBool::new(false);
        let (open, threads, medium) = thread::scope(|scope| {
            let noise = scope.spawn(|| noise.make(&stop));
            let counting = scope.spawn(|| host.most_threads(&stop));
            let witness = self.medium.map(|dir| scope.spawn(|| longest_wait(dir, &stop)));
            // The noise ends even if the quiet tenant panics.
            let measured = catch_unwind(AssertUnwindSafe(|| quiet.measure(&host, duration())));
            stop.store(true, Ordering::Relaxed);
            let medium = witness.map_or(Duration::ZERO, |it| it.join().expect("a witness"));
            let seen = (noise.join().expect("noise"), counting.join().expect("threads"));
            measured.unwrap_or_else(|panic| resume_unwind(panic));
            (seen.0, seen.1, medium)
        });
        let slowness = before.max(slowness());
        println!("{open} noisy connections, {threads} threads, peak {} MiB", host.peak_mib());
        println!("the medium made others wait for {medium:.1?}");
        assert!(open > 0, "there was no noise");
        quiet.assert_within(bounds(slowness, self.own + medium * AHEAD));
        host.assert_memory(self.contents_mib, threads);
        let allowed = THREADS + self.threads;
        assert!(threads <= allowed, "{threads} threads, allowed {allowed}");
        host.assert_quiet(AFTER.mul_f64(slowness));
        let log = host.agent.end();
        assert!(!log.iter().any(|line| line.contains("panicked")), "{log:#?}");
    }
}

/// The quiet tenant uses the default export while this many threads make `noise` until the flag is set.
pub(crate) fn storm(host: &Host, threads: usize, noise: impl Fn(&AtomicBool) + Sync) {
    let mut quiet = Quiet::new("", Errors::None);
    let (stop, before, used) = (AtomicBool::new(false), slowness(), host.used());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| noise(&stop));
        }
        // The noise ends even if the quiet tenant panics.
        let measured = catch_unwind(AssertUnwindSafe(|| quiet.measure(host, duration())));
        stop.store(true, Ordering::Relaxed);
        measured.unwrap_or_else(|panic| resume_unwind(panic));
    });
    println!("{:?} of processor time", host.used().saturating_sub(used));
    quiet.assert_within(bounds(before.max(slowness()), Duration::ZERO));
}

fn duration() -> Duration {
    let given = env::var("NEIGHBOURS_MS").ok().and_then(|ms| ms.parse().ok());
    given.map_or(NOISE, Duration::from_millis)
}
