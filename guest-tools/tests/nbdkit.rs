//! The commands against nbdkit: a server that is not ours, over a Unix socket and TCP.
//!
//! nbdkit's `--run` starts a shell script once it serves, so nothing has to be waited for.

use std::{
    process::{Command, Output},
    time::{Duration, Instant},
};

/// Runs `script` with `$tool` and `$uri` while nbdkit serves `plugin`.
fn under_nbdkit(options: &[&str], plugin: &[&str], script: &str) -> Output {
    let whole = format!(
        "set -eu\nuri=\"nbd+unix:///?socket=$unixsocket\"\ncd \"$(mktemp -d)\"\n\
         trap 'rm -rf \"$PWD\"' EXIT\n{script}"
    );
    Command::new("nbdkit")
        .args(["--unix", "-"])
        .args(options)
        .args(plugin)
        .args(["--run", &whole])
        .env("tool", env!("CARGO_BIN_EXE_guest-tools"))
        .output()
        .expect("nbdkit is needed for this test: apt-get install nbdkit")
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).expect("UTF-8")
}

fn succeeds(output: &Output) {
    assert!(
        output.status.success(),
        "{}\n{}\n{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
}

#[test]
fn what_is_written_is_read_back() {
    succeeds(&under_nbdkit(
        &[],
        &["memory", "16M"],
        r#"head -c 5000001 /dev/urandom > in
           "$tool" write "$uri" --offset 12345 --input in
           "$tool" read "$uri" --offset 12345 --length 5000001 > out
           cmp in out
           "$tool" write "$uri" < in
           "$tool" read "$uri" --length 5000001 --output out
           cmp in out
           "$tool" read "$uri" --offset 8M | tr -d '\0' > rest
           test ! -s rest"#,
    ));
}

#[test]
fn block_sizes_are_kept_to() {
    succeeds(&under_nbdkit(
        &["--filter=blocksize-policy"],
        &[
            "memory",
            "1M",
            "blocksize-minimum=512",
            "blocksize-maximum=64k",
            "blocksize-error-policy=error",
        ],
        r#"head -c 1M /dev/urandom > in
           "$tool" write "$uri" --input in
           "$tool" read "$uri" > out
           cmp in out
           ! "$tool" read "$uri" --offset 1 --length 512 2> why
           grep 'not multiples of the block size, 512 bytes' why"#,
    ));
}

#[test]
fn servers_without_structured_replies_or_contexts_will_do() {
    succeeds(&under_nbdkit(
        &["--no-sr"],
        &["memory", "1M"],
        r#"head -c 1M /dev/urandom > in
           "$tool" write "$uri" --input in
           "$tool" read "$uri" | cmp - in
           "$tool" info "$uri" | grep 'using simple packets'"#,
    ));
}

#[test]
fn info_tells_people_and_programs() {
    let output = under_nbdkit(&["--readonly"], &["memory", "1G"], r#""$tool" info "$uri""#);
    succeeds(&output);
    let told = text(&output.stdout);
    assert!(told.contains("export-size: 1073741824 (1G)"), "{told}");
    assert!(told.contains("is_read_only: true"), "{told}");
    let output = under_nbdkit(&[], &["memory", "1G"], r#""$tool" info --json "$uri""#);
    succeeds(&output);
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let told = &told["exports"][0];
    assert_eq!(told["export-size"], 1 << 30);
    assert_eq!(told["is_read_only"], false);
    assert_eq!(told["contexts"][0], "base:allocation");
}

#[test]
fn a_failing_disk_is_an_error_with_its_name_and_place() {
    let output = under_nbdkit(
        &["--filter=error"],
        &["memory", "1M", "error-pread=EIO", "error-pread-rate=100%"],
        r#""$tool" read "$uri" --offset 4k --length 4k"#,
    );
    assert!(!output.status.success());
    let why = text(&output.stderr);
    assert!(why.contains("cannot read 4096 bytes at 4096"), "{why}");
    assert!(why.contains("EIO"), "{why}");
}

#[test]
fn durability_is_what_was_asked_for() {
    for (words, fua, flush) in
        [("--fua --no-flush", true, false), ("--no-flush", false, false), ("", false, true)]
    {
        let script = format!(r#""$tool" write "$uri" --pattern --length 4k {words}"#);
        let plugin = ["memory", "1M", "logfile=/dev/stderr"];
        let output = under_nbdkit(&["--filter=log"], &plugin, &script);
        succeeds(&output);
        let log = text(&output.stderr);
        assert!(log.contains(&format!("fua={}", u8::from(fua))), "{words}: {log}");
        assert_eq!(log.contains(" Flush id="), flush, "{words}: {log}");
    }
}

#[test]
fn a_failure_does_not_leave_requests_behind() {
    let output = under_nbdkit(
        &["--filter=error", "--filter=delay"],
        &["memory", "16M", "rdelay=50ms", "error-pread=EIO", "error-pread-rate=50%"],
        r#"! "$tool" read "$uri" > /dev/null"#,
    );
    succeeds(&output);
    let log = text(&output.stderr);
    assert!(log.contains("the server answered EIO"), "{log}");
    assert!(!log.contains("Broken pipe") && !log.contains("aborting"), "{log}");
}

/// Requests that were made but not sent yet must not be waited for.
#[test]
fn a_length_that_is_no_multiple_is_told_at_once() {
    let start = Instant::now();
    succeeds(&under_nbdkit(
        &["--filter=blocksize-policy"],
        &["memory", "4M", "blocksize-minimum=512", "blocksize-error-policy=error"],
        r#"! "$tool" read "$uri" --length 2097153 > out 2> why
           grep 'not multiples of the block size, 512 bytes' why"#,
    ));
    assert!(start.elapsed() < Duration::from_secs(30), "it took {:?}", start.elapsed());
}

#[test]
fn what_cannot_be_done_is_refused_before_anything_is_done() {
    succeeds(&under_nbdkit(
        &[],
        &["memory", "1M"],
        r#"head -c 2M /dev/zero > in
           ! "$tool" write "$uri" --input in 2> why
           grep 'beyond the end of the export, 1048576 bytes' why
           ! "$tool" read "$uri" --offset 2M 2> why
           grep 'beyond the end' why
           ! "$tool" info "nbds+unix:///?socket=$unixsocket" 2> why
           grep 'TLS' why
           ! "$tool" read "$uri" > /dev/full 2> why
           grep 'cannot write the output: No space left' why"#,
    ));
    succeeds(&under_nbdkit(
        &["--readonly"],
        &["memory", "1M"],
        r#"! echo x | "$tool" write "$uri" 2> why
           grep 'the export is read-only' why"#,
    ));
    succeeds(&under_nbdkit(
        &["--oldstyle"],
        &["memory", "1M"],
        r#"! "$tool" info "$uri" 2> why
           grep 'oldstyle' why"#,
    ));
}

#[test]
fn wrong_words_are_one_line_and_exit_1() {
    for (words, says) in [
        (&[][..], "no command is given"),
        (&["inform"], "unrecognized subcommand 'inform'"),
        (&["read", "nbd+unix:///?socket=x", "--offset", "1q"], "known suffixes"),
        (&["read", "nbd+vsock://4294967296/"], "CID \"4294967296\" is not a number"),
        (&["read", "nbd+vsock://2:4294967296/"], "port \"4294967296\" is not a number"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_guest-tools")).args(words).output();
        let output = output.expect("it starts");
        let why = text(&output.stderr);
        assert_eq!((output.status.code(), why.lines().count()), (Some(1), 1), "{why}");
        assert!(why.starts_with("guest-tools: error: ") && why.contains(says), "{why}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_server_that_is_not_there_is_told_apart() {
    let run = |uri: &str| {
        let tool = env!("CARGO_BIN_EXE_guest-tools");
        Command::new(tool).args(["info", uri]).output().expect("it starts")
    };
    for (uri, says) in [
        ("nbd+unix:///?socket=/nonexistent/socket", "there is no such socket"),
        ("nbd://127.0.0.1:1/", "nothing listens on TCP port 1"),
        ("nbd://no-such-host.invalid/", "cannot look up the address of \"no-such-host.invalid\""),
        ("nbd:example", "does not begin with"),
    ] {
        let output = run(uri);
        assert!(!output.status.success(), "{uri}");
        let why = text(&output.stderr);
        assert!(why.contains(says), "{uri}: {why}");
    }
}
