//! One client from accept to the end: negotiate, transmit, close, and the audit line.
//!
//! `serve` calls `run` with what a listener gave.

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

pub use self::fencing::Fencing;
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

/// What all sessions of an agent share.
#[derive(Debug)]
pub struct Rules {
    pub exports: Arc<dyn Exports>,
    /// Asked in this order before a client is sent a byte.
    pub gates: Vec<Arc<dyn Gate>>,
    /// Told when a gate has other rules; `None` where none can have.
    pub changes: Option<Changes>,
    /// Clients that may come back.
    pub fencing: Arc<Fencing>,
    /// Whom connections are charged to.
    pub tenants: Arc<Tenants>,
    /// Connections so far.
    pub connections: AtomicU64,
    /// From accept to the end of the negotiation; `--timeout`.
    pub handshake_timeout: Duration,
    /// What clients may negotiate.
    pub offers: Offers,
    /// Refuse every write; `--readonly`.
    pub read_only: bool,
    /// Most requests of a connection that are out at once (`--threads`); at least 1.
    pub threads: Option<usize>,
    /// What STARTTLS comes to; `--tls`.
    pub tls: tls::Policy,
}

/// Where the agent is in its life, as its sessions need to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Life {
    Serving,
    /// Nothing new: answer ERR_SHUTDOWN to options; finish what is in flight, flush, close.
    Draining,
    /// Close now.
    Ending,
}

/// How a session ended; for the audit line.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// It was not let in: it was sent nothing, or not `export`, nor anything else.
    Denied { denied: Denied, export: Option<String> },
    /// The client said so: NBD_CMD_DISC.
    Disconnected,
    /// The client said so while negotiating: NBD_OPT_ABORT.
    Aborted,
    /// It asked for an export in a way that can only be refused by closing: NBD_OPT_EXPORT_NAME.
    Refused(Refusal),
    /// The client closed without a word.
    Closed,
    /// The client closed in the middle of a message.
    ClosedInside,
    /// The negotiation took longer than it may.
    TooSlow,
    /// The client broke the protocol.
    Violation(Violation),
    /// The handshake of TLS failed, or what came inside it was not the client's.
    Tls(tls::Failure),
    /// The client did not send the rest of a request in time.
    Stalled,
    /// The client sent a write of so many bytes, and the disk endures none so long.
    TooLong(u64),
    /// The connection failed.
    Failed(io::ErrorKind),
    /// The agent went away, after finishing what was in flight.
    ShutDown,
    /// The agent went away, and this session took too long to finish.
    Cut,
    /// What let the client in came to its end, for this reason.
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

/// What a session carried; for the audit line.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// Requests, refused ones too.
    pub requests: u64,
    /// Bytes read successfully.
    pub read: u64,
    /// Bytes written successfully.
    pub written: u64,
    /// Requests that a disk could not do.
    pub failed: u64,
}

/// What the session's line says of it beside its end.
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

/// Runs one session on a connected stream. `stream` may be blocking or not: it is made non-blocking
/// here. Ends soon after `life` says so.
pub async fn run(
    stream: Accepted,
    peer: Peer,
    rules: Arc<Rules>,
    life: watch::Receiver<Life>,
) -> End {
    let standing = Standing::new(&rules);
    let label = stream.label();
    let Admission { tenant, passes } = authorize::admit(&rules, &peer, label.as_deref());
    // All that is logged from here on is caused by the client.
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

/// From the gates to the line about the session.
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
        // It is said by the end already where that is the refusal.
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

/// From the gates to the end.
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
    // Each pass is a place that this connection takes. Who comes again when it sees the end of this
    // one finds the place free.
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

/// From the first byte to the end.
async fn serve(
    socket: Transport,
    rules: &Rules,
    (opening, mut standing): (Opening, Option<Standing>),
    life: watch::Receiver<Life>,
    audit: &mut Audit,
) -> End {
    let tenant = Arc::clone(&opening.tenant);
    let negotiating = negotiate::run(socket, rules, opening, life.clone(), standing.as_mut());
    // In a box, which is gone when the transmission begins.
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
