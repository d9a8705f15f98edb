//! A guest's connections over its own queues, against the real agent: how much all of them get, and
//! whether each gets its share. `cargo bench -p agent --bench vsock`; AGENT=PATH measures another binary.

#![expect(clippy::cast_precision_loss, reason = "figures for people")]

use std::{
    env, fs, io,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use vsock_device::testing::{
    guest::Guest,
    nbd::{self, Load, READ, WRITE},
};

const CASES: &[(&str, usize, u16, u32, u64)] = &[
    ("256 KiB reads, depth 4", 1, READ, 256 << 10, 4),
    ("256 KiB reads, depth 4", 4, READ, 256 << 10, 4),
    ("256 KiB reads, depth 4", 16, READ, 256 << 10, 4),
    ("256 KiB reads, depth 4", 64, READ, 256 << 10, 4),
    ("4 KiB reads, depth 16", 1, READ, 4 << 10, 16),
    ("4 KiB reads, depth 16", 4, READ, 4 << 10, 16),
    ("4 KiB reads, depth 1", 1, READ, 4 << 10, 1),
    ("256 KiB writes, depth 4", 1, WRITE, 256 << 10, 4),
    ("256 KiB writes, depth 4", 4, WRITE, 256 << 10, 4),
];

struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Processor time that a process has used, in clock ticks of 10 ms.
fn ticks(id: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
}

fn main() -> io::Result<()> {
    let seconds = env::var("SECONDS_EACH").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    let dir = tempfile::tempdir()?;
    let socket = dir.path().join("vm");
    let binary = env::var_os("AGENT").unwrap_or_else(|| env!("CARGO_BIN_EXE_agent").into());
    let listen = format!("--listen=vhost-user:{}", socket.display());
    let agent = Command::new(binary)
        .args([&listen, "memory", "64M"])
        .stderr(Stdio::null())
        .spawn()
        .map(Agent)?;
    let mut guest = boot(&socket)?;
    let fill = nbd::open(&mut guest)?;
    let load = |command, len, depth, time| Load { command, len, depth, time };
    nbd::run(&mut guest, &[fill], load(WRITE, 1 << 20, 4, Duration::from_secs(1)))?;
    for &(name, connections, command, len, depth) in CASES {
        let open = |_| nbd::open(&mut guest);
        let own: Vec<_> = (0..connections).map(open).collect::<io::Result<_>>()?;
        let (begun, before) = (Instant::now(), ticks(agent.0.id()));
        let replies =
            nbd::run(&mut guest, &own, load(command, len, depth, Duration::from_secs(seconds)))?;
        let (took, used) = (begun.elapsed().as_secs_f64(), ticks(agent.0.id()) - before);
        let all: u64 = replies.iter().sum();
        let (least, most) =
            (replies.iter().min().unwrap_or(&0), replies.iter().max().unwrap_or(&0));
        println!(
            "{name}, {connections} connection(s): {:.0} replies/s, {:.0} MiB/s; each {least} to {most}; \
             agent {:.2} cores",
            all as f64 / took,
            (all * u64::from(len)) as f64 / took / f64::from(1 << 20),
            used as f64 / 100.0 / took,
        );
        for port in own {
            guest.close(port);
        }
        guest.turn(Duration::from_millis(100))?;
    }
    Ok(())
}

fn boot(socket: &Path) -> io::Result<Guest> {
    let begun = Instant::now();
    loop {
        match Guest::boot(socket, 3) {
            Err(error) if begun.elapsed() > Duration::from_secs(10) => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(20)),
            booted => return booted,
        }
    }
}
