//! An agent that two tenants use, and the resources that it takes from its host.

use std::{
    io::{self, Read},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixDatagram,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use support::{DEADLINE, agent::Agent, client::Client, process};

use crate::BINARY;

/// Threads of `agent::tenant::executor` (64), and the others: the engine's, the main one, log targets.
pub(crate) const THREADS: u64 = 64 + 16;
/// The memory limits of a connection and of a tenant, in MiB.
pub(crate) const CONNECTION_MIB: u64 = 128;
pub(crate) const TENANT_MIB: u64 = 256;
/// The agent's memory without clients, in MiB: its code, buffers of its engine threads, allocators that do not
/// return memory at once.
const AGENT_MIB: u64 = 96;
/// The memory allowed for each of its threads in addition, in MiB. By design one thread may have more: up to 2
/// MiB of dropped pages that it keeps for its next write, and the piece of a request that a layer compares,
/// copies or zeroes.
const THREAD_MIB: u64 = 1;
/// The interval at which the agent's resources are checked.
const STEP: Duration = Duration::from_millis(50);

/// The agent, and where each tenant connects.
pub(crate) struct Host {
    pub(crate) agent: Agent,
    pub(crate) tcp: SocketAddr,
}

impl Host {
    pub(crate) fn start(words: &[&str]) -> Self {
        Self::start_watched(Command::new(BINARY), words).0
    }

    /// Like `start`, with a given command, and with the socket of the agent's service manager.
    pub(crate) fn start_watched(command: Command, words: &[&str]) -> (Self, UnixDatagram) {
        let listen = "-U {}/socket --listen tcp:127.0.0.1:0";
        let (agent, manager) = Agent::start_watched(command, |_| (), listen, words);
        let tcp = agent.logged_after("listening on tcp:").parse().expect("an address");
        (Self { agent, tcp }, manager)
    }

    /// A client of the noisy tenant, in transmission, with simple replies.
    pub(crate) fn open_noisy(&self) -> Client<TcpStream> {
        let mut client = self.connect_noisy();
        client.negotiate();
        client
    }

    pub(crate) fn connect_noisy(&self) -> Client<TcpStream> {
        let stream = TcpStream::connect(self.tcp).expect("the agent listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        stream.set_write_timeout(Some(DEADLINE)).expect("a timeout");
        Client { stream }
    }

    /// The most memory that the agent has had, in MiB.
    pub(crate) fn peak_mib(&self) -> u64 {
        self.agent.status("VmHWM") >> 10
    }

    /// Checks that the agent has never had more memory than a tenant may have, plus `contents` of the disk and
    /// what its threads keep.
    pub(crate) fn assert_memory(&self, contents: u64, threads: u64) {
        self.assert_peak(TENANT_MIB + contents + threads * THREAD_MIB);
    }

    /// Checks that the agent has never had more memory than this, in addition to its own.
    pub(crate) fn assert_peak(&self, mib: u64) {
        let (peak, allowed) = (self.peak_mib(), mib + AGENT_MIB);
        assert!(peak <= allowed, "{peak} MiB, allowed {allowed}");
    }

    /// The most threads that the agent had until `stop`.
    pub(crate) fn most_threads(&self, stop: &AtomicBool) -> u64 {
        let mut most = 0;
        while !stop.load(Ordering::Relaxed) {
            most = most.max(self.agent.status("Threads"));
            thread::sleep(STEP / 5);
        }
        most
    }

    /// The processor time that the agent has used.
    pub(crate) fn used(&self) -> Duration {
        process::processor_time(self.agent.id())
    }

    /// Checks that the agent becomes idle `within` this time.
    pub(crate) fn assert_quiet(&self, within: Duration) {
        let start = Instant::now();
        let mut used = self.used();
        loop {
            thread::sleep(STEP);
            let now = self.used();
            if now.saturating_sub(used) <= STEP / 4 {
                return;
            }
            used = now;
            assert!(start.elapsed() < within, "busy for {within:?} after its clients have gone");
        }
    }
}

/// Reads what the agent sends, until no byte arrives for `pause`.
pub(crate) fn drain(client: &mut Client<TcpStream>, pause: Duration) -> u64 {
    client.stream.set_read_timeout(Some(pause)).expect("a timeout");
    let (mut buffer, mut all) = (vec![0; 1 << 20], 0);
    loop {
        match client.stream.read(&mut buffer) {
            Ok(0) => return all,
            Ok(n) => all += n as u64,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return all,
            Err(error) => panic!("{error}"),
        }
    }
}
