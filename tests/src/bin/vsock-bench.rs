//! The agent's vhost-user device against rust-vmm's vhost-device-vsock in front of nbdkit. Both have the
//! same tiny guest, the same disk full of data, `guest-tools bench` in the guest, and a measurement of
//! the servers' processor time on the host. `tests/vsock-bench` builds and starts it.

use std::{
    fs::{self, File},
    io::Read,
    path::Path,
    process::{Child, Command, ExitCode},
    thread,
    time::{Duration, Instant},
};

use images::Images;
use nix::unistd::{SysconfVar, sysconf};
use qemu::{
    args::{Sharing, VhostUser},
    vsock::Bus,
};
use serde_json::Value;
use tests::{
    Failure, Outcome, need,
    nest::words_after_the_dashes,
    qemu::{Accel, Machine},
};

const PATIENCE: Duration = Duration::from_mins(2);
/// The size of the disk, in bytes.
const SIZE: u64 = 256 << 20;
/// The cases, each of which is the command of one boot: a title and the options of bench.
const CASES: [(&str, &str); 4] = [
    ("4 KiB random reads, depth 16", "--mode randread --size 4k --depth 16"),
    ("256 KiB sequential reads, depth 4", "--mode read --size 256k --depth 4"),
    ("the same, 4 connections", "--mode read --size 256k --depth 1 --connections 4"),
    ("the same, 64 connections", "--mode read --size 256k --depth 1 --connections 64"),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Agent,
    Peer,
}

/// The result of a case.
#[derive(Debug, Clone, Copy)]
struct Figure {
    rate: f64,
    /// Processor seconds of the servers per MiB.
    cpu: f64,
    failed: u64,
}

/// The figures of the agent and of its peer in a round, by case.
type Pair = (Vec<Figure>, Vec<Figure>);

