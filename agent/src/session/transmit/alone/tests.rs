use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use disk::{Asked, DiskInfo, Progress, Turn, Verb};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

use crate::tenant::FREE;

use super::{
    super::tests::{header, open, rules_of},
    *,
};

const LEN: u32 = 4096;

/// A disk like a cached file: writes are brief, and it records the thread of each.
#[derive(Debug, Default)]
struct Brief {
    threads: Mutex<Vec<String>>,
    /// Writes in progress.
    busy: AtomicUsize,
    /// While set, no write ends.
    held: AtomicBool,
    /// How long a write takes.
    takes: Mutex<Duration>,
    panics: Mutex<bool>,
    /// A write may take any time, and `is_brief` returns false.
    long: bool,
}

impl Disk for Brief {
    fn info(&self) -> DiskInfo {
        disk::NullDisk::new(1 << 30).info()
    }

    fn try_execute(&self, _: &mut Op<'_>, _: &mut Answer) -> Result<Turn, DiskError> {
        Ok(Turn::WouldBlock)
    }

    fn execute(&self, op: &mut Op<'_>, _: &mut Answer) -> Result<Progress, DiskError> {
        if op.verb() == Verb::Write {
            self.busy.fetch_add(1, Ordering::SeqCst);
            while self.held.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(1));
            }
            thread::sleep(*self.takes.lock().unwrap());
            self.busy.fetch_sub(1, Ordering::SeqCst);
            let name = thread::current().name().unwrap_or("-").to_owned();
            self.threads.lock().unwrap().push(name);
            let panics = std::mem::take(&mut *self.panics.lock().unwrap());
            assert!(!panics, "a bug, for the test");
        }
        Ok(Progress::Done)
    }

    fn is_brief(&self, asked: Asked) -> bool {
        asked.verb == Verb::Write && !self.long
    }
}

impl Brief {
    /// Whether each write was executed in place, in order. Clears the record.
    fn in_place(&self) -> Vec<bool> {
        let threads = std::mem::take(&mut *self.threads.lock().unwrap());
        threads.iter().map(|name| name.starts_with("own-")).collect()
    }
}

/// Writes once, and returns the reply's error number.
async fn write(client: &mut UnixStream) -> [u8; 4] {
    client.write_all(&[header(1, LEN), vec![1; LEN as usize]].concat()).await.unwrap();
    let mut reply = [0; 16];
    client.read_exact(&mut reply).await.unwrap();
    reply[4..8].try_into().unwrap()
}

async fn write_many(client: &mut UnixStream, count: u32) {
    for _ in 0..count {
        assert_eq!(write(client).await, [0; 4]);
    }
}

/// A client whose connection has a thread to itself.
async fn alone() -> (Arc<Brief>, UnixStream, JoinHandle<End>, watch::Sender<Life>) {
    let disk = Arc::new(Brief::default());
    let (mut client, session, life) = open(rules_of(disk.clone())).await;
    write_many(&mut client, WRITES).await;
    assert!(!disk.in_place().contains(&true), "a thread for a few writes");
    write_many(&mut client, 10).await;
    assert!(disk.in_place().iter().skip(1).all(|own| *own), "none for many");
    (disk, client, session, life)
}

#[tokio::test]
async fn a_connection_with_many_brief_writes_does_them_in_place_until_it_is_idle() {
    let (disk, mut client, session, life) = alone().await;
    sleep(3 * IDLE).await;
    write_many(&mut client, 1).await;
    assert_eq!(disk.in_place(), [false], "an idle connection keeps a thread");
    write_many(&mut client, WRITES + 10).await;
    assert!(disk.in_place().ends_with(&[true; 5]), "it gets none again");
    client.write_all(&header(2, 0)).await.unwrap();
    assert_eq!(session.await.unwrap(), End::Disconnected);
    assert_eq!(client.read(&mut [0; 16]).await.unwrap(), 0);
    drop(life);
}

#[tokio::test]
async fn a_write_that_blocks_delays_only_its_connection() {
    let (disk, mut client, session, life) = alone().await;
    disk.held.store(true, Ordering::SeqCst);
    client.write_all(&[header(1, LEN), vec![1; LEN as usize]].concat()).await.unwrap();
    while disk.busy.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    // The thread that the session was on before is free, and the session ends with the agent.
    life.send_replace(Life::Ending);
    disk.held.store(false, Ordering::SeqCst);
    assert_eq!(session.await.unwrap(), End::Cut);
    // The client sees the end when the thread has ended, at the latest.
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.ok();
}

#[tokio::test]
async fn after_a_slow_write_the_next_are_handed_over_for_a_while() {
    let (disk, mut client, ..) = alone().await;
    *disk.takes.lock().unwrap() = 2 * SLOW;
    write_many(&mut client, 2).await;
    assert_eq!(disk.in_place(), [true, false]);
    *disk.takes.lock().unwrap() = Duration::ZERO;
    sleep(2 * PAUSE).await;
    write_many(&mut client, 2).await;
    assert_eq!(disk.in_place(), [true, true]);
}

#[tokio::test]
async fn a_panic_in_place_fails_the_one_write() {
    let (disk, mut client, ..) = alone().await;
    *disk.panics.lock().unwrap() = true;
    assert_eq!(write(&mut client).await, 5u32.to_be_bytes(), "EIO");
    assert_eq!(write(&mut client).await, [0; 4]);
}

#[tokio::test]
async fn a_session_that_is_dropped_ends_its_connection() {
    let (_disk, mut client, session, _life) = alone().await;
    session.abort();
    assert_eq!(client.read(&mut [0; 16]).await.unwrap(), 0, "it goes on");
}

#[tokio::test]
async fn requests_left_on_a_hung_disk_are_charged_until_they_finish() {
    const PAYLOAD: u32 = 4 << 20;
    let disk = Arc::new(Brief { long: true, ..Brief::default() });
    disk.held.store(true, Ordering::SeqCst);
    let rules = rules_of(disk.clone());
    let tenants = Arc::clone(&rules.tenants);
    for round in 1..4 {
        let (mut client, session, life) = open(Arc::clone(&rules)).await;
        let write = [header(1, PAYLOAD), vec![1; PAYLOAD as usize]].concat();
        client.write_all(&write).await.unwrap();
        while disk.busy.load(Ordering::SeqCst) < round {
            tokio::task::yield_now().await;
        }
        life.send_replace(Life::Ending);
        assert_eq!(session.await.unwrap(), End::Cut);
        let held = tenants.memory_used();
        let least = round as u64 * (u64::from(PAYLOAD) - 2 * FREE);
        assert!(held >= least, "{held} bytes are charged in round {round}");
        assert_eq!(tenants.places(), round, "who comes again and again finds places");
    }
    disk.held.store(false, Ordering::SeqCst);
    let start = Instant::now();
    while tenants.memory_used() > 0 || tenants.places() > 0 {
        assert!(start.elapsed() < Duration::from_secs(20), "it is charged for ever");
        sleep(Duration::from_millis(1)).await;
    }
}
