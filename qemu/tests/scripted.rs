//! The client against a peer that follows a script: whatever the peer sends, the client fails with a clear error,
//! in bounded time and memory.

use std::{
    error::Error as _,
    fs::File,
    io::{Read, Write},
    os::fd::AsFd,
    sync::mpsc,
    time::{Duration, Instant},
};

use qapi::qmp::{query_name, query_status};
use qemu::{
    cid::Claim,
    qmp::{Client, Error, Heard, Limits, Step, Why},
    vsock::{Bus, Machine, Place, PlugError, plug_claimed},
};
use support::qemu::scripted::{
    Act::{Close, Event, Expect, Fill, Flood, Idle, Reply, Say, TakeFd},
    GREETING, Peer, greeted,
};
use vsock_cid::GuestCid;

/// The client's deadlines.
const LIMIT: Duration = Duration::from_millis(300);
/// After this time a test fails. Long, for a busy machine.
const BOUND: Duration = Duration::from_secs(20);

fn limits() -> Limits {
    Limits { greeting: LIMIT, command: LIMIT }
}

/// Deadlines for peers that behave, on a busy machine.
fn patient() -> Limits {
    Limits { greeting: BOUND, command: BOUND }
}

fn chain(error: &Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    line
}

/// Connects, asks for the name, and reads events, until an error.
async fn whole(peer: &Peer, limits: Limits) -> Error {
    let story = async {
        let mut client = Client::connect(peer.path(), limits).await?;
        client.execute(&query_name {}).await?;
        loop {
            client.event().await?;
        }
    };
    let result: Result<(), Error> = story.await;
    result.unwrap_err()
}

#[tokio::test]
async fn each_kind_of_wrong_message_has_its_own_error() {
    let deep = format!("{{\"return\": {}, \"id\": 2}}\n", "[".repeat(200_000));
    for (said, part) in [
        ("SSH-2.0-OpenSSH_9.2\r\n", "no greeting from the QMP socket"),
        ("{\"return\": {}}\n", "the first line is no greeting"),
        ("{\"event\": \"STOP\"}\n", "the first line is no greeting"),
        ("{\"QMP\": ", "in the middle of a line of 8 bytes"),
        ("\u{0}\u{0}\u{0}\n", "it sent '\\x00\\x00\\x00', which"),
    ] {
        let peer = Peer::play(vec![Say(said.into()), Close]);
        let error = whole(&peer, patient()).await;
        assert_eq!(error.step, Step::Greeting, "{said}");
        assert!(chain(&error).contains(part), "{said}: {}", chain(&error));
    }
    for (said, part) in [
        ("garbage\n", "query-name over the QMP socket"),
        ("{\"return\": {}, \"id\": \"x\"}\n", "id \"x\""),
        ("{\"return\": {}, \"id\": 99}\n", "not waiting for an answer: id 99"),
        ("{\"return\": {}}\n", "id missing"),
        ("{\"return\": {}, \"id\": -1}\n", "id -1"),
        ("{\"return\": [1], \"id\": 2}\n", "the answer is not of the form"),
        (
            "{\"error\": {\"class\": \"C\", \"desc\": \"bad\"}}\n",
            "understand what was sent: QEMU refuses: bad",
        ),
        (
            "{\"error\": {\"class\": \"Newer\", \"desc\": \"bad\"}, \"id\": 2}\n",
            "QEMU refuses: bad",
        ),
        ("{\"QMP\": {}}\n", "greets in the middle"),
        (&deep, "no message of QMP"),
    ] {
        let peer = Peer::play(greeted(vec![Expect("query-name"), Say(said.into()), Idle]));
        let error = whole(&peer, patient()).await;
        assert_eq!(error.step, Step::Command("query-name"), "{said}");
        assert!(chain(&error).contains(part), "{said}: {}", chain(&error));
    }
}

#[tokio::test]
async fn an_end_of_qemu_at_any_step_is_reported_as_such() {
    let steps = [
        (vec![Close], Step::Greeting),
        (vec![Say(GREETING[..20].into()), Close], Step::Greeting),
        (vec![Say(GREETING.into()), Close], Step::Command("qmp_capabilities")),
        (
            vec![Say(GREETING.into()), Expect("qmp_capabilities"), Close],
            Step::Command("qmp_capabilities"),
        ),
        (greeted(vec![Close]), Step::Command("query-name")),
        (greeted(vec![Expect("query-name"), Close]), Step::Command("query-name")),
        (
            greeted(vec![Expect("query-name"), Say("{\"return\"".into()), Close]),
            Step::Command("query-name"),
        ),
        (greeted(vec![Expect("query-name"), Reply("{}"), Close]), Step::Events),
        (greeted(vec![Expect("query-name"), Reply("{}"), Event("STOP"), Close]), Step::Events),
        (
            greeted(vec![Expect("query-name"), Reply("{}"), Say("{\"event\"".into()), Close]),
            Step::Events,
        ),
    ];
    for (number, (script, step)) in steps.into_iter().enumerate() {
        let peer = Peer::play(script);
        let error = whole(&peer, patient()).await;
        assert_eq!(error.step, step, "{number}: {}", chain(&error));
        assert!(error.is_end(), "{number}: {}", chain(&error));
        assert!(error.to_string().contains(peer.path().to_str().unwrap()), "{number}: {error}");
    }
}

