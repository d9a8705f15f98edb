//! Every kind of source to every kind of destination, with every server.
//!
//! (nbdcopy 1.14 sends 256 KiB whatever the server's maximum is: it is told.)

use std::fs;

use support::server::{
    SIZE, Server,
    Transport::{Tcp, Unix},
};

use crate::{TOOL, copies, fails, is_same, judge, sparse, text, told, under_nbdkit};

const DATA: [(u64, u64); 3] = [(0, 3_000_001), (9 << 20, 400_000), (SIZE - 5, 5)];

fn round_trip(server: &Server) {
    let (from, back) = (server.dir.path().join("from"), server.dir.path().join("back"));
    sparse(&from, SIZE, &DATA);
    let (from_text, back_text) = (text(&from), text(&back));
    let up = told(&[from_text, &server.uri, "--verify"]);
    assert_eq!(up["length"], SIZE, "{up}");
    assert_eq!((&up["flushed"], &up["verified"]), (&true.into(), &true.into()), "{up}");
    assert!(up["zeroes"].as_u64() > Some(SIZE / 2), "{up}");
    assert!(is_same(&from, &server.disk), "{}: up", server.uri);
    let down = told(&[&server.uri, back_text]);
    assert_eq!(down["length"], SIZE, "{down}");
    assert!(is_same(&from, &back), "{}: down", server.uri);
    // As nbdcopy sees it.
    judge("nbdcopy", &[&server.uri, back_text]);
    assert!(is_same(&from, &back), "{}: nbdcopy", server.uri);
}

#[test]
fn with_the_agent() {
    round_trip(&Server::agent(TOOL, Unix));
    round_trip(&Server::agent(TOOL, Tcp));
}

#[test]
fn with_nbdkit() {
    round_trip(&Server::nbdkit(TOOL, Unix));
}

#[test]
fn with_qemu_nbd() {
    round_trip(&Server::qemu_nbd(TOOL, Unix));
    round_trip(&Server::activated(
        TOOL,
        r#"qemu-nbd --persistent --shared 8 --format raw "$disk""#,
        Tcp,
    ));
}

#[test]
fn from_server_to_server() {
    let servers =
        [Server::agent(TOOL, Unix), Server::nbdkit(TOOL, Unix), Server::qemu_nbd(TOOL, Tcp)];
    for (n, from) in servers.iter().enumerate() {
        let to = &servers[(n + 1) % servers.len()];
        sparse(&from.disk, SIZE, &DATA);
        let copied = told(&[&from.uri, &to.uri, "--verify"]);
        assert_eq!(copied["length"], SIZE);
        assert!(is_same(&from.disk, &to.disk), "{} to {}", from.uri, to.uri);
    }
}

#[test]
fn from_file_to_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    for size in [0, 1, 511, 4097, (1 << 20) + 1, SIZE + 12345] {
        sparse(&from, size, &[(0, 1), (4000, 1 << 19)]);
        // What was there before is gone, however long it was.
        fs::write(&to, vec![7; 5_000_000]).expect("a file");
        copies(&[text(&from), text(&to), "--verify"]);
        assert!(is_same(&from, &to), "{size}");
    }
}

#[test]
fn several_connections_where_both_sides_allow_it() {
    let server = Server::agent(TOOL, Unix);
    let dir = server.dir.path();
    sparse(&dir.join("from"), SIZE, &[(0, SIZE)]);
    let from = dir.join("from");
    let words = [text(&from), &server.uri, "--connections", "3", "--requests", "5"];
    assert_eq!(told(&words)["connections"], 3);
    assert!(is_same(&from, &server.disk));
    let words = [&server.uri, "null:", "-C", "3", "--request-size", "12345"];
    assert_eq!(told(&words)["connections"], 3);
    // nbdkit says that it cannot, by a filter.
    let server = Server::activated(
        TOOL,
        r#"nbdkit -f --filter=multi-conn file "$disk" multi-conn-mode=disable"#,
        Unix,
    );
    assert_eq!(told(&[&server.uri, "null:", "-C", "3"])["connections"], 1);
}

