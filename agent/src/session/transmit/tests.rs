//! Writes whose payload does not arrive, with the clock moved by the test.

use std::{
    os::{fd::OwnedFd, unix::net::UnixStream as Socket},
    sync::Arc,
    time::Duration,
};

use disk::{Disk, NullDisk};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    sync::watch,
    task::JoinHandle,
    time::Instant,
};

use super::arriving::STALLED;
use crate::{
    peer::Peer,
    session::{self, End, Life, Rules, testing},
    tenant::{Limits, MemoryLimits, Tenants},
};

const LEN: u32 = 1 << 20;

fn rules() -> Arc<Rules> {
    rules_of(Arc::new(NullDisk::new(1 << 30)))
}

/// Rules with 16 MiB per tenant.
fn rules_of_16_mib() -> Arc<Rules> {
    let mut rules = rules();
    let memory = MemoryLimits { tenant: 16 << 20, ..MemoryLimits::default() };
    let limits = Limits { memory, ..Limits::default() };
    Arc::get_mut(&mut rules).unwrap().tenants = Arc::new(Tenants::new(limits));
    rules
}

/// The rules of an agent that serves `disk`.
pub(super) fn rules_of(disk: Arc<dyn Disk>) -> Arc<Rules> {
    Arc::new(testing::rules_of(disk))
}

/// A client that has sent the header of a write of `LEN` bytes, and its session.
async fn write() -> (UnixStream, JoinHandle<End>, watch::Sender<Life>) {
    write_of(LEN, rules()).await
}

async fn write_of(
    len: u32,
    rules: Arc<Rules>,
) -> (UnixStream, JoinHandle<End>, watch::Sender<Life>) {
    let (mut client, session, life) = open(rules).await;
    client.write_all(&header(1, len)).await.unwrap();
    (client, session, life)
}

/// The header of a write of `len` bytes at offset 0, or of another command, without flags.
pub(super) fn header(command: u8, len: u32) -> Vec<u8> {
    [&0x2560_9513_0000_0000_u64.to_be_bytes()[..7], &[command], &[0; 16], &len.to_be_bytes()]
        .concat()
}

/// A client that has the default export, and its session.
pub(super) async fn open(rules: Arc<Rules>) -> (UnixStream, JoinHandle<End>, watch::Sender<Life>) {
    let (ours, theirs) = Socket::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let mut client = UnixStream::from_std(theirs).unwrap();
    let peer = Peer::Unix { pid: 1, uid: 0, gid: 0 };
    let (life, lives) = watch::channel(Life::Serving);
    let session = tokio::spawn(session::run(OwnedFd::from(ours).into(), peer, rules, lives));
    // Fixed newstyle without zeroes, and NBD_OPT_GO of the default export.
    let go = [&3u32.to_be_bytes()[..], b"IHAVEOPT", &[0, 0, 0, 7, 0, 0, 0, 6], &[0; 6]].concat();
    client.write_all(&go).await.unwrap();
    client.read_exact(&mut [0; 18]).await.unwrap();
    loop {
        let mut header = [0; 20];
        client.read_exact(&mut header).await.unwrap();
        client.read_exact(&mut vec![0; usize::from(header[19])]).await.unwrap();
        if header[12..16] == 1u32.to_be_bytes() {
            break;
        }
    }
    (client, session, life)
}

