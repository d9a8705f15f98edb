//! Measures starts and ends: the time from start to the first greeting, the rate of connect, GO and
//! disconnect, and what an agent holds after a hundred thousand of these cycles.
//!
//! It is run by developers, with nbdkit for comparison: `cargo run --release -p tests --bin
//! lifecycle`. It connects only to the servers that it started.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use clap::Parser;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

/// An error: what was tried, and why it failed.
type Failure = Box<dyn std::error::Error + Send + Sync>;
type Outcome<T> = Result<T, Failure>;

/// The agent's goals.
const READY_MS: f64 = 10.0;
const CYCLES_PER_SECOND: f64 = 1000.0;
/// The growth of the resident memory that is not a leak but normal for an allocator, in KiB.
const GROWTH_KIB: i64 = 1024;
/// The number of cycles after which memory should no longer grow.
const WARM_UP: u32 = 2_000;

/// Measures starts, connections and what they leave behind.
#[derive(Debug, Parser)]
#[command(name = "lifecycle")]
struct Options {
    /// The agent's binary
    #[arg(long, value_name = "PATH", default_value = "target/release/agent")]
    agent: PathBuf,

    /// Starts of each server; the median counts
    #[arg(long, default_value_t = 51)]
    starts: usize,

    /// Connections to the agent, one after the other
    #[arg(long, default_value_t = 100_000)]
    cycles: u32,

    /// Connections to nbdkit
    #[arg(long, default_value_t = 10_000)]
    nbdkit_cycles: u32,

    /// Exit with 1 if the agent misses a goal
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(met) if met || !options.check => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("lifecycle: error: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Outcome<bool> {
    let agent = options.agent.as_path();
    let nbdkit = Path::new("nbdkit");
    let mut met = true;

    // In turns, so that a drift of the machine affects both equally.
    let mut starts = [Vec::new(), Vec::new()];
    for _ in 0..options.starts {
        for (times, program) in starts.iter_mut().zip([agent, nbdkit]) {
            times.push(Server::start(program)?.1);
        }
    }
    let [agents, nbdkits] = starts.map(median_ms);
    println!(
        "start to first greeting, median of {}: agent {agents:.2} ms, nbdkit {nbdkits:.2} ms",
        options.starts
    );
    met &= goal("start to ready under 10 ms", agents < READY_MS);

    let (other, _) = Server::start(nbdkit)?;
    let nbdkits = other.cycles(options.nbdkit_cycles)?;
    drop(other);
    let (server, _) = Server::start(agent)?;
    server.cycles(WARM_UP)?;
    let before = server.holds()?;
    let agents = server.cycles(options.cycles)?;
    println!(
        "connect, GO, disconnect, one after the other: agent {agents:.0}/s, nbdkit {nbdkits:.0}/s"
    );
    met &= goal("1000 cycles a second", agents >= CYCLES_PER_SECOND);
    let after = server.holds()?;
    println!("before and after {} cycles: {before:?}, {after:?}", options.cycles);
    met &= goal("no descriptor leaked", after.descriptors <= before.descriptors);
    met &= goal("no thread leaked", after.threads <= before.threads);
    met &= goal("no memory leaked", after.resident_kib - before.resident_kib < GROWTH_KIB);
    Ok(met)
}

fn goal(name: &str, met: bool) -> bool {
    println!("  {} {name}", if met { "met:" } else { "MISSED:" });
    met
}

fn median_ms(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(f64::NAN, |time| time.as_secs_f64() * 1000.0)
}

/// A server on a Unix socket, which is terminated when dropped.
struct Server {
    child: Child,
    dir: TempDir,
}

/// The resources that a process holds.
#[derive(Debug)]
struct Holds {
    descriptors: usize,
    threads: usize,
    resident_kib: i64,
}

impl Server {
    /// Starts a server, and returns how long it took until a client was greeted.
    fn start(program: &Path) -> Outcome<(Self, Duration)> {
        let dir = TempDir::with_prefix("lifecycle-")?;
        let socket = dir.path().join("sock");
        let started = Instant::now();
        let child = Command::new(program)
            .args(["-f", "-U"])
            .arg(&socket)
            .args(["memory", "1M"])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| {
                Failure::from(format!("cannot start {}: {error}", program.display()))
            })?;
        let mut server = Self { child, dir };
        loop {
            if let Ok(mut stream) = UnixStream::connect(&socket) {
                stream.read_exact(&mut [0; 18])?;
                return Ok((server, started.elapsed()));
            }
            if let Some(status) = server.child.try_wait()? {
                return Err(format!("{} ended: {status}", program.display()).into());
            }
            thread::yield_now();
        }
    }

    /// The rate in cycles per second.
    fn cycles(&self, count: u32) -> Outcome<f64> {
        let socket = self.dir.path().join("sock");
        let started = Instant::now();
        for _ in 0..count {
            cycle(&socket)?;
        }
        Ok(f64::from(count) / started.elapsed().as_secs_f64())
    }

    /// Reads the resources once the last session has ended: the number of descriptors is stable
    /// then.
    fn holds(&self) -> Outcome<Holds> {
        let process = PathBuf::from(format!("/proc/{}", self.child.id()));
        let count =
            |what: &str| -> Outcome<usize> { Ok(fs::read_dir(process.join(what))?.count()) };
        let (mut descriptors, mut same) = (count("fd")?, 0);
        while same < 100 {
            thread::yield_now();
            let now = count("fd")?;
            same = if now == descriptors { same + 1 } else { 0 };
            descriptors = now;
        }
        let status = fs::read_to_string(process.join("status"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident = resident.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok());
        let resident_kib = resident.ok_or_else(|| Failure::from("no VmRSS"))?;
        Ok(Holds { descriptors, threads: count("task")?, resident_kib })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(pid) = self.child.id().try_into() {
            // It may have exited already, which the wait reports.
            kill(Pid::from_raw(pid), Signal::SIGTERM).ok();
        }
        self.child.wait().ok();
    }
}

/// Connects, opens the default export with NBD_OPT_GO, and sends NBD_CMD_DISC.
fn cycle(socket: &Path) -> Outcome<()> {
    let mut stream = UnixStream::connect(socket)?;
    stream.read_exact(&mut [0; 18])?;
    // Fixed newstyle and no zeroes; then GO for the empty name, without information requests.
    let mut ask = 3_u32.to_be_bytes().to_vec();
    ask.extend(b"IHAVEOPT\0\0\0\x07\0\0\0\x06\0\0\0\0\0\0");
    stream.write_all(&ask)?;
    loop {
        let mut header = [0; 20];
        stream.read_exact(&mut header)?;
        let word =
            |at| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let len = usize::try_from(word(16))?;
        stream.read_exact(&mut vec![0; len])?;
        match word(12) {
            1 => break,
            3 => {}
            code => return Err(format!("NBD_OPT_GO was answered {code:#x}").into()),
        }
    }
    let mut disconnect = [0; 28];
    disconnect[..4].copy_from_slice(&0x2560_9513_u32.to_be_bytes());
    disconnect[7] = 2;
    stream.write_all(&disconnect)?;
    // When the server closes, it is done with this connection.
    if stream.read(&mut [0; 1])? != 0 {
        return Err("bytes after NBD_CMD_DISC".into());
    }
    Ok(())
}
