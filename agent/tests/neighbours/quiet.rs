//! The quiet tenant: reads and writes 4 KiB now and then, and measures how long each request takes.

use std::{
    thread,
    time::{Duration, Instant},
};

use support::{
    client::Client,
    random::Random,
    wire::{READ, WRITE},
};

use crate::{host::Host, load::Bounds};

const BLOCK: u32 = 4096;
/// The pause between two requests.
const PAUSE: Duration = Duration::from_millis(1);
/// The fewest measurements from which a 99th percentile can be taken.
const LEAST: usize = 100;

/// Which errors the disk returns by design.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Errors {
    None,
    Writes,
    All,
}

/// The quiet tenant's export, and its measurements.
pub(crate) struct Quiet {
    pub(crate) export: &'static str,
    pub(crate) errors: Errors,
    times: Vec<Duration>,
}

impl Quiet {
    pub(crate) const fn new(export: &'static str, errors: Errors) -> Self {
        Self { export, errors, times: Vec::new() }
    }

    fn open(&self, host: &Host) -> (Client, u64) {
        let mut client = host.agent.connect();
        let size = client.negotiate_export(self.export);
        (client, size)
    }

    /// Sends requests for this long and until there are enough of them, on two connections in turn.
    pub(crate) fn measure(&mut self, host: &Host, least: Duration) {
        let mut random = Random::new(1);
        let begun = Instant::now();
        let (mut client, size) = self.open(host);
        self.times.push(begun.elapsed());
        let mut again = false;
        while begun.elapsed() < least || self.times.len() < LEAST {
            if !again && begun.elapsed() >= least / 2 {
                again = true;
                client.disconnect();
                let start = Instant::now();
                client = self.open(host).0;
                self.times.push(start.elapsed());
            }
            let offset = random.below(size / u64::from(BLOCK)) * u64::from(BLOCK);
            let start = Instant::now();
            if random.one_in(2) {
                read(&mut client, offset, self.errors);
            } else {
                write(&mut client, offset, self.errors);
            }
            self.times.push(start.elapsed());
            thread::sleep(PAUSE);
        }
    }

    pub(crate) fn assert_within(mut self, bounds: Bounds) {
        let times = &mut self.times;
        times.sort_unstable();
        let last = times.len() - 1;
        let (p50, p99, worst) = (times[last / 2], times[last * 99 / 100], times[last]);
        println!("{last} requests: p50 {p50:.1?}, p99 {p99:.1?}, worst {worst:.1?}; {bounds:.1?}");
        assert!(worst <= bounds.worst, "the slowest request took {worst:?}, allowed {bounds:?}");
        assert!(p99 <= bounds.p99, "p99 {p99:?}, allowed {bounds:?}");
    }
}

fn read(client: &mut Client, offset: u64, errors: Errors) {
    client.request(READ, 77, offset, BLOCK);
    let (error, cookie) = client.reply();
    assert_eq!(cookie, 77);
    if error == 0 {
        client.recv_len(BLOCK as usize);
    } else {
        assert_eq!(errors, Errors::All, "a read failed: {error}");
    }
}

fn write(client: &mut Client, offset: u64, errors: Errors) {
    client.request(WRITE, 78, offset, BLOCK);
    client.send(&[5; BLOCK as usize]);
    let (error, cookie) = client.reply();
    assert_eq!(cookie, 78);
    assert!(error == 0 || errors != Errors::None, "a write failed: {error}");
}