#[test]
fn what_is_larger_keeps_what_is_behind() {
    for size in [1_000_001_u64, 512, 4096, 77] {
        for minimum in ["512", "4096", "1"] {
            let script = format!(
                r#"head -c {size} /dev/urandom > from
                   head -c 2M /dev/urandom > before
                   nbdcopy --request-size=65536 before "$uri"
                   "$tool" copy from "$uri" --verify
                   nbdcopy --request-size=65536 "$uri" after
                   cmp -n {size} from after
                   cmp -i {size} before after
                   cat from | "$tool" copy - "$uri" --sparse=0
                   nbdcopy --request-size=65536 "$uri" after
                   cmp -n {size} from after
                   cmp -i {size} before after
                   truncate -s {size} hole
                   "$tool" copy hole "$uri" --verify
                   nbdcopy --request-size=65536 "$uri" after
                   cmp -n {size} hole after
                   cmp -i {size} before after"#
            );
            let minimum = format!("blocksize-minimum={minimum}");
            let plugin =
                ["memory", "2M", &minimum, "blocksize-maximum=64k", "blocksize-error-policy=error"];
            under_nbdkit(&["--filter=blocksize-policy"], &plugin, &script);
        }
    }
}

#[test]
fn what_is_smaller_is_refused_before_anything_is_written() {
    let server = Server::agent(TOOL, Unix);
    let from = server.dir.path().join("from");
    sparse(&from, SIZE + 1, &[(0, SIZE)]);
    let before = fs::read(&server.disk).expect("the disk");
    let why = fails(&[text(&from), &server.uri]);
    assert!(why.contains("too small") && why.contains("nothing was written"), "{why}");
    assert!(fs::read(&server.disk).expect("the disk") == before);
}

#[test]
fn block_sizes_of_both_sides_are_kept_to() {
    // Sources and destinations that end the session of whoever breaks their rules.
    for (from, to) in [(512, 4096), (4096, 512), (65536, 1), (1, 65536)] {
        let script = format!(
            r#"source="$uri"; export source
               head -c 3M /dev/urandom > from
               truncate -s 8M from
               head -c 100001 /dev/urandom | dd of=from bs=1 seek=5000003 conv=notrunc status=none
               nbdcopy --request-size=65536 from "$uri"
               nbdkit -U - --filter=blocksize-policy memory 8M blocksize-minimum={to} blocksize-preferred=65536 \
                   blocksize-error-policy=error --run '
                   set -eu
                   to="nbd+unix:///?socket=$unixsocket"
                   "$tool" copy "$source" "$to" --verify --request-size 100000
                   nbdcopy --request-size=65536 "$to" back
                   cmp from back'"#
        );
        let minimum = format!("blocksize-minimum={from}");
        let plugin = [
            "memory",
            "8M",
            &minimum,
            "blocksize-preferred=65536",
            "blocksize-maximum=128k",
            "blocksize-error-policy=error",
        ];
        under_nbdkit(
            &["--filter=blocksize-policy"],
            &plugin,
            &script.replace("export uri from", "export uri"),
        );
    }
}

#[test]
fn servers_with_little_to_offer_will_do() {
    let script = r#"head -c 3M /dev/urandom > from
        truncate -s 4M from
        head -c 4M /dev/urandom > before
        nbdcopy before "$uri"
        "$tool" copy from "$uri" --verify
        "$tool" copy "$uri" back
        cmp from back"#;
    under_nbdkit(&["--no-sr"], &["memory", "4M"], script);
    let filters =
        ["--filter=nozero", "--filter=nocache", "--filter=noextents", "--filter=noparallel"];
    under_nbdkit(&filters, &["memory", "4M", "zeromode=none"], script);
}
