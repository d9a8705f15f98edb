//! Sessions of a guest with a lease, from the first byte to the lease's end. The peer claims to be a guest; its
//! connection is a pair of sockets.

use std::{
    io::{Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::Arc,
    thread,
};

use tokio::sync::watch;

use crate::{
    lease::Leases,
    peer::Peer,
    session::{self, End, Life, Rules, testing::rules_of},
};
use disk::NullDisk;
use vsock_cid::{Cid, GuestCid};

fn rules(leases: &Arc<Leases>) -> Arc<Rules> {
    let disk = Arc::new(NullDisk::new(4096));
    Arc::new(Rules { gates: vec![Arc::clone(leases) as _], ..rules_of(disk) })
}

/// A client that sends `words`. Its thread returns all bytes that it reads up to the end of the connection.
fn client(words: Vec<u8>, first: usize) -> (OwnedFd, thread::JoinHandle<Vec<u8>>, Ready) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let (ready, heard) = tokio::sync::oneshot::channel();
    let reading = thread::spawn(move || {
        theirs.write_all(&words).unwrap();
        let mut bytes = vec![0; first];
        theirs.read_exact(&mut bytes).unwrap();
        ready.send(()).unwrap();
        theirs.read_to_end(&mut bytes).unwrap();
        bytes
    });
    (ours.into(), reading, heard)
}

type Ready = tokio::sync::oneshot::Receiver<()>;

const GREETING: usize = 18;

/// NBD_OPT_EXPORT_NAME of the default export, after flags that omit the zeroes.
fn chosen() -> Vec<u8> {
    [&3_u32.to_be_bytes()[..], b"IHAVEOPT", &1_u32.to_be_bytes(), &0_u32.to_be_bytes()].concat()
}

#[tokio::test]
async fn a_lease_ends_sessions_while_they_negotiate_and_while_they_transmit() {
    for (words, first) in [(Vec::new(), GREETING), (chosen(), GREETING + 10)] {
        for reset in [true, false] {
            let leases = Arc::new(Leases::default());
            let lease = leases.grant(GuestCid::of(7).unwrap(), "vm", ()).unwrap();
            let (_alive, life) = watch::channel(Life::Serving);
            let peer = Peer::Vsock { cid: Cid::new(7), port: 1, to: Cid::HOST };
            let (stream, reading, ready) = client(words.clone(), first);
            let session = session::run(stream.into(), peer, rules(&leases), life);
            let ending = async {
                ready.await.unwrap();
                if reset {
                    lease.reset("it starts again");
                    return Some(lease);
                }
                lease.withdraw("it has ended");
                None
            };
            let (end, kept) = tokio::join!(session, ending);
            let why = if reset { "it starts again" } else { "it has ended" };
            assert_eq!(end, End::Revoked(why.into()));
            assert_eq!(end.to_string(), format!("cut off: {why}"));
            assert_eq!(reading.join().unwrap().len(), first);
            assert_eq!(kept.is_some(), reset);
        }
    }
}

#[tokio::test]
async fn a_session_with_a_lease_ends_with_the_agent_like_any_other() {
    let leases = Arc::new(Leases::default());
    let _lease = leases.grant(GuestCid::of(7).unwrap(), "vm", ()).unwrap();
    let (agent, life) = watch::channel(Life::Serving);
    let peer = Peer::Vsock { cid: Cid::new(7), port: 1, to: Cid::HOST };
    let (stream, reading, ready) = client(chosen(), GREETING + 10);
    let session = session::run(stream.into(), peer, rules(&leases), life);
    let ending = async {
        ready.await.unwrap();
        agent.send_replace(Life::Draining);
    };
    // The client reads the end of the stream and closes.
    let (end, ()) = tokio::join!(session, ending);
    assert_eq!(end, End::ShutDown);
    reading.join().unwrap();
}

#[tokio::test]
async fn a_guest_without_a_lease_is_sent_nothing() {
    let leases = Arc::new(Leases::default());
    let (_alive, life) = watch::channel(Life::Serving);
    let peer = Peer::Vsock { cid: Cid::new(7), port: 1, to: Cid::HOST };
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let end = session::run(OwnedFd::from(ours).into(), peer, rules(&leases), life).await;
    assert!(matches!(end, End::Denied { .. }), "{end}");
    assert_eq!(theirs.read(&mut [0; 1]).unwrap(), 0);
}
