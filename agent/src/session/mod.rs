//! One session: a client's connection from accept to its end. The session negotiates, transmits and closes, and the log
//! gets one line about it.
//!
//! `serve` calls `run` with each `Accepted` of a listener.

mod authorize;
mod blocking;
mod busy_poll;
mod contexts;
mod end;
mod errno;
mod fencing;
mod negotiate;
mod opening;
mod operation;
mod protocol;
mod revocable;
mod rules;
mod serial;
mod standing;
#[cfg(test)]
mod testing;
mod traffic;
mod transmit;
mod turns;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use tokio::sync::watch;

use self::{
    authorize::{Admission, Asked, Unopened},
    blocking::Blocking,
    revocable::revoked,
    standing::Standing,
    transmit::{Failures, Transmission},
};
pub(crate) use self::{
    end::{End, Life},
    rules::Rules,
    traffic::Traffic,
};
use crate::{
    access::{Denied, Pass},
    exports::Opening,
    listen::Accepted,
    peer::Peer,
    transport::{Transport, Wire},
};

/// What the session's line in the log contains beside its end.
#[derive(Debug, Default)]
struct Audit {
    asked: Option<Asked>,
    traffic: Traffic,
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
