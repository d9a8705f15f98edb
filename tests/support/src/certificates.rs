//! A certificate authority for tests. It writes its certificates into directories that nbdkit, libnbd, QEMU and
//! our programs read.

use std::{fs, path::Path, time::Duration};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_RSA_SHA256,
    RevokedCertParams, SerialNumber, date_time_ymd,
};

/// A certificate authority with a fresh key.
#[derive(Debug)]
pub struct Ca {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    /// A CA whose common name is `name`.
    pub fn new(name: &str) -> Self {
        let mut params = named(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate").pem();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    /// Writes what `--tls-certificates` needs for the names localhost and 127.0.0.1.
    pub fn server_in(&self, directory: &Path) {
        self.server(directory, named("localhost"));
    }

    /// As [`Self::server_in`], with an RSA key: its signatures cost a server the most time.
    pub fn rsa_server_in(&self, directory: &Path) {
        let key = KeyPair::generate_for(&PKCS_RSA_SHA256).expect("a key");
        self.sign_key_into(directory, "server", named("localhost"), &key);
    }

    /// As [`Self::server_in`], with a certificate that expires at `until`, counted from 1970-01-01.
    pub fn server_until(&self, directory: &Path, until: Duration) {
        let mut params = named("localhost");
        params.not_after = date_time_ymd(1970, 1, 1) + until;
        self.server(directory, params);
    }

    fn server(&self, directory: &Path, mut params: CertificateParams) {
        params.subject_alt_names = ["localhost", "127.0.0.1"]
            .map(|name| match name.parse() {
                Ok(address) => rcgen::SanType::IpAddress(address),
                Err(_) => rcgen::SanType::DnsName(name.try_into().expect("a name")),
            })
            .into();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign_into(directory, "server", params);
    }

    /// Writes what a client needs.
    pub fn client_in(&self, directory: &Path, client: CertificateParams) {
        self.sign_into(directory, "client", client);
    }

    fn sign_into(&self, directory: &Path, role: &str, params: CertificateParams) {
        self.sign_key_into(directory, role, params, &KeyPair::generate().expect("a key"));
    }

    fn sign_key_into(
        &self,
        directory: &Path,
        role: &str,
        mut params: CertificateParams,
        key: &KeyPair,
    ) {
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        let certificate = params.signed_by(key, &self.issuer).expect("a certificate");
        self.trusted_in(directory);
        fs::write(directory.join(format!("{role}-cert.pem")), certificate.pem()).expect("a file");
        fs::write(directory.join(format!("{role}-key.pem")), key.serialize_pem()).expect("a file");
    }

    /// Writes the CA's own certificate alone: enough for a client that shows none.
    pub fn trusted_in(&self, directory: &Path) {
        fs::create_dir_all(directory).expect("a directory");
        fs::write(directory.join("ca-cert.pem"), &self.certificate).expect("a file");
    }

    /// Writes a list that revokes one serial number and expires at the start of the year `until`.
    pub fn revoke_in(&self, directory: &Path, serial: u64, until: i32) {
        let until = date_time_ymd(until, 1, 1) - date_time_ymd(1970, 1, 1);
        self.revoke_until(directory, serial, until.try_into().expect("after 1970"));
    }

    /// As [`Self::revoke_in`], with a list that expires at `until`, counted from 1970-01-01.
    pub fn revoke_until(&self, directory: &Path, serial: u64, until: Duration) {
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2001, 1, 1),
            next_update: date_time_ymd(1970, 1, 1) + until,
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(serial),
                revocation_time: date_time_ymd(2001, 1, 1),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).expect("a list");
        fs::write(directory.join("ca-crl.pem"), list.pem().expect("PEM")).expect("a file");
    }
}

/// A certificate of that common name, valid from 2001 to 2099.
pub fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::OrganizationName, "Test, Inc.");
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2001, 1, 1);
    params.not_after = date_time_ymd(2099, 1, 1);
    params
}

/// The certificate of the client "guest 7" with a serial number.
pub fn client(serial: u64) -> CertificateParams {
    let mut params = named("guest 7");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.serial_number = Some(SerialNumber::from(serial));
    params
}
