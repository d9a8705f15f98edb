//! libnbd's tools and QEMU's, with certificates, over Unix sockets and TCP.

use std::{fs, io::BufRead};

use support::{agent::Agent, certificates::client, process::succeeds};

use crate::client::{agent, assert_copies_in_and_out, uri, word};

/// Runs Python with libnbd's handle `h`, connected.
pub(crate) fn nbdsh(uri: &str, before: &str, script: &str) -> String {
    let before = format!("import nbd\nh = nbd.NBD()\nh.set_uri_allow_local_file(True)\n{before}");
    let script = format!("{before}\nh.connect_uri({uri:?})\n{script}\n");
    // Debian's own Python has the package. Another one may come first in PATH.
    succeeds("/usr/bin/python3", "python3-libnbd", &["-c", &script])
}

pub(crate) const WRITE_AND_READ: &str = "
import random
data = random.Random(1).randbytes(3_000_001)
h.pwrite(data, 511)
assert h.pread(len(data), 511) == data
assert h.pread(1, 0) == b'\\0'
cookies = [(i, nbd.Buffer(256 * 1024)) for i in range(64)]
done = [0]
for i, buffer in cookies:
    h.aio_pread(buffer, i * 4096, lambda error: done.__setitem__(0, done[0] + 1) or 1)
while done[0] < 64:
    h.poll(-1)
for i, buffer in cookies:
    start = i * 4096 - 511
    expected = (b'\\0' * 511 + data)[i * 4096 : i * 4096 + 256 * 1024]
    assert bytes(buffer.to_bytearray()) == expected, i
h.shutdown()
";

/// The URI of the TCP listener, with certificates in a directory.
fn tcp_uri(agent: &mut Agent, directory: &str) -> String {
    let uri = agent.stdout().lines().map(Result::unwrap).find(|uri| !uri.contains("unix")).unwrap();
    format!("{uri}/?tls-certificates={}", word(agent, directory))
}

#[test]
fn libnbd_reads_what_it_wrote_in_every_framing() {
    let (agent, _ca) = agent("--tls=require memory 16M");
    let uri = uri(&agent, "nbds", "trust");
    nbdsh(&uri, "", WRITE_AND_READ);
    nbdsh(&uri, "h.set_request_structured_replies(False)", WRITE_AND_READ);
}

#[test]
fn libnbd_reads_what_it_wrote_over_tcp() {
    let words = "--tls=require --print-uri --listen tcp:127.0.0.1:0 memory 16M";
    let (mut agent, _ca) = agent(words);
    nbdsh(&tcp_uri(&mut agent, "trust"), "", WRITE_AND_READ);
}

#[test]
fn libnbd_enters_by_export_name_and_by_tls_1_2() {
    let (agent, _ca) = agent("--tls=require memory 16M");
    let uri = uri(&agent, "nbds", "trust");
    nbdsh(&uri, "h.set_handshake_flags(nbd.HANDSHAKE_FLAG_FIXED_NEWSTYLE)", WRITE_AND_READ);
    // GnuTLS reads its priorities from a file that can be chosen.
    let config = agent.path("gnutls");
    fs::write(&config, "[overrides]\ndisabled-version = tls1.3\n").unwrap();
    let script = format!(
        "import os\nos.environ['GNUTLS_SYSTEM_PRIORITY_FILE'] = {config:?}\n\
         import nbd\nh = nbd.NBD()\nh.set_uri_allow_local_file(True)\n\
         h.connect_uri({uri:?})\n{WRITE_AND_READ}"
    );
    succeeds("/usr/bin/python3", "python3-libnbd", &["-c", &script]);
    agent.wait_for_line("TLSv1_2");
}

#[test]
fn nbdcopy_brings_an_image_in_and_out() {
    let (agent, ca) = agent("--tls=require --tls-verify-peer memory 20M");
    ca.client_in(&agent.path("client"), client(1));
    let uri = uri(&agent, "nbds", "client");
    assert_copies_in_and_out(&agent, &uri);
}

#[test]
fn qemu_writes_and_verifies() {
    let (agent, ca) = agent("--tls=require --tls-verify-peer memory 64M");
    ca.client_in(&agent.path("client"), client(1));
    let credentials =
        format!("tls-creds-x509,id=tls0,endpoint=client,dir={}", word(&agent, "client"));
    let image =
        format!("driver=nbd,path={},tls-creds=tls0,tls-hostname=localhost", word(&agent, "socket"));
    let object = ["--object", &credentials];
    let info = succeeds(
        "qemu-img",
        "qemu-utils",
        &[&["info"][..], &object, &["--image-opts", &image]].concat(),
    );
    assert!(info.contains("64 MiB"), "{info}");
    let mut args = [&object[..], &["--image-opts"]].concat();
    for command in
        ["write -P 0x5a 1M 7M", "write -z 2M 64k", "read -P 0x5a 3M 5M", "read -P 0 2M 64k"]
    {
        args.extend(["-c", command]);
    }
    args.push(&image);
    let said = succeeds("qemu-io", "qemu-utils", &args);
    assert!(!said.contains("failed"), "{said}");
}
