//! Writes whose payload does not come, with the clock moved by the test.

use std::{
    os::{fd::OwnedFd, unix::net::UnixStream as Socket},
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use disk::NullDisk;
use nbd::negotiate::{Offers, Tls};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    sync::watch,
    task::JoinHandle,
    time::Instant,
};

use super::STALLED;
use crate::{
    exports::Single,
    peer::Peer,
    session::{self, End, Life, Rules},
    tls,
};

const LEN: u32 = 1 << 20;

fn rules() -> Arc<Rules> {
    Arc::new(Rules {
        exports: Arc::new(Single(Arc::new(NullDisk::new(1 << 30)))),
        gates: Vec::new(),
        changes: None,
        successions: Arc::default(),
        tenants: Arc::default(),
        connections: AtomicU64::new(0),
        handshake_timeout: Duration::from_mins(1),
        offers: Offers { tls: Tls::Off, ..Offers::default() },
        read_only: false,
        threads: 1,
        tls: tls::Policy::Off,
    })
}

/// A client that has sent the header of a write of `LEN` bytes, and its session.
async fn write() -> (UnixStream, JoinHandle<End>, watch::Sender<Life>) {
    let (ours, theirs) = Socket::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let mut client = UnixStream::from_std(theirs).unwrap();
    let peer = Peer::Unix { pid: 1, uid: 0, gid: 0 };
    let (life, lives) = watch::channel(Life::Serving);
    let session = tokio::spawn(session::run(OwnedFd::from(ours).into(), peer, rules(), lives));
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
    let header = [&0x2560_9513_0000_0001_u64.to_be_bytes()[..], &[0; 16], &LEN.to_be_bytes()];
    client.write_all(&header.concat()).await.unwrap();
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

#[tokio::test(start_paused = true)]
async fn a_slow_payload_that_goes_on_is_taken() {
    let (mut client, _session, _life) = write().await;
    for _ in 0..16 {
        tokio::time::sleep(STALLED.mul_f64(0.98)).await;
        client.write_all(&vec![1; LEN as usize / 16]).await.unwrap();
    }
    let mut reply = [0; 16];
    client.read_exact(&mut reply).await.unwrap();
    assert_eq!(reply[4..8], [0; 4], "no error");
}