#[tokio::test]
async fn a_socket_without_a_listener_is_an_error_with_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("qmp");
    let error = Client::connect(&path, limits()).await.unwrap_err();
    assert_eq!(error.step, Step::Connect);
    assert!(error.hint().unwrap().contains("-qmp unix:PATH"), "{:?}", error.hint());
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let error = Client::connect(&path, limits()).await.unwrap_err();
    assert!(error.hint().unwrap().contains("running"), "{:?}", error.hint());
}

#[tokio::test]
async fn silence_has_a_deadline_at_every_step() {
    for (script, step) in [
        (vec![Idle], Step::Greeting),
        (vec![Say(GREETING[..20].into()), Idle], Step::Greeting),
        (greeted(vec![Expect("query-name"), Idle]), Step::Command("query-name")),
        (
            greeted(vec![Expect("query-name"), Say("{\"return\"".into()), Idle]),
            Step::Command("query-name"),
        ),
    ] {
        let peer = Peer::play(script);
        let started = Instant::now();
        let error = whole(&peer, limits()).await;
        assert_eq!(error.step, step);
        assert!(matches!(error.why, Why::Deadline(_)), "{}", chain(&error));
        assert!(error.hint().is_some());
        assert!(started.elapsed() < BOUND, "{step:?}");
    }
}

#[tokio::test]
async fn a_line_without_end_is_refused_at_its_limit() {
    for script in [
        vec![Fill(100 << 20)],
        greeted(vec![Fill(100 << 20)]),
        greeted(vec![Expect("query-name"), Say("{\"return\": \"".into()), Fill(100 << 20)]),
        greeted(vec![Expect("query-name"), Reply("{}"), Fill(100 << 20)]),
    ] {
        let peer = Peer::play(script);
        let error = whole(&peer, patient()).await;
        assert!(matches!(error.why, Why::TooLong(_)), "{}", chain(&error));
        let sent = peer.sent();
        assert!(sent < 4 << 20, "{sent} bytes were taken");
    }
}

#[tokio::test]
async fn a_flood_of_events_hides_no_reply_and_the_lost_events_are_counted() {
    let script = vec![Expect("query-name"), Flood(50_000), Reply("{\"name\": \"vm\"}"), Idle];
    let peer = Peer::play(greeted(script));
    let mut client = Client::connect(peer.path(), patient()).await.unwrap();
    let name = client.execute(&query_name {}).await.unwrap();
    assert_eq!(name.name.as_deref(), Some("vm"));
    let Heard::Lost(lost) = client.event().await.unwrap() else { panic!("some are lost") };
    let mut kept = 0;
    while let Ok(heard) = tokio::time::timeout(LIMIT, client.event()).await {
        assert!(matches!(heard.unwrap(), Heard::Event(event) if event.name == "RTC_CHANGE"));
        kept += 1;
    }
    assert_eq!(lost + kept, 50_000);
    assert!(kept <= 256, "{kept}");
}

#[tokio::test]
async fn a_flood_without_a_reply_ends_at_the_deadline() {
    let peer = Peer::play(greeted(vec![Expect("query-name"), Flood(u64::MAX)]));
    let limits = Limits { command: LIMIT, ..patient() };
    let mut client = Client::connect(peer.path(), limits).await.unwrap();
    let started = Instant::now();
    let error = client.execute(&query_name {}).await.unwrap_err();
    assert!(matches!(error.why, Why::Deadline(_)), "{}", chain(&error));
    assert!(started.elapsed() < BOUND);
}

#[tokio::test]
async fn a_second_reply_to_a_command_ends_the_connection() {
    let script = vec![Expect("query-name"), Reply("{}"), Reply("{}"), Expect("query-status"), Idle];
    let peer = Peer::play(greeted(script));
    let mut client = Client::connect(peer.path(), patient()).await.unwrap();
    client.execute(&query_name {}).await.unwrap();
    let error = client.execute(&query_status {}).await.unwrap_err();
    assert!(matches!(&error.why, Why::Stray { id } if id == "2"), "{}", chain(&error));
    let error = client.execute(&query_name {}).await.unwrap_err();
    assert!(matches!(error.why, Why::Failed), "{}", chain(&error));
    let error = client.event().await.unwrap_err();
    assert!(matches!(error.why, Why::Failed), "{}", chain(&error));

    let script = vec![Expect("query-name"), Reply("{}"), Reply("{}"), Idle];
    let peer = Peer::play(greeted(script));
    let error = whole(&peer, patient()).await;
    assert!(matches!(&error.why, Why::Stray { id } if id == "2"), "{}", chain(&error));
}

