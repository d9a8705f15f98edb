//! Machines of a fake QEMU, which plays a script at its QMP socket: their events, and the effect on the lease. No guest
//! connects here; the gate is asked.

use std::sync::mpsc;

use support::qemu::scripted::{
    Act::{self, Close, Cue, Event, Expect, Idle, Reply, Say},
    Peer as FakeQemu, greeted,
};
use tokio::task::JoinHandle;
use vsock_cid::Cid;

use super::*;
use crate::{
    access::{Caller, Gate, Pass},
    peer::Peer,
};

const DEVICE: &str = "[{\"name\": \"v\", \"type\": \"child<vhost-vsock-pci>\"}]";
const RESET: &str =
    "{\"event\": \"RESET\", \"data\": {\"guest\": true, \"reason\": \"guest-reset\"}}\n";
const SHUTDOWN: &str =
    "{\"event\": \"SHUTDOWN\", \"data\": {\"guest\": true, \"reason\": \"guest-shutdown\"}}\n";
const DELETED: &str =
    "{\"event\": \"DEVICE_DELETED\", \"data\": {\"path\": \"/machine/peripheral/v\"}}\n";

/// The script of a QEMU that has these devices, of which one has the CID `cid`.
fn asked(devices: &'static str, cid: &'static str) -> Vec<Act> {
    let mut acts = greeted(vec![
        Expect("qom-get"),
        Reply("\"pc-q35-10.0-machine\""),
        Expect("query-pci"),
        Reply("[{\"bus\": 0}]"),
        Expect("query-name"),
        Reply("{\"name\": \"vm1\"}"),
    ]);
    acts.extend(listed(devices, cid));
    acts
}

fn listed(devices: &'static str, cid: &'static str) -> [Act; 6] {
    [
        Expect("qom-list"),
        Reply(devices),
        Expect("qom-list"),
        Reply("[]"),
        Expect("qom-get"),
        Reply(cid),
    ]
}

fn machines(fakes: &[&FakeQemu]) -> Machines {
    let sockets = fakes.iter().map(|fake| fake.path().into()).collect();
    Machines { sockets, cids: Range::default() }
}

fn admit(leases: &Leases, cid: u32) -> Option<Pass> {
    let guest = Peer::Vsock { cid: Cid::new(cid), port: 1, to: Cid::HOST };
    leases.admit(&Caller::new(&guest, &|| None)).ok()
}

async fn why(pass: &Pass) -> String {
    pass.revocation().unwrap().clone().revoked().await.to_string()
}

/// A machine with CID 7 that is followed. Its script continues with `then` at the cue.
async fn followed(then: Vec<Act>) -> (Arc<Leases>, FakeQemu, mpsc::Sender<()>, JoinHandle<()>) {
    let (cue, cued) = mpsc::channel();
    let script = asked(DEVICE, "7").into_iter().chain([Cue(cued)]).chain(then).collect();
    let fake = FakeQemu::play(script);
    let leases = Arc::default();
    let mut wired = machines(&[&fake]).wire(&leases).await.unwrap();
    let following = tokio::spawn(wired.remove(0).follow());
    (leases, fake, cue, following)
}

#[tokio::test]
async fn the_guest_of_a_fake_machine_comes_in_until_its_end() {
    for (then, said) in [
        (vec![Say(SHUTDOWN.into()), Idle], "has ended (guest-shutdown)"),
        (vec![Say(DELETED.into()), Idle], "the vsock device was taken out of machine 'vm1'"),
        (vec![Close], "is not followed any more: QEMU closed the connection"),
        (vec![Say("{\"event\"".into()), Close], "in the middle of a line"),
        (vec![Say("garbage\n".into()), Idle], "it sent 'garbage'"),
        (vec![Say("x".repeat(2 << 20)), Idle], "a line of more than 1048576 bytes"),
        (
            vec![Say("{\"return\": {}, \"id\": 1}\n".into()), Idle],
            "not waiting for an answer: id 1",
        ),
        (vec![Event("STOP"), Event("RESUME"), Event("POWERDOWN"), Close], "QEMU closed"),
    ] {
        let (leases, fake, cue, following) = followed(then).await;
        assert!(admit(&leases, 8).is_none(), "it is not the machine's");
        let pass = admit(&leases, 7).unwrap();
        cue.send(()).unwrap();
        let why = why(&pass).await;
        assert!(why.contains(said) && why.contains(fake.path().to_str().unwrap()), "{why}");
        following.await.unwrap();
        assert!(admit(&leases, 7).is_none(), "{why}: the next one with this CID gets nothing");
    }
}

