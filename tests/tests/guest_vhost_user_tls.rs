//! TLS on a guest's vsock device, by our own client and by libnbd.

use std::{fs, path::Path};

use images::Images;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use tests::{
    Failure, Outcome,
    agent::Agent,
    guest::Guest,
    need,
    vhost_user::{debian, listen},
};

#[test]
fn a_guest_and_its_host_prove_to_each_other_who_they_are() -> Outcome<()> {
    if need::guests_are_off("guest_vhost_user_tls") {
        return Ok(());
    }
    need::guests()?;
    let images = Images::of_this_workspace()?;
    let dir = tempfile::tempdir().map_err(|e| Failure::of("no directory", &e))?;
    let (socket, server) = (dir.path().join("vm"), dir.path().join("server"));
    let (ours, theirs) = (Ca::new()?, Ca::new()?);
    put_here(&server, &ours.signed("server", ExtendedKeyUsagePurpose::ServerAuth)?)?;
    let certificates = format!("--tls-certificates={}", server.display());
    let words = ["--tls=require", "--tls-verify-peer", &certificates, &listen(&socket)];
    let mut agent = Agent::start(&images, words.into_iter().chain(["memory", "16M"]))?;

    let mut guest = debian("vhost-user-tls", &socket)?;
    let client = || ExtendedKeyUsagePurpose::ClientAuth;
    put_there(&mut guest, "ours", &ours.signed("client", client())?)?;
    put_there(&mut guest, "theirs", &theirs.signed("client", client())?)?;
    // Who knows the host, and is not known to it.
    let mut unknown = theirs.signed("client", client())?;
    unknown[0] = ours.file();
    put_there(&mut guest, "unknown", &unknown)?;

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

/// A file's name and what is in it.
type File = (String, String);

fn put_here(folder: &Path, files: &[File]) -> Outcome<()> {
    let failed = |e: std::io::Error| Failure::of("certificates", &e);
    fs::create_dir_all(folder).map_err(failed)?;
    files.iter().try_for_each(|(name, text)| fs::write(folder.join(name), text).map_err(failed))
}

fn put_there(guest: &mut Guest, folder: &str, files: &[File]) -> Outcome<()> {
    for (name, text) in files {
        let path = format!("/run/lab/{folder}/{name}");
        guest.sh(&format!("mkdir -p /run/lab/{folder}; cat >{path} <<'END'\n{text}END\n"))?;
    }
    Ok(())
}

struct Ca {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    fn new() -> Outcome<Self> {
        let mut params = named("a CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.self_signed(&key).map_err(failed)?.pem();
        Ok(Self { certificate, issuer: Issuer::new(params, key) })
    }

    fn file(&self) -> File {
        ("ca-cert.pem".to_owned(), self.certificate.clone())
    }

    /// The files of a server or a client: the CA's certificate first.
    fn signed(&self, role: &str, usage: ExtendedKeyUsagePurpose) -> Outcome<[File; 3]> {
        let mut params = named("localhost");
        params.extended_key_usages = vec![usage];
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok([
            self.file(),
            (format!("{role}-cert.pem"), certificate.pem()),
            (format!("{role}-key.pem"), key.serialize_pem()),
        ])
    }
}

/// Good from 2001 to 2099.
fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2001, 1, 1);
    params.not_after = date_time_ymd(2099, 1, 1);
    params
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(error: rcgen::Error) -> Failure {
    Failure::of("no certificate", &error)
}