/// A server, which is killed when dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have exited already.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn main() -> ExitCode {
    let number = |nth| std::env::args().nth(nth).and_then(|word| word.parse().ok());
    match compare(number(1).unwrap_or(3), number(2).unwrap_or(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("vsock-bench: error: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn compare(rounds: u32, processors: u32) -> Outcome<()> {
    need::guest_programs()?;
    let images = Images::of_this_workspace()?;
    let accel = Accel::of_this_machine(&images)?;
    println!(
        "guests: {}, processors: {processors}; {rounds} rounds, each a boot for each server",
        accel.name()
    );
    let mut all: Vec<Pair> = Vec::new();
    for round in 0..rounds {
        // The order alternates, because the machine may become slower or faster.
        let order = if round % 2 == 0 { [Who::Agent, Who::Peer] } else { [Who::Peer, Who::Agent] };
        let mut pair = (Vec::new(), Vec::new());
        for who in order {
            let figures = boot(who, &images, accel, processors)?;
            for ((title, _), figure) in CASES.iter().zip(&figures) {
                println!(
                    "round {} {who:?}: {title}: {:.0}/s, {:.3} ms of CPU a MiB, {} failed",
                    round + 1,
                    figure.rate,
                    figure.cpu * 1000.0,
                    figure.failed
                );
            }
            if who == Who::Agent { pair.0 = figures } else { pair.1 = figures }
        }
        all.push(pair);
    }
    println!("\nagent by vhost-device-vsock and nbdkit, median (least to most):");
    for (n, (title, _)) in CASES.iter().enumerate() {
        let ratios = |of: fn(&Figure) -> f64| {
            let mut ratios: Vec<f64> = all
                .iter()
                .filter_map(|(agent, peer)| Some(of(agent.get(n)?) / of(peer.get(n)?)))
                .collect();
            ratios.sort_by(f64::total_cmp);
            let at = |place: usize| ratios.get(place).copied().unwrap_or(f64::NAN);
            format!("{:.2} ({:.2} to {:.2})", at(ratios.len() / 2), at(0), at(ratios.len() - 1))
        };
        let failed = |of: fn(&Pair) -> &Vec<Figure>| -> u64 {
            all.iter().filter_map(|pair| of(pair).get(n)).map(|figure| figure.failed).sum()
        };
        println!(
            "{title}: rate {}, host CPU a byte {}, failed connections {} and {}",
            ratios(|figure| figure.rate),
            ratios(|figure| figure.cpu),
            failed(|pair| &pair.0),
            failed(|pair| &pair.1)
        );
    }
    Ok(())
}

/// Starts the servers and a guest, and returns the guest's figures.
fn boot(who: Who, images: &Images, accel: Accel, processors: u32) -> Outcome<Vec<Figure>> {
    let dir = tempfile::tempdir().map_err(|e| Failure::of("no directory", &e))?;
    let (device, fill) = (dir.path().join("v"), dir.path().join("u_10809"));
    let disk = format!("{SIZE}");
    let servers = match who {
        Who::Agent => {
            let (device, fill) = (device.display(), fill.display());
            let words = [format!("--listen=vhost-user:{device}"), format!("--listen=unix:{fill}")];
            let mut agent = Command::new("target/release/agent");
            vec![start(agent.args(words).args(["--log=null", "memory", &disk]))?]
        }
        Who::Peer => {
            let uds = dir.path().join("u");
            let vm = format!("guest-cid=3,uds-path={},socket={}", uds.display(), device.display());
            let mut nbdkit = Command::new("nbdkit");
            nbdkit.arg("-f").arg("-U").arg(&fill).args(["memory", &disk]);
            let mut peer = Command::new("target/vsock-peer/bin/vhost-device-vsock");
            vec![start(&mut nbdkit)?, start(peer.args(["--vm", &vm]))?]
        }
    };
    for path in [&device, &fill] {
        appears(path)?;
    }
    fill_disk(dir.path(), &fill)?;
    let lines: Vec<String> = CASES
        .iter()
        .map(|(_, words)| format!("bench --json --time 3s --warm-up 1s {words}"))
        .collect();
    let commands: Vec<&str> = lines.iter().map(String::as_str).collect();
    let vsock = VhostUser {
        bus: Bus::Pci,
        id: "vsock0".into(),
        socket: device,
        memory: "512M".parse().map_err(|e| Failure::of("512M", &e))?,
        sharing: Sharing::Machine,
    };
    let tiny = images.tiny()?;
    let name = format!("vsock-bench-{who:?}");
    let machine = Machine::new(&name, tiny).processors(processors);
    let machine = machine.append(&words_after_the_dashes(&commands));
    let mut guest = machine.arguments(vsock.arguments()).start(accel)?;
    let mut times = Vec::new();
    for _ in CASES {
        guest.wait_for("guest-tools: run:", PATIENCE)?;
        let before = cpu(&servers)?;
        guest.wait_for(" after ", PATIENCE)?;
        times.push(cpu(&servers)? - before);
    }
    let console = guest.wait_for_end(PATIENCE)?;
    let figures = figures(&console, &times);
    if figures.len() == CASES.len() {
        return Ok(figures);
    }
    Err(guest.failure("some cases have no figures"))
}

fn start(command: &mut Command) -> Outcome<Server> {
    let what = format!("cannot start {}", command.get_program().display());
    command.spawn().map(Server).map_err(|e| Failure::of(&what, &e))
}

/// Waits for a socket, because nbdkit and vhost-device-vsock do not report when they listen.
fn appears(path: &Path) -> Outcome<()> {
    let deadline = Instant::now() + PATIENCE;
    while !path.exists() {
        if Instant::now() > deadline {
            return Err(Failure::new(format!("{} did not appear", path.display())));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Fills the disk with data, because a hole would be answered without its bytes.
fn fill_disk(dir: &Path, socket: &Path) -> Outcome<()> {
    let file = dir.join("data");
    let data = File::open("/dev/urandom").and_then(|random| {
        let mut bytes = Vec::new();
        random.take(SIZE).read_to_end(&mut bytes)?;
        fs::write(&file, bytes)
    });
    data.map_err(|e| Failure::of("no data", &e))?;
    let uri = format!("nbd+unix:///?socket={}", socket.display());
    let copied = Command::new("nbdcopy").arg(&file).arg(uri).status();
    match copied.map_err(|e| Failure::of("cannot start nbdcopy", &e))? {
        status if status.success() => Ok(()),
        status => Err(Failure::new(format!("nbdcopy ended with {status}"))),
    }
}

/// Processor seconds of all threads so far, from /proc/PID/stat.
fn cpu(servers: &[Server]) -> Outcome<f64> {
    let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
    let mut all: u64 = 0;
    for server in servers {
        let path = format!("/proc/{}/stat", server.0.id());
        let text = fs::read_to_string(&path).map_err(|e| Failure::of(&path, &e))?;
        let behind = text.rsplit_once(") ").map_or("", |(_, behind)| behind);
        all +=
            behind.split(' ').skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum::<u64>();
    }
    #[allow(clippy::cast_precision_loss, reason = "seconds for people")]
    Ok(all as f64 / ticks as f64)
}

/// The objects that bench printed on the console, in order.
fn figures(console: &[String], times: &[f64]) -> Vec<Figure> {
    let text = console.join("\n");
    let objects = text.split("guest-tools: run: bench").skip(1).filter_map(|part| {
        let (from, to) = (part.find('{')?, part.rfind('}')?);
        serde_json::from_str::<Value>(part.get(from..=to)?).ok()
    });
    let of = |(run, cpu): (Value, &f64)| {
        let case = run["cases"].get(0)?.clone();
        let number = |key: &str| case[key].as_f64();
        // The bytes of the warm-up took the servers' time too: four seconds, of which three are counted.
        let mib = number("bytes_per_second")? * 4.0 / f64::from(1 << 20);
        let (rate, failed) = (number("rate")?, case["failed"].as_u64()?);
        Some(Figure { rate, cpu: cpu / mib, failed })
    };
    objects.zip(times).filter_map(of).collect()
}