#[tokio::test(start_paused = true)]
async fn a_payload_that_stops_ends_its_connection_after_a_minute() {
    let (mut client, session, _life) = write().await;
    client.write_all(&vec![1; LEN as usize - 1]).await.unwrap();
    let start = Instant::now();
    assert_eq!(client.read(&mut [0; 16]).await.unwrap(), 0, "nothing is answered");
    assert_eq!(session.await.unwrap(), End::Stalled);
    let took = start.elapsed();
    assert!(took >= STALLED && took < STALLED + Duration::from_secs(5), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_byte_now_and_then_is_no_progress() {
    let (mut client, session, _life) = write().await;
    client.write_all(&vec![1; 300_000]).await.unwrap();
    let start = Instant::now();
    while client.write_all(&[1]).await.is_ok() {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(start.elapsed() < 2 * STALLED, "a byte each second keeps it");
    }
    assert_eq!(session.await.unwrap(), End::Stalled);
}

/// Sends a payload in 16 parts with pauses. Returns the error number of the reply, or `None` if there was no reply.
async fn send_slowly(pause: Duration) -> Option<[u8; 4]> {
    let (mut client, _session, _life) = write().await;
    for _ in 0..16 {
        tokio::time::sleep(pause).await;
        client.write_all(&vec![1; LEN as usize / 16]).await.ok()?;
    }
    let mut reply = [0; 16];
    client.read_exact(&mut reply).await.ok()?;
    Some(reply[4..8].try_into().unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_slow_payload_that_comes_within_a_minute_and_a_second_per_mib_is_taken() {
    assert_eq!(send_slowly(STALLED.mul_f64(0.98 / 16.0)).await, Some([0; 4]), "no error");
}

#[tokio::test(start_paused = true)]
async fn progress_now_and_then_does_not_hold_memory_for_ever() {
    // 64 KiB every 59 seconds.
    assert_eq!(send_slowly(STALLED.mul_f64(0.98)).await, None, "it is cut off");
}

/// Waits for the end of a session.
async fn ended(session: JoinHandle<End>) -> End {
    let end = tokio::time::timeout(10 * STALLED, session).await;
    end.expect("the session ends").unwrap()
}

#[tokio::test(start_paused = true)]
async fn each_request_that_begins_and_does_not_go_on_ends_its_connection() {
    let read_only = || {
        let mut rules = rules();
        Arc::get_mut(&mut rules).unwrap().read_only = true;
        rules
    };
    for (what, len, sent, rules) in [
        ("a short write that lacks a byte", 4096, 4095, rules()),
        ("a refused write", 1 << 20, 100_000, read_only()),
        ("a refused write that is short", 4096, 0, read_only()),
    ] {
        let (mut client, session, _life) = write_of(len, rules).await;
        client.write_all(&vec![1; sent]).await.unwrap();
        let start = Instant::now();
        assert_eq!(ended(session).await, End::Stalled, "{what}");
        assert_eq!(client.read(&mut [0; 16]).await.unwrap(), 0, "{what}: nothing is answered");
        let took = start.elapsed();
        assert!(took >= STALLED && took < STALLED + Duration::from_secs(5), "{what}: {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_header_that_is_not_whole_ends_its_connection_and_an_idle_client_stays() {
    let (mut client, session, _life) = write_of(16, rules()).await;
    client.write_all(&[1; 16]).await.unwrap();
    client.read_exact(&mut [0; 16]).await.unwrap();
    tokio::time::sleep(100 * STALLED).await;
    assert!(!session.is_finished(), "an idle client may stay");
    client.write_all(&0x2560_9513_u32.to_be_bytes()).await.unwrap();
    let start = Instant::now();
    assert_eq!(ended(session).await, End::Stalled);
    assert!(start.elapsed() < STALLED + Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_waits_for_memory_and_leaves_is_seen_to_have_left() {
    let rules = rules_of_16_mib();
    let (_holds, first, _life) = write_of(12 << 20, Arc::clone(&rules)).await;
    let (waits, second, _life) = write_of(12 << 20, rules).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!first.is_finished() && !second.is_finished());
    drop(waits);
    tokio::time::timeout(Duration::from_secs(5), second).await.expect("it ends").unwrap();
    assert!(!first.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_has_ended_its_sending_is_answered_when_there_is_memory() {
    let rules = rules_of_16_mib();
    let (holds, first, _life) = write_of(12 << 20, Arc::clone(&rules)).await;
    let (mut waits, _second, _life) = write_of(8 << 20, rules).await;
    let (mut replies, mut requests) = waits.split();
    let sending = async {
        requests.write_all(&vec![1; 8 << 20]).await.unwrap();
        requests.shutdown().await.unwrap();
    };
    let answered = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!first.is_finished());
        drop(holds);
        let mut reply = [0; 16];
        replies.read_exact(&mut reply).await.unwrap();
        assert_eq!(reply[4..8], [0; 4], "no error");
    };
    tokio::join!(sending, answered);
}
