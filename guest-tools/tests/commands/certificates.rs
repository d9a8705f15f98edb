//! A CA and what it signs, in directories as nbdkit, libnbd and the agent want them.

#![allow(dead_code, reason = "no test file uses all of it")]

use std::{fs, path::Path};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};

/// Signs certificates.
pub(crate) struct Ca {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let mut params = named("a CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate").pem();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    /// For a server that is called localhost and 127.0.0.1.
    pub(crate) fn server_in(&self, directory: &Path) {
        let mut params = named("localhost");
        params.subject_alt_names = vec![
            SanType::DnsName("localhost".try_into().expect("a name")),
            SanType::IpAddress("127.0.0.1".parse().expect("an address")),
        ];
        self.sign_into(directory, "server", ExtendedKeyUsagePurpose::ServerAuth, params);
    }

    pub(crate) fn client_in(&self, directory: &Path) {
        let usage = ExtendedKeyUsagePurpose::ClientAuth;
        self.sign_into(directory, "client", usage, named("guest 7"));
    }

    fn sign_into(
        &self,
        directory: &Path,
        role: &str,
        usage: ExtendedKeyUsagePurpose,
        mut params: CertificateParams,
    ) {
        params.extended_key_usages = vec![usage];
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        self.trusted_in(directory);
        let put = |name: String, text: String| fs::write(directory.join(name), text);
        put(format!("{role}-cert.pem"), certificate.pem()).expect("its file");
        put(format!("{role}-key.pem"), key.serialize_pem()).expect("its file");
    }

    /// The CA's own certificate alone: enough for a client that shows none.
    pub(crate) fn trusted_in(&self, directory: &Path) {
        fs::create_dir_all(directory).expect("a directory");
        fs::write(directory.join("ca-cert.pem"), &self.certificate).expect("its file");
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
