//! The options of nbdkit-tls(1), and how they combine.

use std::path::PathBuf;

use clap::Args;

use super::Stop;
use crate::tls::{Mode, Wanted};

/// What the words say of TLS.
#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Words {
    /// TLS: off, on (the client chooses) or require (nothing without it) [default: require with
    /// --tls-verify-peer, else on where there are certificates, off elsewhere]
    #[arg(long, value_name = "off|on|require", help_heading = "TLS")]
    tls: Option<String>,

    /// Where ca-cert.pem, server-cert.pem, server-key.pem and perhaps ca-crl.pem are [default:
    /// /etc/pki/nbdkit for root, else ~/.pki/nbdkit or ~/.config/pki/nbdkit]
    #[arg(long, value_name = "DIRECTORY", help_heading = "TLS")]
    tls_certificates: Option<PathBuf>,

    /// Take only clients with a certificate of the CA in ca-cert.pem that ca-crl.pem does not revoke;
    /// clients without TLS too with --tls=on
    #[arg(long, help_heading = "TLS")]
    tls_verify_peer: bool,

    /// Keys shared with clients, a USER:HEX a line as psktool(1) writes them, in place of
    /// certificates. Needs an agent that was built with the feature 'psk'
    #[arg(long, value_name = "FILE", help_heading = "TLS")]
    tls_psk: Option<PathBuf>,
}

impl Words {
    /// `as_nbdkit` says that the program was called `nbdkit` and follows its defaults.
    pub(super) fn decide(self, as_nbdkit: bool) -> Result<Wanted, Stop> {
        let mode = self.tls.map(mode).transpose()?;
        if mode == Some(Mode::Off) && self.tls_verify_peer {
            // nbdkit serves every client then.
            return Err(Stop::Together {
                one: "--tls=off",
                other: "--tls-verify-peer",
                hint: "without TLS no client can be verified: leave one of them out",
            });
        }
        if cfg!(not(feature = "psk")) && self.tls_psk.is_some() && mode != Some(Mode::Off) {
            return Err(Stop::NoSharedKeys);
        }
        Ok(Wanted {
            mode,
            certificates: self.tls_certificates,
            verify_peer: self.tls_verify_peer,
            plain_too: as_nbdkit,
            #[cfg(feature = "psk")]
            shared_keys: self.tls_psk,
        })
    }
}

/// Accepts all of nbdkit's spellings of a boolean, and "require".
fn mode(word: String) -> Result<Mode, Stop> {
    match &*word.to_ascii_lowercase() {
        "require" | "required" | "force" => Ok(Mode::Require),
        "on" | "1" | "true" | "t" | "yes" | "y" => Ok(Mode::On),
        "off" | "0" | "false" | "f" | "no" | "n" => Ok(Mode::Off),
        _ => Err(Stop::TlsMode(word)),
    }
}
