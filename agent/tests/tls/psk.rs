//! `--tls-psk`: pre-shared keys, with libnbd and QEMU (the feature `psk`).

use std::{
    fs,
    io::{Read, Write},
    path::Path,
    process::Command,
};

use support::{
    agent::Agent,
    client::ask,
    process::succeeds,
    wire::{OPT_GO, OPT_STARTTLS, REP_ACK, REP_ERR_TLS_REQD, option},
};

use crate::{
    BINARY,
    client::{assert_copies_in_and_out, plain, size, word},
    interop::{WRITE_AND_READ, nbdsh},
};

/// A file of psktool(1) with two users.
const KEYS: &str = "alice:ad7f0a3a3a4e5bd6a0a0b4fd0b2ba36f\nbob:0123456789abcdef0123456789abcdef\n";

fn agent(words: &str) -> Agent {
    let prepare = |directory: &Path| fs::write(directory.join("keys.psk"), KEYS).unwrap();
    let words = format!("-v -U {{}}/socket --tls-psk {{}}/keys.psk {words}");
    Agent::start_by_in(Command::new(BINARY), prepare, &words)
}

fn uri(agent: &Agent, user: &str, file: &str) -> String {
    let (socket, file) = (word(agent, "socket"), word(agent, file));
    format!("nbds+unix://{user}@localhost/?socket={socket}&tls-psk-file={file}")
}

#[test]
fn libnbd_reads_what_it_wrote_in_both_versions() {
    let agent = agent("--tls=require memory 16M");
    let uri = uri(&agent, "alice", "keys.psk");
    nbdsh(&uri, "", WRITE_AND_READ);
    let line = agent.wait_for_line("inside TLS").pop().unwrap();
    assert!(line.contains("TLS_AES_128_GCM_SHA256") && line.contains("alice"), "{line}");
    // GnuTLS reads its priorities, when it is loaded, from a file that can be chosen.
    let config = agent.path("gnutls");
    fs::write(&config, "[overrides]\ndisabled-version = tls1.3\n").unwrap();
    let script = format!(
        "import nbd\nh = nbd.NBD()\nh.set_uri_allow_local_file(True)\nh.connect_uri({uri:?})\n{WRITE_AND_READ}"
    );
    let mut command = Command::new("/usr/bin/python3");
    command.env("GNUTLS_SYSTEM_PRIORITY_FILE", config).args(["-c", &script]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let line = agent.wait_for_line("inside TLS").pop().unwrap();
    assert!(line.contains("TLSv1.2"), "{line}");
}

#[test]
fn nbdcopy_brings_an_image_in_and_out() {
    let agent = agent("--tls=require memory 20M");
    let uri = uri(&agent, "bob", "keys.psk");
    assert_copies_in_and_out(&agent, &uri);
}

#[test]
fn qemu_writes_and_verifies() {
    let agent = agent("--tls=require memory 64M");
    fs::create_dir(agent.path("qemu")).unwrap();
    fs::copy(agent.path("keys.psk"), agent.path("qemu/keys.psk")).unwrap();
    let directory = word(&agent, "qemu");
    let credentials = format!("tls-creds-psk,id=tls0,endpoint=client,username=bob,dir={directory}");
    let image = format!("driver=nbd,path={},tls-creds=tls0", word(&agent, "socket"));
    let said = succeeds(
        "qemu-io",
        "qemu-utils",
        &[
            "--object",
            &credentials,
            "--image-opts",
            "-c",
            "write -P 0x5a 1M 7M",
            "-c",
            "read -P 0x5a 3M 5M",
            &image,
        ],
    );
    assert!(!said.contains("failed"), "{said}");
}

#[test]
fn an_unknown_user_and_a_wrong_key_are_refused_with_the_name_that_was_said() {
    let agent = agent("--tls=require memory 1M");
    fs::write(
        agent.path("wrong"),
        "alice:00112233445566778899aabbccddeeff\neve:00112233445566778899aabbccddeeff\n",
    )
    .unwrap();
    for user in ["alice", "eve"] {
        size(&uri(&agent, user, "wrong")).unwrap_err();
        let line = agent.wait_for_line("session").pop().unwrap();
        let expected = format!("TLS failed: no user and key of --tls-psk, as \"{user}\"");
        assert!(line.contains(&expected), "{line}");
    }
    assert_eq!(size(&uri(&agent, "alice", "keys.psk")), Ok(1 << 20), "others are not disturbed");
}

#[test]
fn require_and_on_are_as_with_certificates() {
    for (words, refused) in [("--tls=require memory 1M", true), ("memory 1M", false)] {
        let agent = agent(words);
        let replies = ask(&mut plain(&agent), OPT_GO, &[0; 6]);
        assert_eq!(replies == [REP_ERR_TLS_REQD], refused, "{words}: {replies:?}");
        assert_eq!(size(&uri(&agent, "alice", "keys.psk")), Ok(1 << 20));
    }
}

#[test]
fn an_invalid_handshake_ends_its_session_and_no_other() {
    let agent = agent("--tls=on --timeout 500ms memory 1M");
    for bytes in [&option(OPT_GO, &[0; 6])[..], &[0; 70_000], b"", b"\x16\x03\x01"] {
        let mut stream = plain(&agent);
        assert_eq!(ask(&mut stream, OPT_STARTTLS, b""), [REP_ACK]);
        // The agent may close before it has received everything.
        stream.write_all(bytes).ok();
        let ended = stream.read_to_end(&mut Vec::new());
        let reset =
            ended.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset);
        assert!(ended.is_ok() || reset, "{ended:?}");
        let line = agent.wait_for_line("session").pop().unwrap();
        assert!(line.contains("TLS failed") || line.contains("in time"), "{line}");
    }
    assert_eq!(size(&uri(&agent, "alice", "keys.psk")), Ok(1 << 20));
}

#[test]
fn a_client_that_never_reads_holds_a_bounded_amount() {
    let agent = agent("--tls=require memory 256M");
    let script = format!(
        "import nbd, time\nh = nbd.NBD()\nh.set_uri_allow_local_file(True)\n\
         h.connect_uri({:?})\nh.pwrite(b'x' * (32 << 20), 0)\n\
         buffers = [nbd.Buffer(1 << 20) for i in range(300)]\n\
         [h.aio_pread(buffer, 0) for buffer in buffers]\n",
        uri(&agent, "alice", "keys.psk")
    );
    succeeds("/usr/bin/python3", "python3-libnbd", &["-c", &script]);
    let status = fs::read_to_string(format!("/proc/{}/status", agent.id())).unwrap();
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    let peak: u64 = peak.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(peak < 160 << 10, "{peak} KiB");
}
