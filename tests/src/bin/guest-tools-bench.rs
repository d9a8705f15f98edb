//! guest-tools against libnbd's tools: `info` and nbdinfo, `copy` and nbdcopy, over a Unix socket, on
//! the same servers in the same run. Each round runs both, in alternating order. The medians count,
//! and the ratio of the two is the result. `tests/guest-tools-bench` builds and starts it.

use std::{
    error::Error,
    fs,
    os::unix::net::UnixListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const TOOL: &str = "target/guest/guest-tools";
/// The length of a copy, in bytes.
const SIZE: u64 = 512 << 20;

/// An nbdkit, which is killed when dropped.
struct Server {
    child: Child,
    uri: String,
}

impl Server {
    /// Starts nbdkit with a socket that listens already, as systemd would pass it, so there is
    /// nothing to wait for.
    fn start(dir: &Path, name: &str, words: &[&str]) -> Result<Self> {
        let path = dir.join(name);
        let listener = UnixListener::bind(&path)?;
        let script = "exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1; \
                      export LISTEN_PID LISTEN_FDS; exec nbdkit -f \"$@\"";
        let child = Command::new("sh")
            .args(["-c", script, "sh"])
            .args(words)
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)))
            .spawn()?;
        Ok(Self { child, uri: format!("nbd+unix:///?socket={}", path.display()) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn time(words: &[&str]) -> Result<Duration> {
    let [program, rest @ ..] = words else { return Err("no program".into()) };
    let begun = Instant::now();
    let status = Command::new(program).args(rest).stdout(Stdio::null()).status()?;
    let took = begun.elapsed();
    if status.success() { Ok(took) } else { Err(format!("{words:?}: {status}").into()) }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn compare(name: &str, rounds: usize, ours: &[&str], theirs: &[&str]) -> Result<()> {
    // Once each, so that neither starts with cold caches.
    time(ours)?;
    time(theirs)?;
    let (mut our, mut their) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        for turn in [round % 2, 1 - round % 2] {
            if turn == 0 { our.push(time(ours)?) } else { their.push(time(theirs)?) }
        }
    }
    let (our, their) = (median(our).as_secs_f64() * 1e3, median(their).as_secs_f64() * 1e3);
    println!("{name:28} {our:>10.2} {their:>10.2} {:>7.2}", our / their);
    Ok(())
}

fn main() -> Result<()> {
    let rounds = std::env::args().nth(1).map_or(Ok(15), |rounds| rounds.parse())?;
    let dir = tempfile::tempdir()?;
    let size = SIZE.to_string();
    let pattern = Server::start(dir.path(), "pattern", &["pattern", &size])?;
    let memory = Server::start(dir.path(), "memory", &["memory", &size])?;
    let (given, made) = (dir.path().join("given"), dir.path().join("made"));
    let block: Vec<_> = (0..1 << 20).map(|n: u32| n.to_le_bytes()[n as usize % 3] | 1).collect();
    fs::write(&given, block.repeat(usize::try_from(SIZE >> 20)?))?;
    let (Some(given), Some(made)) = (given.to_str(), made.to_str()) else {
        return Err("a temporary directory whose name is not UTF-8".into());
    };
    println!("medians of {rounds}, ms            guest-tools     libnbd   ratio");
    let uri = pattern.uri.as_str();
    compare("info", rounds, &[TOOL, "info", uri], &["nbdinfo", "--no-content", uri])?;
    let json = &[TOOL, "info", "--json", uri];
    compare("info --json", rounds, json, &["nbdinfo", "--no-content", "--json", uri])?;
    compare("info --size", rounds, &[TOOL, "info", "--size", uri], &["nbdinfo", "--size", uri])?;
    let copy = [TOOL, "copy", "--quiet"];
    let ours = |from, to| [&copy[..], &[from, to]].concat();
    compare("copy data to nowhere", rounds, &ours(uri, "null:"), &["nbdcopy", uri, "null:"])?;
    let theirs = &["nbdcopy", "--flush", uri, made];
    compare("copy data to a file", rounds, &ours(uri, made), theirs)?;
    let uri = memory.uri.as_str();
    let theirs = &["nbdcopy", "--flush", given, uri];
    compare("copy a file to a server", rounds, &ours(given, uri), theirs)?;
    let theirs = &["nbdcopy", uri, "null:"];
    compare("copy memory to nowhere", rounds, &ours(uri, "null:"), theirs)?;
    let theirs = &["nbdcopy", "--flush", pattern.uri.as_str(), uri];
    compare("copy a server to another", rounds, &ours(&pattern.uri, uri), theirs)
}
