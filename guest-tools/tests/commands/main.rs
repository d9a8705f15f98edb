//! One behaviour a file, of the commands that ask and change: against the agent, nbdkit and
//! qemu-nbd, held against what libnbd's tools say of the same server.

mod bench;
mod change;
mod connect;
mod dump;
mod info;
mod map;
mod probe;
mod tls;

use std::process::{Command, Output};

use support::server::{
    Server,
    Transport::{Tcp, Unix},
};

/// The guest-tools that cargo has built for these tests.
const TOOL: &str = env!("CARGO_BIN_EXE_guest-tools");

/// One of each kind.
fn servers() -> [Server; 3] {
    [Server::nbdkit(TOOL, Unix), Server::qemu_nbd(TOOL, Tcp), Server::agent(TOOL, Unix)]
}

fn libnbd(program: &str, words: &[&str]) -> Output {
    let output = Command::new(program).args(words).output();
    output.unwrap_or_else(|error| panic!("{program}: {error}: apt-get install libnbd-bin"))
}

fn json(bytes: &[u8]) -> serde_json::Value {
    serde_json::from_slice(bytes)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(bytes)))
}
