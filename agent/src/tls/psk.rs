//! Pre-shared keys: psktool's file, and OpenSSL's configuration. rustls does not support pre-shared
//! keys.

use std::{
    collections::HashMap,
    fmt,
    path::Path,
    sync::{Arc, LazyLock},
};

use openssl::{
    bn::BigNum,
    dh::Dh,
    error::ErrorStack,
    ex_data::Index,
    ssl::{
        Ssl, SslContext, SslContextBuilder, SslMethod, SslMode, SslOptions, SslRef,
        SslSessionCacheMode, SslVersion,
    },
};

use super::{Failure, TlsError, files::read};

/// Cipher suites of TLS 1.2 with forward secrecy and authenticated encryption. All suites of TLS
/// 1.3 have both.
const SUITES: &str = "DHE-PSK-AES256-GCM-SHA384:DHE-PSK-AES128-GCM-SHA256:\
                      ECDHE-PSK-CHACHA20-POLY1305:DHE-PSK-CHACHA20-POLY1305";

/// Cipher suites of TLS 1.3.
const SUITES_1_3: &str =
    "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256";

/// Maximum length of a key that OpenSSL accepts, in bytes (`PSK_MAX_PSK_LEN`).
const LONGEST: usize = 512;

/// Keys by user name.
type Keys = HashMap<Vec<u8>, Vec<u8>>;

/// The user name that a client claimed, as printable text.
static USER: LazyLock<Option<Index<Ssl, String>>> = LazyLock::new(|| Ssl::new_ex_index().ok());

/// Everything that a handshake with shared keys needs. Cheap to clone.
#[derive(Clone)]
pub(crate) struct SharedKeys(SslContext);

impl fmt::Debug for SharedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedKeys")
    }
}

impl SharedKeys {
    /// Reads the file of `--tls-psk`.
    pub(super) fn read(path: &Path) -> Result<Self, TlsError> {
        let text = read(path).map_err(|error| match error {
            TlsError::Read { path, source } => TlsError::ReadKeys { path, source },
            error => error,
        })?;
        let keys = parse(&text).map_err(|(line, why)| TlsError::KeyLine {
            path: path.to_owned(),
            line,
            why,
        })?;
        if keys.is_empty() {
            return Err(TlsError::NoKeys { path: path.to_owned() });
        }
        context(keys).map(Self).map_err(|source| TlsError::Useless {
            option: "--tls-psk",
            path: path.to_owned(),
            source: source.into(),
        })
    }

    /// A new session, before its first byte.
    pub(crate) fn begin(&self) -> Result<Ssl, Failure> {
        Ssl::new(&self.0).map_err(|error| Failure::from(error.to_string()))
    }
}

/// The user name that the client of a session claimed. It is not proven before the handshake is
/// complete.
pub(crate) fn user(session: &SslRef) -> Option<&str> {
    session.ex_data((*USER)?).map(String::as_str)
}

fn context(keys: Keys) -> Result<SslContext, ErrorStack> {
    let mut context = SslContextBuilder::new(SslMethod::tls_server())?;
    context.set_min_proto_version(Some(SslVersion::TLS1_2))?;
    context.set_cipher_list(SUITES)?;
    let (prime, two) = (BigNum::get_rfc3526_prime_3072()?, BigNum::from_u32(2)?);
    let group = Dh::from_pqg(prime, None, two)?;
    context.set_tmp_dh(&group)?;
    // No session resumption, as with certificates.
    context.set_session_cache_mode(SslSessionCacheMode::OFF);
    context.set_num_tickets(0)?;
    context.set_options(SslOptions::NO_TICKET | SslOptions::NO_RENEGOTIATION);
    // Shared keys work with SHA-256 only. Among those suites GnuTLS and OpenSSL both prefer
    // ChaCha20 to AES, and ChaCha20 costs several times as much.
    context.set_ciphersuites(SUITES_1_3)?;
    context.set_options(SslOptions::CIPHER_SERVER_PREFERENCE);
    context.set_mode(
        SslMode::ENABLE_PARTIAL_WRITE
            | SslMode::ACCEPT_MOVING_WRITE_BUFFER
            | SslMode::AUTO_RETRY
            | SslMode::RELEASE_BUFFERS,
    );
    let keys = Arc::new(keys);
    // Used for both versions: with TLS 1.3 OpenSSL makes an external key of it, with SHA-256.
    context.set_psk_server_callback(move |session, user, room| {
        let user = user.unwrap_or_default();
        if let Some(index) = *USER {
            session.set_ex_data(index, String::from_utf8_lossy(user).into_owned());
        }
        let key = keys.get(user).map(Vec::as_slice).unwrap_or_default();
        Ok(room.get_mut(..key.len()).map_or(0, |room| {
            room.copy_from_slice(key);
            key.len()
        }))
    });
    Ok(context.build())
}

/// Parses lines of `USER:HEX`, as psktool(1) writes them. A user name that begins with `#` is hex
/// too.
fn parse(text: &[u8]) -> Result<Keys, (usize, &'static str)> {
    let mut keys = HashMap::new();
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let bad = |why| (index + 1, why);
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        let colon = line.iter().position(|byte| *byte == b':');
        let colon = colon.ok_or_else(|| bad("it is not USER:KEY"))?;
        let (user, key) = (&line[..colon], &line[colon + 1..]);
        let user = match user {
            [] => return Err(bad("it has no user")),
            [b'#', user @ ..] => hex(user).ok_or_else(|| bad("its user is not hexadecimal"))?,
            user => user.to_owned(),
        };
        let key = hex(key).ok_or_else(|| bad("its key is not hexadecimal"))?;
        if key.is_empty() || key.len() > LONGEST {
            return Err(bad("its key has to have 1 to 512 bytes"));
        }
        // The first key of a user counts, as with GnuTLS.
        keys.entry(user).or_insert(key);
    }
    Ok(keys)
}

fn hex(digits: &[u8]) -> Option<Vec<u8>> {
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    let digit = |digit: u8| char::from(digit).to_digit(16);
    let byte = |[high, low]: &[u8; 2]| u8::try_from(digit(*high)? << 4 | digit(*low)?).ok();
    pairs.iter().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_psktool_is_read() {
        let keys = parse(b"alice:00ffA1\n\n#626f62:01\r\nalice:02\n").unwrap();
        assert_eq!(keys.len(), 2);
        assert_eq!(keys[&b"alice"[..]], [0, 0xff, 0xa1]);
        assert_eq!(keys[&b"bob"[..]], [1]);
    }

    #[test]
    fn a_line_that_is_no_key_is_named() {
        let long = format!("a:{}", "00".repeat(LONGEST + 1));
        for line in ["alice", ":00", "alice:0", "alice:xy", "alice:", "#6:00", &long] {
            let text = format!("ok:00\n{line}\n");
            assert_eq!(parse(text.as_bytes()).unwrap_err().0, 2, "{line}");
        }
    }
}
