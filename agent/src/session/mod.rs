//! One session: a client's connection from accept to its end. The session negotiates, transmits and closes, and the log
//! gets one line about it.
//!
//! `serve` calls `run` with each `Accepted` of a listener.

mod authorize;
mod blocking;
mod busy_poll;
mod contexts;
mod errno;
mod fencing;
mod negotiate;
mod opening;
mod protocol;
mod revocable;
mod serial;
mod standing;
#[cfg(test)]
mod testing;
mod transmit;
mod turns;

use std::{
    fmt,
    io::{self},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use nbd::{Refusal, Violation, negotiate::Offers, transmit::Checked};
use tokio::sync::watch;

pub(crate) use self::fencing::Fencing;
use self::{
    authorize::{Admission, Asked, Unopened},
    blocking::Blocking,
    revocable::revoked,
    standing::Standing,
    transmit::{Failures, Transmission},
};
use crate::{
    access::{Changes, Denied, Gate, Pass},
    exports::{Exports, Opening},
    listen::Accepted,
    peer::Peer,
    tenant::Tenants,
    tls,
    transport::{self, Transport, Wire},
};

/// The configuration and state that all sessions of an agent share.
#[derive(Debug)]
pub(crate) struct Rules {
    pub exports: Arc<dyn Exports>,
    /// Asked in this order before the agent sends a byte.
    pub gates: Vec<Arc<dyn Gate>>,
    /// Notifies sessions when the rules of a gate change. `None` if no gate's rules can change.
    pub changes: Option<Changes>,
    /// Clients that may reconnect.
    pub fencing: Arc<Fencing>,
    /// The tenants that connections are charged to.
    pub tenants: Arc<Tenants>,
    /// Connections since the start, for their numbers.
    pub connections: AtomicU64,
    /// The longest time from accept to the end of the negotiation; `--timeout`.
    pub handshake_timeout: Duration,
    /// The features that clients may negotiate.
    pub offers: Offers,
    /// Refuse every write; `--readonly`.
    pub read_only: bool,
    /// The maximum of requests per connection that disks and other threads work on at once (`--threads`); at least 1.
    /// `None` for the defaults of `blocking`.
    pub threads: Option<usize>,
    /// How NBD_OPT_STARTTLS is answered; `--tls`.
    pub tls: tls::Policy,
}

/// The phase of the agent's life. It only advances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Life {
    Serving,
    /// Accept nothing new: answer options with ERR_SHUTDOWN, finish the requests in flight, flush, close.
    Draining,
    /// Close now.
    Ending,
}

/// How a session ended; for the audit line.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum End {
    /// Access was denied by a gate or by a limit on connections. `export` is set if the denial was for one export.
    Denied { denied: Denied, export: Option<String> },
    /// The client sent NBD_CMD_DISC.
    Disconnected,
    /// The client sent NBD_OPT_ABORT.
    Aborted,
    /// The client asked for an export by NBD_OPT_EXPORT_NAME, which can be refused only by closing.
    Refused(Refusal),
    /// The client closed without announcing it.
    Closed,
    /// The client closed in the middle of a message.
    ClosedInside,
    /// The negotiation exceeded `handshake_timeout`.
    TooSlow,
    /// The client broke the protocol.
    Violation(Violation),
    /// The TLS handshake failed, or the data inside TLS did not come from the client.
    Tls(tls::Failure),
    /// The client did not send the rest of a request in time.
    Stalled,
    /// The client sent a write of this many bytes, which the disk's `write_cutoff` does not allow.
    TooLong(u64),
    /// The connection failed.
    Failed(io::ErrorKind),
    /// The agent shut down after it had finished the requests in flight.
    ShutDown,
    /// The agent shut down, and this session took too long to finish.
    Cut,
    /// The client's permission to stay ended, for this reason.
    Revoked(Arc<str>),
}

impl End {
    fn from_receive(error: &io::Error) -> Self {
        match transport::failure(error) {
            Some(failure) => Self::Tls(failure),
            None => Self::Failed(error.kind()),
        }
    }

    /// A client that is gone is not an error of the connection.
    fn from_send(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Self::Closed,
            kind => Self::Failed(kind),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied { denied, .. } => write!(f, "was denied: {denied}"),
            Self::Disconnected => f.write_str("disconnected"),
            Self::Aborted => f.write_str("aborted the negotiation"),
            Self::Refused(refusal) => write!(f, "was refused: {refusal}"),
            Self::Closed => f.write_str("closed the connection"),
            Self::ClosedInside => f.write_str("closed in the middle of a message"),
            Self::TooSlow => f.write_str("did not finish negotiating in time"),
            Self::Violation(violation) => write!(f, "broke the protocol: {violation}"),
            Self::Tls(failure) => write!(f, "TLS failed: {failure}"),
            Self::Stalled => f.write_str("cut off: the rest of a request did not come in time"),
            Self::TooLong(len) => write!(f, "cut off: a write of {len} bytes is too long here"),
            Self::Failed(kind) => write!(f, "connection failed: {kind}"),
            Self::ShutDown => f.write_str("shut down"),
            Self::Cut => f.write_str("cut off at shutdown"),
            Self::Revoked(why) => write!(f, "cut off: {why}"),
        }
    }
}

/// Counts of a session's requests and bytes; for the audit line.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Traffic {
    /// Requests, including refused ones.
    pub requests: u64,
    /// Bytes read successfully.
    pub read: u64,
    /// Bytes written successfully.
    pub written: u64,
    /// Requests that failed in a disk or for lack of memory.
    pub failed: u64,
}

/// What the session's line in the log contains beside its end.
#[derive(Debug, Default)]
struct Audit {
    asked: Option<Asked>,
    traffic: Traffic,
}

