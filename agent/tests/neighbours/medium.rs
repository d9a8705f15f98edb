//! How long the medium of a disk delays any process, including those that are not clients of the agent.

use std::{
    fs::OpenOptions,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::libc;
use support::random::Random;

const SIZE: u64 = 64 << 20;
const PAUSE: Duration = Duration::from_millis(1);

/// A page with the alignment that O_DIRECT needs.
#[repr(align(4096))]
struct Page([u8; 4096]);

/// The longest time that a read or write of a page of another file in this directory took until `stop`,
/// without the page cache.
///
/// Other programs on this machine use the same medium, and may keep it busy for a second.
pub(crate) fn longest_wait(dir: &Path, stop: &AtomicBool) -> Duration {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let path = dir.join("witness");
    // A tmpfs may have no O_DIRECT, and causes no delay.
    let direct = options.clone().custom_flags(libc::O_DIRECT).open(&path);
    let file = direct.or_else(|_| options.open(&path)).expect("a file that is not the agent's");
    file.set_len(SIZE).expect("its size");
    let mut random = Random::new(2);
    let mut page = Box::new(Page([3; 4096]));
    let mut longest = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        let offset = random.below(SIZE / 4096) * 4096;
        let start = Instant::now();
        if random.one_in(2) {
            file.read_exact_at(&mut page.0, offset).expect("a page is read");
        } else {
            file.write_all_at(&page.0, offset).expect("a page is written");
        }
        longest = longest.max(start.elapsed());
        thread::sleep(PAUSE);
    }
    longest
}