#[tokio::test]
async fn a_reset_of_a_fake_machine_closes_its_sessions_and_keeps_its_lease() {
    let other = DELETED.replace("/v\"", "/other\"");
    let (again, second) = mpsc::channel();
    let then = vec![
        Say(other),
        Say(RESET.into()),
        Cue(second),
        Say(RESET.into()),
        Say(SHUTDOWN.into()),
        Idle,
    ];
    let (leases, _fake, cue, following) = followed(then).await;
    let before = admit(&leases, 7).unwrap();
    cue.send(()).unwrap();
    assert!(why(&before).await.ends_with("starts again (guest-reset)"));
    let after = admit(&leases, 7).expect("the lease is kept");
    again.send(()).unwrap();
    assert!(why(&after).await.ends_with("starts again (guest-reset)"));
    following.await.unwrap();
    assert!(admit(&leases, 7).is_none());
}

#[tokio::test]
async fn a_follower_of_a_fake_machine_that_is_dropped_leaves_no_lease() {
    let (leases, _fake, _cue, following) = followed(vec![Idle]).await;
    let pass = admit(&leases, 7).unwrap();
    following.abort();
    why(&pass).await;
    assert!(admit(&leases, 7).is_none());
}

#[tokio::test]
async fn several_fake_machines_have_a_lease_each() {
    let (end, ended) = mpsc::channel();
    let first = asked(DEVICE, "7").into_iter().chain([Cue(ended), Say(SHUTDOWN.into()), Idle]);
    let second = asked(DEVICE, "9").into_iter().chain([Idle]);
    let fakes = [FakeQemu::play(first.collect()), FakeQemu::play(second.collect())];
    let leases = Arc::default();
    let wired = machines(&[&fakes[0], &fakes[1]]).wire(&leases).await.unwrap();
    let mut following = wired.into_iter().map(|machine| tokio::spawn(machine.follow()));
    let first = following.next().unwrap();
    let _second = following.next().unwrap();
    assert!(admit(&leases, 7).is_some() && admit(&leases, 9).is_some());
    end.send(()).unwrap();
    first.await.unwrap();
    assert!(admit(&leases, 7).is_none() && admit(&leases, 9).is_some());
}

#[tokio::test]
async fn a_fake_machine_that_cannot_be_served_is_an_error() {
    let user = "[{\"name\": \"v\", \"type\": \"child<vhost-user-vsock-pci>\"}]";
    let mut no_cid = asked(user, "");
    no_cid.truncate(no_cid.len() - 2);
    let two = "[{\"name\": \"v\", \"type\": \"child<vhost-vsock-pci>\"}, \
               {\"name\": \"w\", \"type\": \"child<vhost-vsock-pci>\"}]";
    let mut two = asked(two, "7");
    two.extend([Expect("qom-get"), Reply("8")]);
    for (script, part) in [
        (no_cid, "whose CID its vhost-user process knows"),
        (two, "'v' with CID 7, vhost-vsock-pci 'w' with CID 8"),
        (asked(DEVICE, "4294967296"), "the CID of machine 'vm1'"),
        (greeted(vec![Close]), "qom-get over the QMP socket"),
        (vec![Close], "no greeting from the QMP socket"),
    ] {
        let fake = FakeQemu::play(script.into_iter().chain([Idle]).collect());
        let leases = Arc::default();
        let error = machines(&[&fake]).wire(&leases).await.unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
        assert!(admit(&leases, 7).is_none());
    }

    let scripts = [asked(DEVICE, "7"), asked(DEVICE, "7")];
    let fakes = scripts.map(|script| FakeQemu::play(script.into_iter().chain([Idle]).collect()));
    let leases = Arc::default();
    let error = machines(&[&fakes[0], &fakes[1]]).wire(&leases).await.unwrap_err();
    assert!(matches!(error, MachineError::Taken { .. }), "{error}");
    assert!(admit(&leases, 7).is_none(), "the first one's lease is gone with it");
}
