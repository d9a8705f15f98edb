//! Storms of messages before the first request: TLS handshakes, and options.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use rustls::{ClientConfig, ClientConnection, RootCertStore, crypto::aws_lc_rs};
use support::{
    certificates::Ca,
    client::Client,
    wire::{OPT_INFO, OPT_LIST, OPT_STARTTLS},
};
use tempfile::TempDir;

use crate::{disks::sparse, host::Host, work::storm};

/// Threads that make noise.
const THREADS: usize = 2;
/// Connections that each thread prepares before it continues with all of them at once.
const HANDSHAKES: usize = 400;
const LISTING: usize = 20;
/// Files in the directory that is listed.
const FILES: usize = 500;

/// A client's first message. The agent's answer is most of the work of a handshake: a key exchange and a
/// signature.
fn client_hello() -> Vec<u8> {
    // Named, because a build of the whole workspace has two: guest-tools uses the other.
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = "localhost".try_into().expect("a name");
    let mut client = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut hello = Vec::new();
    client.write_tls(&mut hello).expect("a vector");
    hello
}

/// A client that has sent STARTTLS.
fn starting(host: &Host) -> Client<TcpStream> {
    let mut client = host.connect_noisy();
    client.greet();
    client.option(OPT_STARTTLS, &[]);
    assert_eq!(client.option_reply().0, 1);
    client
}

#[test]
fn a_storm_of_tls_handshakes_delays_nobody() {
    let dir = TempDir::new().expect("a directory");
    Ca::new("the CA").rsa_server_in(dir.path());
    let certificates = dir.path().to_str().expect("UTF-8");
    let host = Host::start(&["--tls=on", "--tls-certificates", certificates, "memory", "64M"]);
    let (hello, answered) = (client_hello(), AtomicU64::new(0));
    storm(&host, THREADS, |stop: &AtomicBool| {
        while !stop.load(Ordering::Relaxed) {
            let mut clients: Vec<_> = (0..HANDSHAKES).map(|_| starting(&host)).collect();
            for client in &mut clients {
                client.stream.write_all(&hello).expect("the agent takes bytes");
            }
            for client in &mut clients {
                // A record of the handshake.
                let mut record = [0; 5];
                client.stream.read_exact(&mut record).expect("the agent answers");
                assert_eq!(record[0], 22, "{record:?}");
                answered.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    println!("{} handshakes", answered.into_inner());
}

#[test]
fn a_storm_of_lists_and_infos_delays_nobody() {
    let dir = TempDir::new().expect("a directory");
    for i in 0..FILES {
        sparse(&dir.path().join(format!("a disk with a name that is not short, {i}")), 1 << 20);
    }
    sparse(&dir.path().join("disk"), 16 << 20);
    let words = format!("dir={}", dir.path().display());
    let host = Host::start(&["--filter=exportname", "file", &words, "default-export=disk"]);
    let answered = AtomicU64::new(0);
    let options = [&b"IHAVEOPT"[..], &OPT_LIST.to_be_bytes(), &[0; 4], b"IHAVEOPT"].concat();
    let options = [&options[..], &OPT_INFO.to_be_bytes(), &6u32.to_be_bytes(), &[0; 6]].concat();
    storm(&host, THREADS, |stop: &AtomicBool| {
        let mut clients: Vec<_> = (0..LISTING).map(|_| host.connect_noisy()).collect();
        clients.iter_mut().for_each(Client::greet);
        while !stop.load(Ordering::Relaxed) {
            for client in &mut clients {
                client.send(&options.repeat(4));
            }
            for client in &mut clients {
                // The answer to each option ends with an acknowledgement.
                for _ in 0..8 {
                    while client.option_reply().0 != 1 {}
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    });
    println!("{} options", answered.into_inner());
}
