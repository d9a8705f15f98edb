//! `--run` with TLS: the command receives a URI that works, and the variables that nbdkit sets.

use std::process::Command;

use support::{agent::NBDKIT, certificates::Ca};
use tempfile::TempDir;

use crate::BINARY;

#[test]
fn the_command_finds_how_to_connect_with_tls() {
    let dir = TempDir::new().unwrap();
    let directory = dir.path().join("a b");
    Ca::new("ca").server_in(&directory);
    for (mode, level, scheme) in [("on", "1", "nbd+unix:"), ("require", "2", "nbds+unix:")] {
        for program in [NBDKIT, BINARY] {
            let output = Command::new(program)
                .args(["-U", "-", &format!("--tls={mode}"), "--tls-certificates"])
                .arg(&directory)
                .args(["memory", "1M", "--run"])
                // nbdkit 1.32 expects the client to know where the certificates are.
                .arg(r#"echo $tls ${uri%%/*}; nbdinfo --size "$uri"; echo "$tls_certificates|${tls_psk-unset}""#)
                .env("tls_psk", "another")
                .output()
                .unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!(lines[0], format!("{level} {scheme}"), "{program}");
            if program == BINARY {
                let stderr = String::from_utf8_lossy(&output.stderr);
                assert_eq!(lines[1], "1048576", "{mode}: {stderr}");
                assert_eq!(lines[2], format!("{}|unset", directory.display()));
            }
        }
    }
}

#[cfg(feature = "psk")]
#[test]
fn the_command_finds_the_shared_keys() {
    let dir = TempDir::new().unwrap();
    let keys = dir.path().join("keys.psk");
    std::fs::write(&keys, "alice:ad7f0a3a3a4e5bd6a0a0b4fd0b2ba36f\n").unwrap();
    let output = Command::new(BINARY)
        .args(["--tls=require", "--tls-psk"])
        .arg(&keys)
        .args(["memory", "1M", "--run", r#"echo "$tls|$tls_psk|${uri##*&}""#])
        .output()
        .unwrap();
    let keys = keys.display();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text, format!("2|{keys}|tls-psk-file={keys}\n"));
}
