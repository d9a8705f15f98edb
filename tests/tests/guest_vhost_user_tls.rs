//! TLS over a guest's vsock device, with our own client and with libnbd.

use std::{fs, path::Path};

use support::certificates::{Ca, client};
use tests::{
    Failure, Outcome,
    guest::Guest,
    lab::Lab,
    vhost_user::{debian, listen},
};

#[test]
fn a_guest_and_its_host_prove_to_each_other_who_they_are() -> Outcome<()> {
    let Some(lab) = Lab::open("guest_vhost_user_tls")? else { return Ok(()) };
    let (socket, server) = (lab.path("vm"), lab.path("server"));
    let (ours, theirs) = (Ca::new("our CA"), Ca::new("another CA"));
    ours.server_in(&server);
    let certificates = format!("--tls-certificates={}", server.display());
    let words = ["--tls=require", "--tls-verify-peer", &certificates, &listen(&socket)];
    let agent = lab.agent(words.into_iter().chain(["memory", "16M"]))?;

    let mut guest = debian("vhost-user-tls", &socket)?;
    // `unknown` trusts the host, but the host does not trust it.
    for (folder, signer, trusted) in
        [("ours", &ours, &ours), ("theirs", &theirs, &theirs), ("unknown", &theirs, &ours)]
    {
        let here = lab.path(folder);
        signer.client_in(&here, client(7));
        trusted.trusted_in(&here);
        put_there(&mut guest, &here, folder)?;
    }

    let uri = |who: &str| format!("'nbds+vsock://2/?tls-certificates=/run/lab/{who}'");
    guest.check(
        "guest-tools writes and reads 16 MiB over TLS",
        &format!(
            "guest-tools write --pattern --length 16M {0}; guest-tools read --verify-pattern {0}",
            uri("ours")
        ),
    )?;
    println!("the agent: {}", agent.wait_for("tls=true")?);
    guest.expect(
        "libnbd reads it over TLS",
        &format!(
            "nbdsh -c \"h.set_uri_allow_local_file(True)\" \\
                 -c \"h.connect_uri({})\" \\
                 -c 'print(h.get_tls_negotiated(), h.pread(8, 4096).hex())'",
            uri("ours")
        ),
        "True 0000000000001000",
    )?;
    for (what, uri, why) in [
        ("a client without TLS", "nbd+vsock://2/".to_owned(), "TLS"),
        ("a client that does not know the host", uri("theirs"), "certificate"),
        ("a client that the host does not know", uri("unknown"), "certificate"),
    ] {
        let ended = guest.run(&format!("guest-tools info {uri}"))?;
        if ended.status != 1 || !ended.output.contains(why) {
            return Err(guest.failure(&format!("{what} got: {ended:?}")));
        }
        println!("ok: {what} gets nothing: {}", ended.output);
    }
    Ok(())
}

/// Copies the files of a local folder into a folder of the guest.
fn put_there(guest: &mut Guest, from: &Path, folder: &str) -> Outcome<()> {
    let failed = |e: std::io::Error| Failure::of("certificates", &e);
    for entry in fs::read_dir(from).map_err(failed)? {
        let file = entry.map_err(failed)?;
        let text = fs::read_to_string(file.path()).map_err(failed)?;
        let path = format!("/run/lab/{folder}/{}", file.file_name().display());
        guest.sh(&format!("mkdir -p /run/lab/{folder}; cat >{path} <<'END'\n{text}END\n"))?;
    }
    Ok(())
}