#[tokio::test]
async fn a_late_reply_to_a_dropped_command_is_discarded() {
    let late = vec![Expect("query-name"), Expect("query-status"), Event("STOP")];
    let replies = [
        "{\"return\": {\"name\": \"late\"}, \"id\": 2}\n",
        "{\"return\": {\"status\": \"running\", \"running\": true}, \"id\": 3}\n",
    ];
    let script = late.into_iter().chain(replies.map(|reply| Say(reply.into()))).chain([Idle]);
    let peer = Peer::play(greeted(script.collect()));
    let mut client = Client::connect(peer.path(), patient()).await.unwrap();
    // The future is dropped while it waits for the reply.
    tokio::time::timeout(LIMIT, client.execute(&query_name {})).await.unwrap_err();
    let status = client.execute(&query_status {}).await.unwrap();
    assert!(status.running);
    assert!(matches!(client.event().await, Ok(Heard::Event(event)) if event.name == "STOP"));
}

#[tokio::test]
async fn a_qemu_that_reads_nothing_is_given_up_at_the_deadline() {
    let peer = Peer::play(greeted(vec![Idle]));
    let mut client =
        Client::connect(peer.path(), Limits { command: LIMIT, ..patient() }).await.unwrap();
    let path = "x".repeat(8 << 20);
    let long = qapi::qmp::qom_list { path };
    let error = client.execute(&long).await.unwrap_err();
    assert!(matches!(error.why, Why::Deadline(_)), "{}", chain(&error));
    // Half a line was sent, so nothing can follow it.
    let error = client.execute(&query_name {}).await.unwrap_err();
    assert!(matches!(error.why, Why::Failed), "{}", chain(&error));
}

#[tokio::test]
async fn a_descriptor_arrives_with_its_command() {
    let (passed, fds) = mpsc::channel();
    let peer = Peer::play(greeted(vec![TakeFd("getfd", passed), Reply("{}"), Idle]));
    let mut client = Client::connect(peer.path(), patient()).await.unwrap();
    let (mut here, there) = std::io::pipe().unwrap();
    client.pass("vsock", there.as_fd()).await.unwrap();
    drop(there);
    fds.recv().unwrap().write_all(b"through").unwrap();
    let mut text = [0; 7];
    here.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"through");
}

fn wanted() -> (Place, Claim) {
    let machine = Machine { name: "pc-q35-10.0".into(), given: None, bus: Bus::Pcie };
    let device = File::open("/dev/null").unwrap();
    (
        Place { machine, port: Some("port-a".into()) },
        Claim { cid: GuestCid::new(7).unwrap(), device },
    )
}

#[tokio::test]
async fn a_new_device_counts_only_with_the_cid_that_was_claimed() {
    for (cid, right) in [("7", true), ("8", false), ("\"7\"", false), ("null", false)] {
        let (passed, _fds) = mpsc::channel();
        let plugging = [TakeFd("getfd", passed), Reply("{}"), Expect("device_add"), Reply("{}")];
        let script = plugging.into_iter().chain([Expect("qom-get"), Reply(cid), Idle]);
        let peer = Peer::play(greeted(script.collect()));
        let mut client = Client::connect(peer.path(), patient()).await.unwrap();
        let (place, claim) = wanted();
        match plug_claimed(&mut client, &place, &claim, "vsock0").await {
            Ok(device) => {
                assert!(right, "{cid}");
                assert_eq!(device.to_string(), "vhost-vsock-pci 'vsock0' with CID 7");
            }
            Err(PlugError::Wrong { asked, .. }) => assert!(!right && asked == claim.cid, "{cid}"),
            // `null` is not a return value of a command.
            Err(PlugError::Qmp(error)) => assert_eq!(cid, "null", "{error}"),
            Err(error) => panic!("{cid}: {error}"),
        }
    }
}

#[tokio::test]
async fn what_qemu_did_not_use_is_taken_back_from_it() {
    let (passed, _fds) = mpsc::channel();
    let no = "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no bus\"}, \"id\": 3}\n";
    let script = vec![
        TakeFd("getfd", passed),
        Reply("{}"),
        Expect("device_add"),
        Say(no.into()),
        Expect("closefd"),
        Reply("{}"),
        Idle,
    ];
    let peer = Peer::play(greeted(script));
    let mut client = Client::connect(peer.path(), patient()).await.unwrap();
    let (place, claim) = wanted();
    let error = plug_claimed(&mut client, &place, &claim, "vsock0").await.unwrap_err();
    let PlugError::Qmp(error) = error else { panic!("{error}") };
    assert_eq!(error.refusal().unwrap().desc, "no bus");
}
