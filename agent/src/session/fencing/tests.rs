//! Clients that reconnect, with sessions and without.

use std::{
    future::Future,
    io::{Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    pin::pin,
    sync::mpsc::{Receiver, Sender, channel},
    task::{Context, Poll, Waker},
    time::Duration,
};

use nbd::{
    Framing,
    negotiate::{Client, ClientStep},
};
use tokio::task::JoinHandle;

use super::*;
use crate::{
    peer::Peer,
    session::{self, End, Life, Rules, testing::rules_of},
};
use disk::{Answer, Disk, DiskError, DiskInfo, Identity, Op, Progress, Turn};

fn fencing(generation: u64) -> FencingToken {
    FencingToken { token: 7, generation }
}

fn now<T>(waits: impl Future<Output = T>) -> Poll<T> {
    pin!(waits).poll(&mut Context::from_waker(Waker::noop()))
}

fn entered(all: &Arc<Fencing>, generation: u64) -> Arc<Fenced> {
    match now(all.follow(fencing(generation))) {
        Poll::Ready(Some(fenced)) => fenced,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_connection_follows_when_the_last_holder_of_the_older_one_is_gone() {
    let all = Arc::new(Fencing::default());
    let first = entered(&all, 1);
    assert!(first.begin());
    let request = Arc::clone(&first);
    let mut waits = pin!(all.follow(fencing(2)));
    let context = &mut Context::from_waker(Waker::noop());
    assert!(waits.as_mut().poll(context).is_pending());
    assert!(matches!(now(first.revocation().revoked()), Poll::Ready(why) if &*why == FOLLOWED));
    drop(first);
    assert!(waits.as_mut().poll(context).is_pending());
    drop(request);
    assert!(matches!(waits.as_mut().poll(context), Poll::Ready(Some(_))));
}

#[test]
fn connections_of_one_generation_coexist_and_an_older_one_is_rejected() {
    let all = Arc::new(Fencing::default());
    let (one, two) = (entered(&all, 3), entered(&all, 3));
    assert!(one.begin() && two.begin());
    assert!(matches!(now(all.follow(fencing(2))), Poll::Ready(None)));
    assert!(now(one.revocation().revoked()).is_pending());
    // Another client is not affected.
    let other = FencingToken { token: 8, generation: 9 };
    assert!(matches!(now(all.follow(other)), Poll::Ready(Some(_))));
}

#[test]
fn a_replaced_connection_without_a_disk_is_not_waited_for_and_cannot_begin() {
    let all = Arc::new(Fencing::default());
    let first = entered(&all, 1);
    let second = entered(&all, 2);
    assert!(!first.begin());
    assert!(second.begin());
}

#[test]
fn a_replaced_connection_cannot_begin_after_its_follower_has_ended() {
    let all = Arc::new(Fencing::default());
    let first = entered(&all, 1);
    drop(entered(&all, 2));
    assert!(!first.begin());
}

#[test]
fn nothing_is_kept_of_connections_that_ended() {
    let all = Arc::new(Fencing::default());
    for generation in 0..100 {
        drop(entered(&all, generation));
    }
    assert!(all.clients().by_token.is_empty());
}

/// Reports when it begins a write, and ends the write when it is told to.
#[derive(Debug)]
struct Slow {
    begun: Mutex<Sender<u64>>,
    go_on: Mutex<Receiver<()>>,
}

impl Disk for Slow {
    fn info(&self) -> DiskInfo {
        DiskInfo::plain(1 << 20, Identity::of("slow", &[]))
    }

    fn try_execute(&self, _: &mut Op<'_>, _: &mut Answer) -> Result<Turn, DiskError> {
        Ok(Turn::WouldBlock)
    }

    fn execute(&self, op: &mut Op<'_>, _: &mut Answer) -> Result<Progress, DiskError> {
        self.begun.lock().unwrap().send(op.range().0).unwrap();
        self.go_on.lock().unwrap().recv().unwrap();
        Ok(Progress::Done)
    }
}

fn rules(disk: Slow) -> Arc<Rules> {
    Arc::new(rules_of(Arc::new(disk)))
}

/// A session, and the client's end of it.
fn session(rules: &Arc<Rules>, life: &watch::Receiver<Life>) -> (UnixStream, JoinHandle<End>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let peer = Peer::Unix { pid: 1, uid: 0, gid: 0 };
    let session = session::run(OwnedFd::from(ours).into(), peer, Arc::clone(rules), life.clone());
    (theirs, tokio::spawn(session))
}

/// Runs the client until it has the server's answer.
fn answer(stream: &mut UnixStream, mut client: Client, out: &mut Vec<u8>) -> ClientStep {
    let mut received = Vec::new();
    loop {
        let (eaten, step) = client.step(&received, out);
        received.drain(..eaten);
        stream.write_all(&std::mem::take(out)).unwrap();
        match step {
            ClientStep::Feed(again) => client = again,
            other => return other,
        }
        let mut piece = [0; 512];
        let n = stream.read(&mut piece).unwrap();
        assert!(n > 0, "it was closed");
        received.extend_from_slice(&piece[..n]);
    }
}

/// Negotiates up to the export. Returns the contexts in the answer to the queries.
fn enter(stream: &mut UnixStream, fencing: FencingToken) -> Vec<String> {
    let mut out = Vec::new();
    let ClientStep::Ready(ready) = answer(stream, Client::start(Framing::Structured), &mut out)
    else {
        panic!("no greeting");
    };
    let client = ready.contexts_of(
        "",
        &["x-agent:identity", "x-agent:instance", &fencing.to_string()],
        &mut out,
    );
    let ClientStep::Contexts(ready, names) = answer(stream, client, &mut out) else {
        panic!("no contexts");
    };
    let client = ready.go("", false, &mut out);
    assert!(matches!(answer(stream, client, &mut out), ClientStep::Done(..)));
    names
}

/// A write of 512 bytes.
fn write(stream: &mut UnixStream, at: u64) {
    let mut bytes = 0x2560_9513_0000_0001_u64.to_be_bytes().to_vec();
    bytes.extend(at.to_be_bytes());
    bytes.extend(at.to_be_bytes());
    bytes.extend(512_u32.to_be_bytes());
    bytes.extend([1; 512]);
    stream.write_all(&bytes).unwrap();
}

/// Negotiates up to the query for contexts, and sends nothing after it.
fn name(stream: &mut UnixStream, fencing: FencingToken) {
    let mut out = Vec::new();
    let step = answer(stream, Client::start(Framing::Structured), &mut out);
    let ClientStep::Ready(ready) = step else { panic!("no greeting") };
    drop(ready.contexts_of("", &[&fencing.to_string()], &mut out));
    stream.write_all(&out).unwrap();
}

#[tokio::test]
async fn a_negotiating_connection_is_replaced_too_and_a_waiting_client_may_leave() {
    let (begun, begins) = channel();
    let (go, go_on) = channel();
    let rules = rules(Slow { begun: Mutex::new(begun), go_on: Mutex::new(go_on) });
    let (_alive, life) = watch::channel(Life::Serving);
    let patience = Duration::from_mins(1);

    let (mut naming, first) = session(&rules, &life);
    let (mut writing, second) = session(&rules, &life);
    let clients = tokio::task::spawn_blocking(move || {
        name(&mut naming, fencing(1));
        // After this answer the server knows its token.
        naming.read_exact(&mut [0; 20]).unwrap();
        enter(&mut writing, fencing(2));
        write(&mut writing, 0);
        begins.recv_timeout(patience).unwrap();
        (naming, writing)
    });
    let _clients = clients.await.unwrap();
    assert_eq!(first.await.unwrap(), End::Revoked(FOLLOWED.into()));

    let (mut waiting, third) = session(&rules, &life);
    let named = tokio::task::spawn_blocking(move || {
        name(&mut waiting, fencing(3));
        waiting
    });
    let waiting = named.await.unwrap();
    assert_eq!(second.await.unwrap(), End::Revoked(FOLLOWED.into()));
    // The write continues; the client that waits for its end hangs up.
    drop(waiting);
    let end = tokio::time::timeout(Duration::from_secs(5), third).await;
    assert_eq!(end.expect("at once, not at the deadline").unwrap(), End::Closed);
    go.send(()).unwrap();
}

#[tokio::test]
async fn a_new_connection_begins_when_the_old_ones_write_has_ended_and_nothing_follows_it() {
    let (begun, begins) = channel();
    let (go, go_on) = channel();
    let disk = Slow { begun: Mutex::new(begun), go_on: Mutex::new(go_on) };
    let rules = rules(disk);
    let (_alive, life) = watch::channel(Life::Serving);
    let patience = Duration::from_mins(1);

    let (mut old, first) = session(&rules, &life);
    let mut old = tokio::task::spawn_blocking(move || {
        let names = enter(&mut old, fencing(1));
        let value = |name: &str, query| name.strip_prefix(query).map(str::len);
        assert_eq!(value(&names[0], "x-agent:identity="), Some(32));
        assert_eq!(value(&names[1], "x-agent:instance="), Some(32));
        assert_eq!(names[2..], [fencing(1).to_string()]);
        write(&mut old, 4096);
        write(&mut old, 8192);
        old
    })
    .await
    .unwrap();
    let begins = tokio::task::spawn_blocking(move || {
        assert_eq!(begins.recv_timeout(patience), Ok(4096));
        begins
    });
    let begins = begins.await.unwrap();

    let (mut new, _second) = session(&rules, &life);
    let mut entering = tokio::task::spawn_blocking(move || {
        enter(&mut new, fencing(2));
        write(&mut new, 0);
        new
    });
    // The old connection ends at once, although its request continues.
    assert_eq!(first.await.unwrap(), End::Revoked(FOLLOWED.into()));
    // The read fails with a reset if the agent had not received all requests.
    assert_eq!(old.read(&mut [0; 16]).unwrap_or(0), 0);
    // That something does not happen cannot be waited for.
    let soon = tokio::time::timeout(Duration::from_millis(200), &mut entering).await;
    assert!(soon.is_err(), "the new connection is let in while the old one's write goes on");
    go.send(()).unwrap();
    go.send(()).unwrap();
    let mut new = entering.await.unwrap();
    tokio::task::spawn_blocking(move || {
        let next = begins.recv_timeout(patience);
        assert_eq!(next, Ok(0), "what the old connection had asked for behind is not done");
        new.read_exact(&mut [0; 16]).unwrap();
    })
    .await
    .unwrap();
}
