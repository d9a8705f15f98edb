//! `probe`: reports why vsock does not work here and how to fix it, and whether a connection works.

use std::{
    os::fd::{AsFd, AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

use clap::Args;
use doctor::{Finding, Verdict, guest};
use human::{chain, parse_duration, print_size};
use nbd::{Uri, uri::Place};
use nbd_client::{ClientError, Connector, dial::DialError};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
    },
};
use serde_json::{Value, json};

use super::{
    CommandError,
    print::{print, print_json},
};
use crate::target::Target;

const EXAMPLES: &str = "\
Examples:
  guest-tools probe                            can this guest reach its host's disk?
  guest-tools probe --wait 30s                 at boot, when modules and devices come late
  guest-tools probe nbd+vsock://2:10810/ --json

For TCP and Unix sockets only the connection is looked at.

Keys of --json: uri, works (true or false), waited (seconds), findings: a list with id (device, driver,
socket, node, cid, transports, connect, server, export), verdict (ok, warning, fault), evidence,
meaning, hint (or null).

Exit codes: 0 when a connection works and a server greets on it; else 1.";

/// How long to wait for a kernel event before checking again: at first, and at most.
const NAP: Duration = Duration::from_millis(50);
const LONGEST_NAP: Duration = Duration::from_secs(1);

const UNTRIED: &str = "no connection was tried";

/// How long to wait for the rest of a burst of events, in milliseconds.
const BURST: u16 = 20;

/// What was said.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Probe {
    #[command(flatten)]
    target: Target,
    /// Go on trying so long until a connection works, such as 500ms, 30s or 2m
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse_duration)]
    wait: Duration,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(words: &Probe, connector: &Connector) -> Result<(), CommandError> {
    let uri = &words.target.uri;
    let begun = Instant::now();
    let news = uevents();
    let mut nap = NAP;
    let connection = loop {
        let connection = connect(connector, uri);
        let left = words.wait.saturating_sub(begun.elapsed());
        if works(&connection) || left.is_zero() || is_hopeless(&connection) {
            break connection;
        }
        wait_for_news(news.as_ref(), nap.min(left));
        nap = LONGEST_NAP.min(nap * 2);
    };
    let works = works(&connection);
    let waited = begun.elapsed().as_secs_f64();
    let mut findings = match uri.place {
        Place::Vsock { .. } => guest::examine(),
        _ => Vec::new(),
    };
    findings.extend(connection);
    if words.json {
        print_json(&json!({
            "uri": uri.to_string(),
            "works": works,
            "waited": (waited * 1e3).round() / 1e3,
            "findings": findings.iter().map(in_json).collect::<Value>(),
        }))?;
    } else {
        print(&findings.iter().map(Finding::to_string).collect::<String>())?;
    }
    let fault = findings.into_iter().rfind(|finding| finding.verdict == Verdict::Fault);
    match fault.filter(|_| !works) {
        Some(fault) => {
            let (uri, why) = (uri.to_string(), fault.evidence);
            Err(CommandError::Unreachable { uri, why })
        }
        None => Ok(()),
    }
}

fn in_json(finding: &Finding) -> Value {
    let Finding { id, verdict, evidence, meaning, hint, .. } = finding;
    json!({
        "id": id, "verdict": verdict.word(), "evidence": evidence, "meaning": meaning,
        "hint": hint.as_ref().map(ToString::to_string),
    })
}

/// Whether a server sent its greeting. Whether it opens the export does not matter.
fn works(connection: &[Finding]) -> bool {
    connection.iter().all(|finding| finding.verdict != Verdict::Fault)
}

/// Whether no connection was tried. Waiting does not correct a wrong address.
fn is_hopeless(connection: &[Finding]) -> bool {
    connection.iter().any(|finding| finding.meaning == UNTRIED)
}

/// Connects and reports the findings.
fn connect(connector: &Connector, uri: &Uri) -> Vec<Finding> {
    let connected = || {
        Finding::bare("connect", Verdict::Ok, format!("{uri} takes connections"))
            .meaning("the way there is open")
    };
    let greeted = || Finding::bare("server", Verdict::Ok, "it speaks NBD");
    match connector.describe(uri) {
        Ok(server) => {
            let size = server.exports.first().and_then(|export| export.described.as_ref().ok());
            let size = print_size(size.map_or(0, |described| described.size));
            let export = Finding::bare("export", Verdict::Ok, format!("{:?}: {size}", uri.export));
            vec![connected(), greeted(), export.meaning("the disk is there")]
        }
        Err(ClientError::Dial(DialError::Connect { hint, source, .. })) => {
            vec![
                Finding::bare("connect", Verdict::Fault, format!("{uri}: {source}"))
                    .meaning("no connection")
                    .hint(hint),
            ]
        }
        Err(ClientError::Dial(error @ DialError::Resolve { .. })) => {
            vec![
                Finding::bare("connect", Verdict::Fault, chain(&error).to_string())
                    .meaning("no connection")
                    .hint("check the name, and whether this machine has a network"),
            ]
        }
        Err(ClientError::Dial(error)) => {
            vec![
                Finding::bare("connect", Verdict::Fault, chain(&error).to_string())
                    .meaning(UNTRIED)
                    .hint("see the addresses in 'guest-tools --help'"),
            ]
        }
        Err(ClientError::Refused { source, .. }) => {
            let refused = Finding::bare("export", Verdict::Warning, source.to_string())
                .meaning(format!(
                    "the server does not open the export {:?} for this guest",
                    uri.export
                ))
                .hint("'guest-tools list' names those that it has; the agent's log says why");
            vec![connected(), greeted(), refused]
        }
        Err(error @ (ClientError::Closed { .. } | ClientError::Lost { .. })) => {
            let closed = Finding::bare("server", Verdict::Fault, chain(&error).to_string())
                .meaning("the connection was taken and ended before a greeting: a rule of the server may refuse this guest, or no server stands behind the listener")
                .hint("the agent's log on the host names each connection that it refused, and the rule");
            vec![connected(), closed]
        }
        Err(error) => {
            let other = Finding::bare("server", Verdict::Fault, chain(&error).to_string())
                .meaning("what listens there is no NBD server that can be used")
                .hint("check the port, and the server's version");
            vec![connected(), other]
        }
    }
}

/// A socket for the kernel's events about modules and devices. Without it, only time ends the wait.
fn uevents() -> Option<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let protocol = SockProtocol::NetlinkKObjectUEvent;
    let fd = socket(AddressFamily::Netlink, SockType::Datagram, flags, protocol).ok()?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 1)).ok()?;
    Some(fd)
}

/// Returns at the next event or after `nap`.
fn wait_for_news(news: Option<&OwnedFd>, nap: Duration) {
    let mut fds: Vec<_> =
        news.iter().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)).collect();
    let nap = PollTimeout::try_from(nap).unwrap_or(PollTimeout::ZERO);
    // A signal ends the wait early, which costs one more check.
    let told = poll(&mut fds, nap).is_ok_and(|ready| ready > 0);
    if told {
        // Events come in bursts.
        poll(&mut [], BURST).ok();
    }
    let mut piece = [0; 4096];
    while news.is_some_and(|fd| recv(fd.as_raw_fd(), &mut piece, MsgFlags::empty()).is_ok()) {}
}
