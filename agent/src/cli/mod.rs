//! Turns the command line into a `Plan`, and checks the options and their combination. The only
//! files that it opens are files of parameters (`@PATH`).

mod access;
mod answers;
mod given;
mod limits;
mod machines;
mod options;
mod params;
mod process;
mod refused;
#[cfg(test)]
mod tests;
mod tls;

use std::{
    ffi::{OsStr, OsString},
    fmt, io,
    path::PathBuf,
    time::Duration,
};

use clap::{CommandFactory, FromArgMatches};
use disk::ring::Io;
use nbd::wire::DEFAULT_PORT;
use thiserror::Error;

use self::options::Said;
use crate::{
    listen::{Address, AddressError, Family, Given, activation::Handed},
    log::{Log, Target},
    params::Word,
    plan::Plan,
    stack::BuildError,
    units::{DurationError, parse_duration},
};

/// Maximum length of an export's name in bytes (NBD_MAX_STRING).
const EXPORT_NAME_MAX: usize = 4096;

/// Why there is no plan.
#[derive(Debug, Error)]
pub(crate) enum Stop {
    /// An option asked for this text instead of serving.
    #[error("{0}")]
    Answer(String),
    /// An error of clap, such as an unknown option.
    #[error(transparent)]
    Clap(#[from] clap::Error),
    /// The plugin or filter that an answer is about does not exist.
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error("--dump-plugin: no plugin is given; say which, such as 'agent memory --dump-plugin'")]
    DumpWhat,
    #[error("cannot read the parameters in the file '{}'", .path.display())]
    Params { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Access(#[from] access::WordsError),
    #[error(transparent)]
    Limit(#[from] limits::LimitError),
    #[error("--qmp {} is given twice; name each machine once", .0.display())]
    SameMachine(PathBuf),
    #[error("--qmp needs a listener that guests reach; add --vsock")]
    NoVsock,
    #[error("--qmp-cid is about the devices of --qmp; name a machine with --qmp SOCKET")]
    NoMachine,
    #[error("{option} is known to nbdkit, not built into agent yet; {hint}")]
    NotBuilt { option: String, hint: &'static str },
    #[error("{option} is refused: {why}")]
    Refused { option: String, why: &'static str },
    #[error("{one} and {other} cannot be used together; {hint}")]
    Together { one: &'static str, other: &'static str, hint: &'static str },
    #[error("no plugin is given; say what to serve, such as 'agent --vsock memory 1G'")]
    NoPlugin,
    #[error("{option} '{value}'")]
    Address { option: &'static str, value: String, source: AddressError },
    #[error("{0} is to be listened on twice; name it once")]
    Twice(Address),
    #[error("{option} '{value}'")]
    Time { option: &'static str, value: String, source: DurationError },
    #[error("--timeout 0 would drop every client; give it some seconds")]
    NoTime,
    #[error(
        "--exportname has {0} bytes, and NBD takes at most {EXPORT_NAME_MAX}; choose a shorter one"
    )]
    LongName(usize),
    #[error(
        "--mask-handshake '{0}' is not a number of 32 bits; 3 offers all, 2 no fixed newstyle, 1 the zeroes"
    )]
    Mask(String),
    #[error("--tls '{0}'; it can be 'off', 'on' or 'require'")]
    TlsMode(String),
    #[error(
        "--tls-psk is not in this build of agent; use certificates (--tls-certificates), or build \
         it with '--features psk', which needs OpenSSL 3"
    )]
    NoSharedKeys,
    #[error("--log '{0}'; it can be stderr, json, syslog, journald, null, or /PATH of a file")]
    Log(String),
}

impl Stop {
    /// The text that was asked for, if this is not an error.
    pub(crate) fn answer(&self) -> Option<&str> {
        if let Self::Answer(answer) = self { Some(answer) } else { None }
    }
}

impl From<fmt::Error> for Stop {
    fn from(_: fmt::Error) -> Self {
        unreachable!("a String takes all")
    }
}

/// The definitions of the command line that serves, for its manual and its completions.
pub(crate) fn command() -> clap::Command {
    Said::command()
}

/// Parses a command line, whose first word is the program's name. `handed` are the inherited
/// sockets.
pub(crate) fn plan<W: Into<OsString> + Clone>(
    words: impl IntoIterator<Item = W>,
    handed: Option<Handed>,
) -> Result<Plan, Stop> {
    let words: Vec<OsString> = words.into_iter().map(Into::into).collect();
    let name = words.first().cloned().unwrap_or_default();
    let matches = refused::add_to(Said::command()).try_get_matches_from(words)?;
    if let Some(stop) = refused::given(&matches) {
        return Err(stop);
    }
    let said = Said::from_arg_matches(&matches)?;
    let params = params::words(&said.params)?;
    match said.answer(&params)? {
        Some(_) if said.single => Err(given::no_answer()),
        Some(answer) => Err(Stop::Answer(answer)),
        None => said.decide(&name, params, handed),
    }
}

impl Said {
    fn decide(self, name: &OsStr, params: Vec<Word>, handed: Option<Handed>) -> Result<Plan, Stop> {
        let process = self.process(name, handed.is_some())?;
        let offers = self.offers()?;
        let given = self.given(handed)?;
        let listen = if given == Given::Nothing { self.listen_on()? } else { Vec::new() };
        let machines = self.machines.decide(&listen, &given, self.access.names_cids())?;
        let handshake_timeout = time("--timeout", self.timeout)?;
        if handshake_timeout.is_zero() {
            return Err(Stop::NoTime);
        }
        let tls = self.tls.decide(process::is_nbdkit(name))?;
        if !offers.fixed && tls.requires() {
            let hint = "STARTTLS needs the fixed newstyle: add 1 to the mask";
            let other = if tls.mode.is_some() { "--tls=require" } else { "--tls-verify-peer" };
            let one = "--mask-handshake";
            return Err(Stop::Together { one, other, hint });
        }
        let target = match self.log.as_str() {
            // As in nbdkit-service(1), LOGGING.
            "default" if process.background => Target::Syslog,
            "default" => Target::Default,
            "stderr" => Target::Stderr,
            "json" => Target::Json,
            "syslog" => Target::Syslog,
            "journald" => Target::Journald,
            "null" => Target::Null,
            path if path.starts_with('/') => Target::File(path.into()),
            _ => return Err(Stop::Log(self.log)),
        };
        let log = Log { target, verbose: self.verbose };
        if self.exportname.len() > EXPORT_NAME_MAX {
            return Err(Stop::LongName(self.exportname.len()));
        }
        let plugin = self.plugin.ok_or(Stop::NoPlugin)?;
        Ok(Plan {
            given,
            listen,
            plugin,
            filters: self.filter,
            params,
            read_only: self.readonly,
            access: self.access.decide()?,
            connections_per_tenant: self.access.connections_per_tenant(),
            memory: self.limits.decide()?,
            machines,
            export_name: self.exportname,
            threads: usize::try_from(self.threads).ok().filter(|threads| *threads > 0),
            io: match self.io.as_str() {
                "uring" => Io::Uring,
                "threads" => Io::Threads,
                _ => Io::Auto,
            },
            handshake_timeout,
            shutdown_timeout: time("--shutdown-timeout", self.shutdown_timeout)?,
            pid_file: self.pidfile,
            print_uri: self.print_uri,
            keep_alive: self.keepalive,
            offers,
            process,
            tls,
            log,
        })
    }

    /// The one listener of nbdkit's options, followed by those of `--listen`. nbdkit ignores some
    /// options that cannot apply (`-i` beside `-U`). They are refused here.
    fn listen_on(&self) -> Result<Vec<Address>, Stop> {
        let family = match (self.ipv4_only, self.ipv6_only) {
            (true, _) => Family::V4,
            (_, true) => Family::V6,
            _ => Family::Any,
        };
        let own_words = self.vsock || self.unix.is_some();
        for (both, one, other, hint) in [
            (
                self.vsock && self.unix.is_some(),
                "--vsock",
                "-U/--unix",
                "add the second with --listen",
            ),
            (
                self.unix.is_some() && self.port.is_some(),
                "-U/--unix",
                "-p/--port",
                "a Unix socket has no port; add a TCP listener with --listen tcp:HOST:PORT",
            ),
            (
                self.unix.is_some() && self.ipaddr.is_some(),
                "-U/--unix",
                "-i/--ipaddr",
                "add a TCP listener with --listen tcp:HOST:PORT",
            ),
            (
                self.vsock && self.ipaddr.is_some(),
                "--vsock",
                "-i/--ipaddr",
                "add a TCP listener with --listen tcp:HOST:PORT, or bind a CID with --listen vsock:CID:PORT",
            ),
        ] {
            if both {
                return Err(Stop::Together { one, other, hint });
            }
        }

        let mut addresses = Vec::new();
        let default = DEFAULT_PORT.to_string();
        let port = self.port.as_deref().unwrap_or(&default);
        let port_is =
            |source| Stop::Address { option: "-p/--port", value: port.to_owned(), source };
        if let Some(path) = &self.unix {
            addresses.push(Address::unix(path.clone()).map_err(|source| Stop::Address {
                option: "-U/--unix",
                value: path.display().to_string(),
                source,
            })?);
        } else if self.vsock {
            addresses.push(Address::vsock(port).map_err(port_is)?);
        } else if self.port.is_some()
            || self.ipaddr.is_some()
            || (self.run.is_some() && family != Family::Any)
            || (self.run.is_none() && self.listen.is_empty())
        {
            addresses.push(Address::tcp(self.ipaddr.as_deref(), port, family).map_err(port_is)?);
        } else if self.listen.is_empty() {
            // Only for the command of --run.
            addresses.push(Address::Private);
        }
        for text in &self.listen {
            let mut address: Address = text.parse().map_err(|source| Stop::Address {
                option: "--listen",
                value: text.clone(),
                source,
            })?;
            if let Address::Tcp { family: of_tcp, .. } = &mut address {
                *of_tcp = family;
            }
            if addresses.contains(&address) && !address.is_any_free() {
                return Err(Stop::Twice(address));
            }
            addresses.push(address);
        }

        let tcp = addresses.iter().any(|address| matches!(address, Address::Tcp { .. }));
        if family != Family::Any && !tcp {
            let one = if family == Family::V4 { "-4/--ipv4-only" } else { "-6/--ipv6-only" };
            let other = match (own_words, self.vsock) {
                (true, true) => "--vsock",
                (true, false) => "-U/--unix",
                _ => "--listen without TCP",
            };
            return Err(Stop::Together {
                one,
                other,
                hint: "leave the first out: it is about TCP",
            });
        }
        Ok(addresses)
    }
}

fn time(option: &'static str, value: String) -> Result<Duration, Stop> {
    parse_duration(&value).map_err(|source| Stop::Time { option, value, source })
}
