//! `bench`: what it prints is true in form, writes need a yes, and the page stands alone.

use std::fs;

use super::{json, servers};

#[test]
fn cases_are_counted_on_every_server() {
    for server in servers() {
        let words = ["--time", "150ms", "--warm-up", "20ms", "--size", "4k,64k", "--depth", "1,4"];
        let told = json(&server.does("bench", &[&words[..], &["--json"]].concat()));
        let cases = told["cases"].as_array().expect("cases");
        assert_eq!((told["size"].as_u64(), cases.len()), (Some(support::server::SIZE), 4));
        for case in cases {
            let number = |key: &str| case[key].as_f64().expect("a number");
            assert!(number("requests") > 0.0 && number("failed") == 0.0, "{case}");
            assert!(
                (number("rate") - number("requests") / number("seconds")).abs() < 1.0,
                "{case}"
            );
            let latency = |key: &str| case["latency"][key].as_u64().expect("nanoseconds");
            let rising = ["p50", "p90", "p99", "p999", "max"].map(latency);
            assert!(rising.is_sorted() && rising[0] > 0, "{case}");
        }
    }
}

#[test]
fn what_writes_needs_a_yes_and_does_write() {
    let server = super::Server::agent(super::TOOL, super::Unix);
    let why = server.fails("bench", &["--mode", "write"]);
    assert!(why.contains("--destroy"), "{why}");
    assert_eq!(server.holds(0, 4096), [0; 4096]);
    let quick = ["--time", "100ms", "--size", "4k", "--depth", "8", "--destroy"];
    for mode in ["write", "randwrite", "mixed", "zero"] {
        server.does("bench", &[&quick[..], &["--mode", mode]].concat());
        if mode == "write" {
            assert_eq!(server.holds(0, 4096), [0x5a; 4096]);
        }
    }
}

#[test]
fn runs_are_compared_on_one_page() {
    let server = super::Server::agent(super::TOOL, super::Unix);
    let (before, page) =
        (server.dir.path().join("before.json"), server.dir.path().join("page.html"));
    let quick = ["--time", "50ms", "--size", "4k", "--depth", "1"];
    fs::write(&before, server.does("bench", &[&quick[..], &["--json"]].concat())).unwrap();
    let paths = [before.to_str().unwrap(), page.to_str().unwrap()];
    server.does("bench", &[&quick[..], &["--compare", paths[0], "--html", paths[1]]].concat());
    let page = fs::read_to_string(paths[1]).unwrap();
    assert_eq!(page.matches("<rect").count(), 2 * 3);
    let why = server.fails("bench", &["--compare", "/dev/null", "--html", paths[1]]);
    assert!(why.contains("/dev/null"), "{why}");
}
