//! From a fresh stream to an opened export, or to the end.
//!
//! Feeds the negotiation's machine, answers its questions from the exports, keeps the deadline.
//! Until it is through, a peer has one small buffer and no disk but the one it asked for last.

use std::{
    future,
    io::{self, IoSliceMut},
    sync::Arc,
    time::Duration,
};

use nbd::{
    Buffer,
    negotiate::{Ask, AskExport, Ending, Negotiated, Offers, Purpose, Server, Step, Tls},
};
use tokio::{sync::watch, time::timeout};

use super::{
    End, Life, Rules,
    authorize::{Gates, Unopened},
    contexts::FencingToken,
    fencing::Fenced,
    opening::{Told, Waiting, departed, describe},
    protocol::Negotiation,
    standing::{Shown, Standing},
    stream::Stream,
};
use crate::{
    exports::{Covers, Opening},
    tenant::Account,
    tls::Policy,
};
use disk::Disk;

/// Holds the longest option that is taken (8 KiB) and its header.
const BUFFER: usize = 12 * 1024;

/// How long a client that is negotiating when the agent goes away has for its next option.
const FAREWELL: Duration = Duration::from_millis(500);

/// A negotiation that came to an export.
pub(super) struct Opened {
    pub(super) stream: Stream,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) negotiated: Negotiated,
    pub(super) opening: Opening,
    /// By the client's word for it.
    pub(super) export: String,
    /// What came behind the negotiation's last byte.
    pub(super) received: Vec<u8>,
    /// The client has named itself.
    pub(super) fenced: Option<Arc<Fenced>>,
}

/// Negotiates within the deadline.
pub(super) async fn run(
    stream: Stream,
    rules: &Rules,
    opening: Opening,
    life: watch::Receiver<Life>,
    standing: Option<&mut Standing>,
) -> Result<Opened, Unopened> {
    let deadline = rules.handshake_timeout;
    let mut gates = Gates::new(rules);
    let shown = Shown::new();
    if !rules.tls.is_on() {
        shown.set(None).ok();
    }
    let denied = Standing::denied(standing, rules, opening.clone(), &shown);
    let haggling = haggle(stream, rules, opening, life, &mut gates, &shown);
    tokio::select! {
        biased;
        denied = denied => {
            Err(Unopened { end: End::Denied { denied, export: None }, asked: None })
        }
        end = timeout(deadline, haggling) => {
            end.unwrap_or(Err(End::TooSlow)).map_err(|end| gates.end(end))
        }
    }
}

