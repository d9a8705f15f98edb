//! Errors that keep an agent with TLS from starting: one line that names the option or the file,
//! and exit code 1.

use std::{
    fs,
    os::unix::{fs::chown, process::CommandExt},
    path::Path,
    process::Command,
};

use support::{agent::Agent, certificates::Ca, process::fails};
use tempfile::TempDir;

use crate::{
    BINARY,
    client::{size, uri},
};

/// Not root, so that `$HOME` is used; Debian's `nobody`.
const NOBODY: u32 = 65534;

/// Starts the agent in an empty home and returns its error.
fn refused(home: &Path, words: &str) -> String {
    let words = words.replace("{}", home.to_str().unwrap());
    let socket = home.join("socket");
    let mut command = nobody(home);
    let (code, text) = fails(command.arg("-U").arg(&socket).args(words.split_whitespace()));
    assert_eq!(code, 1, "{words}: {text}");
    assert_eq!(text.lines().count(), 1, "{words}: {text}");
    assert!(!socket.exists(), "something is left behind");
    text
}

/// The agent as a user with this home.
fn nobody(home: &Path) -> Command {
    let mut command = Command::new(BINARY);
    if nix::unistd::geteuid().is_root() {
        give(home);
        command.uid(NOBODY).gid(NOBODY);
    }
    command.env("HOME", home);
    command
}

fn give(path: &Path) {
    chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            give(&entry.unwrap().path());
        }
    }
}

#[test]
fn tls_that_was_asked_for_and_cannot_be_had_is_an_error() {
    let home = TempDir::new().unwrap();
    for (words, option) in [
        ("--tls=on memory 1M", "--tls=on"),
        ("--tls=require memory 1M", "--tls=require"),
        ("--tls-verify-peer memory 1M", "--tls-verify-peer"),
    ] {
        let text = refused(home.path(), words);
        for part in [option, ".pki/nbdkit", "--tls-certificates DIRECTORY"] {
            assert!(text.contains(part), "{words}: {text}");
        }
    }
}

#[test]
fn words_that_contradict_each_other_or_mean_nothing_are_refused() {
    let home = TempDir::new().unwrap();
    let text = refused(home.path(), "--tls=off --tls-verify-peer memory 1M");
    assert!(text.contains("--tls=off and --tls-verify-peer"), "{text}");
    let text = refused(home.path(), "--tls=maybe memory 1M");
    assert!(text.contains("--tls 'maybe'"), "{text}");
}

#[test]
fn each_file_that_is_missing_or_no_good_is_named() {
    let home = TempDir::new().unwrap();
    let directory = home.path().join("pki");
    let ca = Ca::new("the CA");
    let other = home.path().join("other");
    ca.server_in(&other);
    let start = |words: &str| refused(home.path(), &format!("--tls-certificates {{}}/pki {words}"));
    for file in ["ca-cert.pem", "server-cert.pem", "server-key.pem"] {
        ca.server_in(&directory);
        fs::remove_file(directory.join(file)).unwrap();
        for words in ["memory 1M", "--tls=on memory 1M", "--tls=require memory 1M"] {
            let text = start(words);
            assert!(text.contains(&format!("pki/{file}")), "{text}");
            assert!(text.contains("--tls-certificates"), "{text}");
        }
    }
    for (file, contents, expected) in [
        ("ca-cert.pem", "", "no certificate in"),
        ("server-cert.pem", "hello\n", "no certificate in"),
        ("server-key.pem", "hello\n", "no private key in"),
        (
            "server-key.pem",
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
            "no private key without a passphrase in",
        ),
        (
            "server-key.pem",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            "server-key.pem is no key for TLS",
        ),
        ("server-cert.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n", "is not PEM"),
        (
            "server-cert.pem",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "server-key.pem does not fit server-cert.pem",
        ),
        ("ca-crl.pem", "hello\n", "no certificate revocation list in"),
    ] {
        ca.server_in(&directory);
        fs::write(directory.join(file), contents).unwrap();
        let text = start("--tls=require memory 1M");
        assert!(text.contains(expected) && text.contains(file), "{file} {contents}: {text}");
        if file == "ca-crl.pem" {
            fs::remove_file(directory.join(file)).unwrap();
        }
    }
    ca.server_in(&directory);
    fs::copy(other.join("server-key.pem"), directory.join("server-key.pem")).unwrap();
    let text = start("memory 1M");
    assert!(text.contains("server-key.pem does not fit server-cert.pem"), "{text}");
    for (file, expected) in [("ca-cert.pem", "ca-cert.pem"), ("ca-crl.pem", "ca-crl.pem")] {
        ca.server_in(&directory);
        let label = if file == "ca-crl.pem" { "X509 CRL" } else { "CERTIFICATE" };
        let nonsense = format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n");
        fs::write(directory.join(file), nonsense).unwrap();
        let text = start("--tls-verify-peer memory 1M");
        assert!(text.contains(expected) && text.contains("of no use"), "{text}");
    }
}

#[test]
fn the_home_of_a_user_is_where_certificates_are_looked_for() {
    for place in [".pki/nbdkit", ".config/pki/nbdkit"] {
        let home = TempDir::new().unwrap();
        let ca = Ca::new("the CA");
        ca.server_in(&home.path().join(place));
        let agent = Agent::start_by_in(
            nobody(home.path()),
            |directory| {
                ca.trusted_in(&directory.join("trust"));
                if nix::unistd::geteuid().is_root() {
                    give(directory);
                }
            },
            "-U {}/socket memory 1M",
        );
        assert_eq!(size(&uri(&agent, "nbds", "trust")), Ok(1 << 20), "{place}");
    }
}

#[cfg(not(feature = "psk"))]
#[test]
fn shared_keys_that_are_not_built_in_are_refused_by_name() {
    let home = TempDir::new().unwrap();
    let text = refused(home.path(), "--tls=require --tls-psk {}/keys memory 1M");
    assert!(text.contains("--tls-psk") && text.contains("--features psk"), "{text}");
}

#[cfg(feature = "psk")]
#[test]
fn a_file_of_keys_that_is_no_good_is_named() {
    let home = TempDir::new().unwrap();
    let keys = home.path().join("keys");
    for (contents, expected) in [
        (None, "cannot read"),
        (Some(""), "there is no key in"),
        (Some("a:00\nb\n"), "line 2 of"),
        (Some("a:xy\n"), "its key is not hexadecimal"),
    ] {
        if let Some(contents) = contents {
            fs::write(&keys, contents).unwrap();
        }
        let text = refused(home.path(), "--tls-psk {}/keys memory 1M");
        for part in ["--tls-psk", expected, keys.to_str().unwrap()] {
            assert!(text.contains(part), "{contents:?}: {text}");
        }
    }
}
