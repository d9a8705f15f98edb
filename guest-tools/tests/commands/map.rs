//! `map` beside nbdinfo --map.

use support::server::{Server, Transport::Unix};

use crate::{TOOL, json, libnbd, servers};

fn as_nbdinfo(server: &Server, context: &str) {
    let map = format!("--map={context}");
    for (ours, theirs) in [
        (&["--context", context][..], &[map.as_str()][..]),
        (&["--context", context, "--totals"], &[&map, "--totals"]),
    ] {
        let found = server.does("map", ours);
        let due = libnbd("nbdinfo", &[theirs, &[&server.uri]].concat()).stdout;
        assert_eq!(String::from_utf8_lossy(&found), String::from_utf8_lossy(&due));
        let found = json(&server.does("map", &[ours, &["--json"]].concat()));
        let due = json(&libnbd("nbdinfo", &[theirs, &["--json", &server.uri]].concat()).stdout);
        assert_eq!(found, due);
    }
}

#[test]
fn data_and_holes_are_where_nbdinfo_finds_them() {
    for server in servers() {
        for at in ["0", "64k", "1M", "15M"] {
            server.does("write", &["--pattern", "--offset", at, "--length", "4k"]);
        }
        as_nbdinfo(&server, "base:allocation");
        let part = server.does("map", &["--offset", "1M", "--length", "8k", "--json"]);
        let part = json(&part);
        assert_eq!(part[0]["offset"], 1 << 20, "{part}");
        assert_eq!(part[0]["length"].as_u64().zip(part[1]["length"].as_u64()), Some((4096, 4096)));
    }
}

#[test]
fn large_and_odd_disks() {
    for command in [
        "nbdkit -f memory 0",
        "nbdkit -f memory 513",
        "nbdkit -f null 37G",
        "nbdkit -f data size=20G '@0 1 @5368709120 2 @0x1ffffffff 3*70000 @20401094656 4'",
        "nbdkit -f --filter=blocksize-policy memory 1M blocksize-minimum=512 \
         blocksize-error-policy=error",
        // One extent an answer.
        "nbdkit -f sparse-random 100M seed=3",
    ] {
        println!("{command}");
        as_nbdinfo(&Server::activated(TOOL, command, Unix), "base:allocation");
    }
}

#[test]
fn other_contexts_have_their_own_names() {
    let command = "qemu-nbd --persistent --allocation-depth --format raw $disk";
    as_nbdinfo(&Server::activated(TOOL, command, Unix), "qemu:allocation-depth");
    let command = r#"sh -c 'qemu-img create -q -f qcow2 "$0.q" 3M;
        qemu-img bitmap --add -g 64k "$0.q" b; qemu-io -f qcow2 -c "write 1M 64k" "$0.q" >&2;
        exec env LISTEN_PID=$$ qemu-nbd --persistent --bitmap b --format qcow2 "$0.q"' "$disk""#;
    let server = Server::activated(TOOL, command, Unix);
    as_nbdinfo(&server, "qemu:dirty-bitmap:b");
    let told = server.does("map", &["--context", "qemu:dirty-bitmap:b"]);
    assert!(String::from_utf8_lossy(&told).contains("  dirty\n"));
}

#[test]
fn a_server_without_the_context_is_an_error_with_its_mend() {
    let server = Server::activated(TOOL, "nbdkit -f --no-sr memory 1M", Unix);
    assert!(server.fails("map", &[]).contains("has no map \"base:allocation\""));
    let server = Server::nbdkit(TOOL, Unix);
    let why = server.fails("map", &["--context", "qemu:dirty-bitmap:x"]);
    assert!(why.contains("'guest-tools info' lists the contexts"), "{why}");
    let why = server.fails("map", &["--offset", "17M"]);
    assert!(why.contains("beyond the end"), "{why}");
}