async fn haggle(
    mut stream: Stream,
    rules: &Rules,
    mut opening: Opening,
    mut life: watch::Receiver<Life>,
    gates: &mut Gates<'_>,
    certificate: &Shown,
) -> Result<Opened, End> {
    let mut out = Vec::new();
    let offers = Offers { tls: offer(&rules.tls), ..rules.offers };
    let mut server = Server::start(offers, &mut out);
    let mut shown = Negotiation::new(opening.connection);
    let mut buffer = Buffer::new(vec![0; BUFFER].into());
    // The export that was asked about last: an INFO and the GO after it open it once.
    let mut last: Option<(String, Arc<dyn Disk>)> = None;
    let mut fenced: Option<Arc<Fenced>> = None;
    let mut told = Told::default();
    // What a long answer takes, until it is sent.
    let mut memory = Account::new(Arc::clone(&opening.tenant));
    // The machine has eaten all it can of the buffer. After an answer that is not so: the client may have
    // sent several options at once.
    let mut hungry = true;
    loop {
        shown.server(&out);
        send(&mut stream, &mut out).await?;
        memory.release_to(0);
        // Each piece of work is a poll, and each poll is one of the tenant's turns (`turns::within`).
        tokio::task::yield_now().await;
        tokio::select! {
            biased;
            end = followed(fenced.as_deref()) => return Err(end),
            received = receive(&mut stream, &mut buffer, &mut server, &mut life), if hungry => received?,
            () = future::ready(()), if !hungry => drop(look(&mut server, &mut life)?),
        }
        let (eaten, mut step) = server.step(buffer.filled(), &mut out);
        hungry = matches!(step, Step::Feed(_));
        shown.client(&buffer.filled()[..eaten]);
        buffer.consume(eaten);
        server = loop {
            step = match step {
                Step::Feed(server) => break server,
                Step::Ask(Ask::List(ask)) => {
                    let permit = match gates.authorize(&opening, Covers::List) {
                        Ok(permit) => permit,
                        Err(refusal) => {
                            step = ask.refuse(&refusal, &mut out);
                            continue;
                        }
                    };
                    let (stream, buffer, life) = (&mut stream, &mut buffer, &mut life);
                    let waiting = Waiting { stream, buffer, life, told: &mut told };
                    match waiting.list(&*rules.exports, &permit, &mut memory).await? {
                        Ok(list) => {
                            let list = list.iter();
                            let list = list.map(|one| (&*one.name, one.description.as_deref()));
                            ask.answer(Ok(list), &mut out)
                        }
                        Err(refusal) => ask.refuse(&refusal, &mut out),
                    }
                }
                Step::Ask(Ask::Export(ask)) => {
                    let name = ask.name().to_owned();
                    let covers = Covers::Export(name.clone());
                    let permit = match gates.authorize(&opening, covers) {
                        Ok(permit) => permit,
                        Err(refusal) => {
                            step = ask.answer(Err(refusal), &mut out);
                            continue;
                        }
                    };
                    // Another one is closed before this one is opened: it may be the same disk.
                    let same = last.take().filter(|(of, _)| *of == name);
                    let disk = if let Some((_, disk)) = same {
                        disk
                    } else {
                        let (stream, buffer, life) = (&mut stream, &mut buffer, &mut life);
                        let waiting = Waiting { stream, buffer, life, told: &mut told };
                        match waiting.open(&*rules.exports, &permit).await? {
                            Ok(disk) => disk,
                            Err(refusal) => {
                                gates.refused(&refusal);
                                step = ask.answer(Err(refusal), &mut out);
                                continue;
                            }
                        }
                    };
                    let mut export = describe(&disk.info(), rules.read_only);
                    last = Some((name, disk));
                    if let Some(fencing) = claimed(&ask) {
                        // Drop this client's previous registration first; otherwise it would wait for
                        // itself.
                        drop(fenced.take());
                        fenced = tokio::select! {
                            fenced = follow(rules, fencing, &mut life) => fenced?,
                            end = departed(&mut stream, &mut buffer) => return Err(end),
                        };
                        if fenced.is_some() {
                            export.contexts.push(fencing.granted());
                        }
                    }
                    ask.answer(Ok(export), &mut out)
                }
                Step::StartTls(start) => {
                    shown.server(&out);
                    send(&mut stream, &mut out).await?;
                    stream = secure(stream, rules, &life).await?;
                    opening.tls = true;
                    opening.certificate = stream.certificate();
                    certificate.set(opening.certificate.clone()).ok();
                    // What was opened, and who it was, is of whoever asked in plain text.
                    last = None;
                    fenced = None;
                    break start.secured();
                }
                Step::Done(negotiated) => {
                    shown.server(&out);
                    send(&mut stream, &mut out).await?;
                    let Some((export, disk)) = last else {
                        tracing::error!("our bug: a negotiation ended without an export");
                        return Err(End::Cut);
                    };
                    return Ok(Opened {
                        stream,
                        disk,
                        negotiated,
                        opening,
                        export,
                        received: buffer.filled().to_vec(),
                        fenced,
                    });
                }
                Step::End(ending) => {
                    shown.server(&out);
                    // The session ends one way or the other: a failed send changes nothing.
                    send(&mut stream, &mut out).await.ok();
                    drop(last);
                    stream.wire().release();
                    stream.finish_sending();
                    super::linger(stream.wire()).await;
                    return Err(match ending {
                        Ending::Aborted => End::Aborted,
                        Ending::ShutDown => End::ShutDown,
                        Ending::Refused(refusal) => End::Refused(refusal),
                        Ending::Violation(violation) => End::Violation(violation),
                    });
                }
            };
        };
    }
}

