//! The project's benchmark: nbdkit, qemu-nbd and the agent in one run, with one client, over Unix sockets, and a
//! table that compares the agent with the others.
//!
//! It is run by developers and by CI: `cargo run --release -p tests --bin bench -- --help`. It connects only to
//! the servers that it started.
//!
//! Nothing is pinned without `--pin`. On two cores pinning made no case steadier, took a core from servers with
//! threads, and made every wake-up cross cores (nbdkit's p50 at depth 1 went from 21 to 62 us). The client polls
//! only with `--client-poll`, because that hides the client's own wake-up and takes CPU from the server. Figures
//! become steady on a machine that does nothing else, so each round measures how busy other processes were
//! (`--retries`).

#![expect(clippy::cast_precision_loss, reason = "figures for people: 53 bits are plenty")]

mod case;
mod content;
mod fio;
mod load;
mod measure;
mod report;
mod server;
mod session;
mod stats;

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use clap::Parser;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use case::{CASES, Case, Media};
use content::Content;
use fio::Fio;
use measure::{Bench, Sample};
use report::Report;
use server::{Kind, Server};

/// An error: what was tried, on what, and why it failed.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Compares NBD servers over Unix sockets, and fio on the same file: requests a second, CPU per request, latency.
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Options {
    /// The agent's binary; without it, the one beside this program or in target/release
    #[arg(long, value_name = "PATH")]
    agent: Option<PathBuf>,

    /// Another agent's binary for the server `control`: before and after a change, in one run
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,

    /// Servers to measure; nbdkit is what the others are compared with
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = Kind::ALL)]
    servers: Vec<Kind>,

    /// Only the cases whose name contains this; may be given more than once
    #[arg(long = "case", value_name = "TEXT")]
    cases: Vec<String>,

    /// Rounds of each case; servers take turns within a round, and medians are taken over rounds
    #[arg(long, default_value_t = 5)]
    rounds: usize,

    /// Seconds that are measured in a round of one server
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,

    /// 3 rounds of 0.3 seconds: to see that everything works
    #[arg(long, conflicts_with_all = ["rounds", "seconds"])]
    quick: bool,

    /// Times that a round is run again if other processes used more than a tenth of a core during
    /// it; the calmest one counts
    #[arg(long, default_value_t = 3)]
    retries: usize,

    /// Put servers on core 0 and the client on core 1, with taskset
    #[arg(long)]
    pin: bool,

    /// Do not ask for structured replies
    #[arg(long)]
    simple: bool,

    /// Times that the client looks at its socket before it sleeps in recv
    #[arg(long, value_name = "TIMES", default_value_t = 0)]
    client_poll: u32,

    /// Read every disk back and compare all of it, after the fill and at the end
    #[arg(long)]
    verify: bool,

    /// Print JSON instead of the table
    #[arg(long)]
    json: bool,

    /// Exit with 1 if the agent misses a goal
    #[arg(long)]
    check: bool,

    /// List the cases and their goals
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    let mut options = Options::parse();
    if options.quick {
        (options.rounds, options.seconds) = (3, 0.3);
    }
    match run(&options) {
        Ok(passed) if passed || !options.check => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("bench: error: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether every goal that was measured has been met.
fn run(options: &Options) -> Result<bool, Failure> {
    let cases: Vec<&Case> = CASES
        .iter()
        .filter(|case| {
            options.cases.is_empty() || options.cases.iter().any(|text| case.name.contains(text))
        })
        .collect();
    if options.list {
        report::list(&cases);
        return Ok(true);
    }
    if cases.is_empty() {
        return Err("no case has such a name: --list shows them all".into());
    }
    if options.rounds == 0 || !(0.01..=3600.0).contains(&options.seconds) {
        return Err("--rounds must be at least 1, --seconds 0.01 to 3600".into());
    }
    if options.check && !options.servers.contains(&Kind::Agent) {
        return Err("--check judges the agent: leave it in --servers".into());
    }
    raise_open_files()?;
    if options.pin {
        pin_self()?;
    }
    let bench = Bench {
        rounds: options.rounds,
        span: Duration::from_secs_f64(options.seconds),
        structured: !options.simple,
        poll: options.client_poll,
        retries: options.retries,
    };
    let agent = if options.servers.iter().any(|kind| kind.is_agent()) {
        Some(find_agent(options.agent.as_deref())?)
    } else {
        None
    };
    let room = tempfile::Builder::new().prefix("bench-").tempdir()?;
    let mut report = Report::new(options);
    for media in Media::ALL {
        let cases: Vec<&Case> = cases.iter().copied().filter(|case| case.media == media).collect();
        if cases.is_empty() {
            continue;
        }
        let rigs = start(options, media, room.path(), agent.as_deref(), &bench)?;
        for case in cases {
            let file = room.path().join("disk.raw");
            report.add(case, measure_case(&bench, case, &rigs, &file)?, &rigs);
        }
        if options.verify {
            verify(&rigs, &bench)?;
        }
    }
    if options.json {
        report.print_json()?;
    } else {
        report.print_table();
    }
    Ok(report.passed())
}

/// A server and the expected content of its disk.
#[derive(Debug)]
struct Rig {
    runs: Runs,
    content: Content,
}

#[derive(Debug)]
enum Runs {
    Server(Server),
    Fio(Fio),
}

impl Rig {
    fn kind(&self) -> Kind {
        match &self.runs {
            Runs::Server(server) => server.kind,
            Runs::Fio(_) => Kind::Fio,
        }
    }

    /// The description in the table.
    fn serves(&self) -> &'static str {
        match &self.runs {
            Runs::Server(server) => server.serves,
            Runs::Fio(_) => "the file itself",
        }
    }
}

/// Starts the servers on `media`, with their disks filled.
fn start(
    options: &Options,
    media: Media,
    room: &Path,
    agent: Option<&Path>,
    bench: &Bench,
) -> Result<Vec<Rig>, Failure> {
    let file = room.join("disk.raw");
    if media != Media::Memory {
        make_file(&file, media)?;
    }
    let other = options.control.as_deref();
    let of = |kind: Kind| if kind == Kind::Control { other.or(agent) } else { agent };
    let mut rigs = Vec::new();
    for &kind in &options.servers {
        if kind == Kind::Fio {
            if matches!(media, Media::Cold | Media::Direct) {
                let runs = Runs::Fio(Fio::new(&file, &room.join("fio.raw"), media));
                rigs.push(Rig { runs, content: Content::of(media) });
            }
            continue;
        }
        let server = match media {
            Media::Memory => Server::start_memory(kind, room, media.size(), of(kind), options.pin)?,
            // nbdkit's file plugin has no O_DIRECT.
            Media::Direct if kind == Kind::Nbdkit => continue,
            _ => Server::start_file(kind, media, room, &file, of(kind), options.pin)?,
        };
        let content = Content::of(media);
        if media == Media::Memory {
            eprintln!("bench: filling {} ({})", kind, server.serves);
            content.fill(&mut server.connect(bench.structured)?)?;
        }
        rigs.push(Rig { runs: Runs::Server(server), content });
    }
    if options.verify {
        verify(&rigs, bench)?;
    }
    Ok(rigs)
}

/// Writes a file with the content of a disk on `media`, unless the file exists.
fn make_file(file: &Path, media: Media) -> Result<(), Failure> {
    if file.metadata().is_ok_and(|found| found.len() == media.size()) {
        return Ok(());
    }
    eprintln!("bench: writing {}", file.display());
    Content::of(media).write_file(file)
}

fn verify(rigs: &[Rig], bench: &Bench) -> Result<(), Failure> {
    for Rig { runs, content } in rigs {
        let Runs::Server(server) = runs else { continue };
        eprintln!("bench: reading {} back", server.kind);
        content
            .verify(&mut server.connect(bench.structured)?)
            .map_err(|failure| format!("{}: {failure}", server.kind))?;
    }
    Ok(())
}

/// The samples of one case: one per rig and round. The order of the servers rotates with the rounds, so that no
/// server always follows the same other one.
fn measure_case(
    bench: &Bench,
    case: &Case,
    rigs: &[Rig],
    file: &Path,
) -> Result<Vec<Vec<Sample>>, Failure> {
    eprintln!("bench: {}: {} rounds", case.name, bench.rounds);
    let mut samples = vec![Vec::new(); rigs.len()];
    for round in 0..bench.rounds {
        for turn in 0..rigs.len() {
            let i = (round + turn) % rigs.len();
            let Rig { runs, content } = &rigs[i];
            let sample = bench.calm(|| {
                if matches!(case.media, Media::Cold | Media::Direct) {
                    Content::forget_file(file)?;
                }
                match runs {
                    Runs::Fio(fio) => fio.load(&case.load, case.connections, bench.span),
                    Runs::Server(server) if case.idle == 0 => {
                        bench.load(server, content, &case.load, case.connections)
                    }
                    Runs::Server(server) => bench.idle(server, content, &case.load, case.idle),
                }
            });
            samples[i].push(sample.map_err(|failure| {
                let last = match runs {
                    Runs::Server(server) => server.last_words(),
                    Runs::Fio(_) => String::new(),
                };
                format!("{}: {}: {failure}{last}", case.name, rigs[i].kind())
            })?);
        }
    }
    Ok(samples)
}

fn find_agent(given: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(path) = given {
        return if path.is_file() {
            Ok(path.to_owned())
        } else {
            Err(format!("agent: {} is no file: build it, or correct --agent", path.display())
                .into())
        };
    }
    let beside = std::env::current_exe()?.with_file_name("agent");
    [beside, PathBuf::from("target/release/agent")]
        .into_iter()
        .find(|path| path.is_file())
        .ok_or_else(|| {
            "agent: not beside this program nor in target/release: run `cargo build --release \
             -p agent`, or give --agent PATH, or leave it out with --servers nbdkit,qemu-nbd"
                .into()
        })
}

/// Raises the limit on open files. A thousand connections need as many descriptors, here and in the servers,
/// which inherit the limit.
fn raise_open_files() -> Result<(), Failure> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
        .map_err(|errno| format!("raising the limit of open files to {hard}: {errno}").into())
}

fn pin_self() -> Result<(), Failure> {
    let status = Command::new("taskset")
        .args(["-cp", "1", &std::process::id().to_string()])
        .stdout(std::process::Stdio::null())
        .status()
        .map_err(|error| format!("--pin: taskset (package util-linux): {error}"))?;
    if status.success() { Ok(()) } else { Err("--pin: there is no core 1 for the client".into()) }
}