impl Traffic {
    fn count(&mut self, checked: Checked) {
        match checked {
            Checked::Read { len, .. } => self.read += u64::from(len),
            Checked::Write { len, .. } => self.written += u64::from(len),
            _ => {}
        }
    }
}

/// Runs one session on a connected stream and returns how it ended. `stream` may be blocking or not: it is made
/// non-blocking here. The session ends soon after `life` becomes `Draining` or `Ending`.
pub(crate) async fn run(
    stream: Accepted,
    peer: Peer,
    rules: Arc<Rules>,
    life: watch::Receiver<Life>,
) -> End {
    let standing = Standing::new(&rules);
    let label = stream.label();
    let Admission { tenant, passes } = authorize::admit(&rules, &peer, label.as_deref());
    // From here on the client causes all log lines, and its tenant is charged for them.
    let log = Arc::clone(tenant.log());
    let opening = Opening {
        peer,
        label,
        connection: rules.connections.fetch_add(1, Ordering::Relaxed) + 1,
        read_only: rules.read_only,
        tls: false,
        certificate: None,
        tenant,
    };
    log.charge(Box::pin(logged(stream, rules, life, opening, passes, standing))).await
}

/// Runs the session after the gates have decided, and logs its line.
async fn logged(
    stream: Accepted,
    rules: Arc<Rules>,
    life: watch::Receiver<Life>,
    opening: Opening,
    passes: Result<Vec<Pass>, Denied>,
    standing: Option<Standing>,
) -> End {
    let peer = opening.peer.clone();
    let started = Instant::now();
    let mut audit = Audit::default();
    let end = match passes {
        Ok(passes) => {
            let opening = (opening, standing);
            admitted(stream, &rules, life, opening, passes, &mut audit).await
        }
        Err(denied) => End::Denied { denied, export: None },
    };
    if let End::Denied { denied, export } = &end {
        let export = export.as_deref().unwrap_or("-");
        tracing::warn!(%peer, export, rule = %denied, "refused");
        return end;
    }
    let Audit { asked, traffic } = audit;
    let refused = asked.as_ref().and_then(|asked| asked.refused.as_deref());
    tracing::info!(
        %peer,
        export = asked.as_ref().map_or("-", |asked| &asked.export),
        // `End::Refused` contains the refusal already.
        refused = refused.filter(|_| !matches!(end, End::Refused(_))),
        requests = traffic.requests,
        read = traffic.read,
        written = traffic.written,
        failed = traffic.failed,
        seconds = started.elapsed().as_secs(),
        %end,
        "session"
    );
    end
}

/// Runs an admitted session to its end.
async fn admitted(
    stream: Accepted,
    rules: &Rules,
    life: watch::Receiver<Life>,
    (opening, standing): (Opening, Option<Standing>),
    passes: Vec<Pass>,
    audit: &mut Audit,
) -> End {
    let place = match opening.tenant.connect() {
        Ok(place) => place,
        Err(full) => {
            return End::Denied { denied: Denied::new(full.to_string()), export: None };
        }
    };
    let revocation = passes.iter().find_map(Pass::revocation).cloned();
    // Each pass is a place that this connection takes. The place is freed before the client can see the end of the
    // connection, so a client that reconnects then finds it free.
    let socket = match Wire::new(stream, (passes, place)) {
        Ok(wire) => Transport::Plain(wire),
        Err(error) => return End::Failed(error.kind()),
    };
    let serving = async |life| serve(socket, rules, (opening, standing), life, audit).await;
    match revocation {
        Some(revocation) => revocable::run(serving, life, revoked(revocation)).await,
        None => serving(life).await,
    }
}

/// Negotiates and then transmits, to the end of the session.
async fn serve(
    socket: Transport,
    rules: &Rules,
    (opening, mut standing): (Opening, Option<Standing>),
    life: watch::Receiver<Life>,
    audit: &mut Audit,
) -> End {
    let tenant = Arc::clone(&opening.tenant);
    let negotiating = negotiate::run(socket, rules, opening, life.clone(), standing.as_mut());
    // Boxed, so that its memory is freed before the transmission begins.
    let opened = match turns::within(&tenant, Box::pin(negotiating)).await {
        Ok(opened) => opened,
        Err(Unopened { end, asked }) => {
            audit.asked = asked;
            return end;
        }
    };
    let opening = &opened.opening;
    let Opening { connection, tls, ref peer, .. } = *opening;
    if let Some(denied) = Standing::denies(standing.as_ref(), rules, opening) {
        return End::Denied { denied, export: Some(opened.export) };
    }
    tracing::info!(connection, %peer, export = opened.export, tls, "opened");
    audit.asked = Some(Asked { export: opened.export.clone(), refused: None });
    let failures =
        Failures { peer: peer.clone(), export: opened.export, tenant: Arc::clone(&tenant) };
    let fenced = opened.fenced;
    let blocking = Blocking::new(tenant, rules.threads, Arc::clone(&opened.disk), fenced.clone());
    let transmission = Box::new(Transmission::new(
        connection,
        opened.stream,
        opened.disk,
        opened.negotiated,
        &opened.received,
        blocking,
        failures,
    ));
    drop(opened.received);
    let transmit = async |life| {
        let (end, carried) = transmission.run(life).await;
        audit.traffic = carried;
        end
    };
    let judged = async |life| match standing {
        Some(standing) => revocable::run(transmit, life, standing.over(rules, opening)).await,
        None => transmit(life).await,
    };
    match fenced {
        Some(fenced) if fenced.begin() => {
            revocable::run(judged, life, revoked(fenced.revocation())).await
        }
        Some(_) => End::Revoked(fencing::FOLLOWED.into()),
        None => judged(life).await,
    }
}