/// The connections that this one claims to replace.
fn claimed(ask: &AskExport) -> Option<FencingToken> {
    match ask.purpose() {
        Purpose::ListContexts => ask.queries().into_iter().find_map(FencingToken::parse),
        _ => None,
    }
}

/// Waits until nothing of the client's older connections is under way any more.
async fn follow(
    rules: &Rules,
    fencing: FencingToken,
    life: &mut watch::Receiver<Life>,
) -> Result<Option<Arc<Fenced>>, End> {
    tokio::select! {
        fenced = rules.fencing.follow(fencing) => Ok(fenced),
        _ = life.wait_for(|life| *life == Life::Ending) => Err(End::Cut),
    }
}

/// Waits until the client has come back on another connection; for ever if it has not named itself.
async fn followed(fenced: Option<&Fenced>) -> End {
    match fenced {
        Some(fenced) => End::Revoked(fenced.revocation().revoked().await),
        None => future::pending().await,
    }
}

fn offer(policy: &Policy) -> Tls {
    match policy {
        Policy::Off => Tls::Off,
        Policy::On(_) => Tls::On,
        Policy::Require(_) => Tls::Require,
    }
}

/// Takes the handshake. When the agent goes away there is no way to tell the client before it is
/// through.
async fn secure(
    stream: Stream,
    rules: &Rules,
    life: &watch::Receiver<Life>,
) -> Result<Stream, End> {
    let (Stream::Plain(socket), Some(acceptor)) = (stream, rules.tls.acceptor()) else {
        tracing::error!("our bug: TLS was started twice, or without certificates");
        return Err(End::Cut);
    };
    let mut life = life.clone();
    let leaving = async {
        // An error: the agent is gone.
        let draining = life.wait_for(|life| *life != Life::Serving).await;
        if draining.is_ok_and(|life| *life == Life::Draining) {
            let ending = life.wait_for(|life| *life == Life::Ending);
            return match timeout(FAREWELL, ending).await {
                Ok(_) => End::Cut,
                Err(_) => End::ShutDown,
            };
        }
        End::Cut
    };
    tokio::select! {
        secure = Stream::secure(socket, &acceptor) => secure.map_err(End::Tls),
        end = leaving => Err(end),
    }
}

async fn send(stream: &mut Stream, out: &mut Vec<u8>) -> Result<(), End> {
    stream.send_all(out).await.map_err(|error| End::from_send(&error))?;
    out.clear();
    // After a long answer nothing so long may come for long.
    out.shrink_to(BUFFER);
    Ok(())
}

/// Waits for bytes. When the agent goes away, a client is told with the answer to its next option;
/// one that has none does not hold the agent up.
async fn receive(
    stream: &mut Stream,
    buffer: &mut Buffer,
    server: &mut Server,
    life: &mut watch::Receiver<Life>,
) -> Result<(), End> {
    loop {
        let patience = match look(server, life)? {
            Life::Serving => Duration::MAX,
            _ => FAREWELL,
        };
        match stream.try_recv(&mut [IoSliceMut::new(buffer.spare())]) {
            Ok(0) if buffer.is_empty() => return Err(End::Closed),
            Ok(0) => return Err(End::ClosedInside),
            Ok(n) => {
                buffer.added(n);
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(End::from_receive(&error)),
        }
        tokio::select! {
            ready = stream.readable() => ready.map_err(|error| End::from_receive(&error))?,
            Ok(()) = life.changed() => life.mark_changed(),
            () = tokio::time::sleep(patience), if patience < Duration::MAX => {
                return Err(End::ShutDown);
            }
        }
    }
}

/// Has the machine refuse further options when the agent goes away.
fn look(server: &mut Server, life: &mut watch::Receiver<Life>) -> Result<Life, End> {
    let life = *life.borrow_and_update();
    match life {
        Life::Serving => {}
        Life::Draining => server.drain(),
        Life::Ending => return Err(End::Cut),
    }
    Ok(life)
}
