//! Negotiates on a fresh stream, up to an opened export or to the end of the session.
//!
//! It feeds `nbd::negotiate::Server`, answers its questions from the exports, and keeps the deadline. Until the
//! negotiation has finished, a peer has one small buffer and no disk but the one that it asked for last.

mod incoming;
mod tls;

use std::{future, sync::Arc};

use agent_contexts::FencingToken;
use nbd::{
    Buffer,
    negotiate::{Ask, AskExport, AskList, Ending, Negotiated, Offers, Purpose, Server, Step},
};
use tokio::{sync::watch, time::timeout};

use self::{
    incoming::{look, receive},
    tls::{offer, secure},
};
use super::{
    authorize::{Gates, Unopened},
    contexts,
    end::{End, Life},
    fencing::Fenced,
    opening::{Told, Waiting, departed, describe},
    protocol::Negotiation,
    rules::Rules,
    standing::{Shown, Standing},
};
use crate::{
    exports::{Covers, Opening},
    tenant::Account,
    transport::Transport,
};
use disk::Disk;

/// Bytes of the receive buffer: it holds the longest option that is accepted (8 KiB) and its header.
const BUFFER: usize = 12 * 1024;

/// The result of a negotiation that ended with an export.
pub(super) struct Opened {
    pub(super) stream: Transport,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) negotiated: Negotiated,
    pub(super) opening: Opening,
    /// The export's name, as the client gave it.
    pub(super) export: String,
    /// What was received after the last byte of the negotiation.
    pub(super) received: Vec<u8>,
    /// Set if the client sent a fencing token.
    pub(super) fenced: Option<Arc<Fenced>>,
}

/// Negotiates within `handshake_timeout`.
pub(super) async fn run(
    stream: Transport,
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
    let answering = Answering::new(rules, opening, life, &mut gates, &shown).run(stream);
    tokio::select! {
        biased;
        denied = denied => {
            Err(Unopened { end: End::Denied { denied, export: None }, asked: None })
        }
        end = timeout(deadline, answering) => {
            end.unwrap_or(Err(End::TooSlow)).map_err(|end| gates.end(end))
        }
    }
}

/// A negotiation under way, and what is needed to answer the client's questions. The stream is passed separately,
/// because TLS replaces it.
struct Answering<'a, 'r> {
    rules: &'r Rules,
    gates: &'a mut Gates<'r>,
    certificate: &'a Shown,
    opening: Opening,
    life: watch::Receiver<Life>,
    buffer: Buffer,
    /// Replies that have not been sent.
    out: Vec<u8>,
    shown: Negotiation,
    /// The export of the last question. It is kept open, so that an INFO and the GO after it open it once.
    last: Option<(String, Arc<dyn Disk>)>,
    fenced: Option<Arc<Fenced>>,
    told: Told,
    /// Covers the memory of a long answer until it is sent.
    memory: Account,
}

impl<'a, 'r> Answering<'a, 'r> {
    fn new(
        rules: &'r Rules,
        opening: Opening,
        life: watch::Receiver<Life>,
        gates: &'a mut Gates<'r>,
        certificate: &'a Shown,
    ) -> Self {
        let shown = Negotiation::new(opening.connection);
        let memory = Account::new(Arc::clone(&opening.tenant));
        Self {
            rules,
            gates,
            certificate,
            opening,
            life,
            buffer: Buffer::new(vec![0; BUFFER].into()),
            out: Vec::new(),
            shown,
            last: None,
            fenced: None,
            told: Told::default(),
            memory,
        }
    }

    async fn run(mut self, mut stream: Transport) -> Result<Opened, End> {
        let offers = Offers { tls: offer(&self.rules.tls), ..self.rules.offers };
        let mut server = Server::start(offers, &mut self.out);
        // Whether the state machine needs more bytes. After an answer it may not need any: the client may have sent
        // several options at once.
        let mut hungry = true;
        loop {
            self.send(&mut stream).await?;
            self.memory.release_to(0);
            // Each piece of work is a poll, and each poll is one of the tenant's turns (`turns::within`).
            tokio::task::yield_now().await;
            let Self { buffer, life, fenced, .. } = &mut self;
            tokio::select! {
                biased;
                end = followed(fenced.as_deref()) => return Err(end),
                received = receive(&mut stream, buffer, &mut server, life), if hungry => received?,
                () = future::ready(()), if !hungry => drop(look(&mut server, life)?),
            }
            let (consumed, step) = server.step(self.buffer.filled(), &mut self.out);
            hungry = matches!(step, Step::Feed(_));
            self.shown.client(&self.buffer.filled()[..consumed]);
            self.buffer.consume(consumed);
            let step = match step {
                Step::Ask(Ask::List(ask)) => self.list(&mut stream, ask).await?,
                Step::Ask(Ask::Export(ask)) => self.export(&mut stream, ask).await?,
                step => step,
            };
            server = match step {
                Step::Feed(server) => server,
                Step::StartTls(start) => {
                    stream = self.start_tls(stream).await?;
                    start.secured()
                }
                Step::Done(negotiated) => return self.done(stream, negotiated).await,
                Step::End(ending) => return Err(self.end(stream, ending).await),
                Step::Ask(_) => {
                    tracing::error!("our bug: an answer asked a question");
                    return Err(End::Cut);
                }
            };
        }
    }

    /// Answers NBD_OPT_LIST.
    async fn list(&mut self, stream: &mut Transport, ask: AskList) -> Result<Step, End> {
        let permit = match self.gates.authorize(&self.opening, Covers::List) {
            Ok(permit) => permit,
            Err(refusal) => return Ok(ask.refuse(&refusal, &mut self.out)),
        };
        let Self { rules, buffer, life, told, memory, out, .. } = self;
        let waiting = Waiting { stream, buffer, life, told };
        Ok(match waiting.list(&*rules.exports, &permit, memory).await? {
            Ok(list) => {
                let list = list.iter().map(|one| (&*one.name, one.description.as_deref()));
                ask.answer(Ok(list), out)
            }
            Err(refusal) => ask.refuse(&refusal, out),
        })
    }

    /// Answers a question about one export, and opens the export for the answer.
    async fn export(&mut self, stream: &mut Transport, ask: AskExport) -> Result<Step, End> {
        let name = ask.name().to_owned();
        let covers = Covers::Export(name.clone());
        let permit = match self.gates.authorize(&self.opening, covers) {
            Ok(permit) => permit,
            Err(refusal) => return Ok(ask.answer(Err(refusal), &mut self.out)),
        };
        // Another export is closed before this one is opened: it may be the same disk.
        let same = self.last.take().filter(|(of, _)| *of == name);
        let disk = if let Some((_, disk)) = same {
            disk
        } else {
            let Self { rules, buffer, life, told, .. } = self;
            let waiting = Waiting { stream, buffer, life, told };
            match waiting.open(&*rules.exports, &permit).await? {
                Ok(disk) => disk,
                Err(refusal) => {
                    self.gates.refused(&refusal);
                    return Ok(ask.answer(Err(refusal), &mut self.out));
                }
            }
        };
        let mut export = describe(&disk.info(), self.rules.read_only);
        self.last = Some((name, disk));
        if let Some(fencing) = claimed(&ask)
            && self.fence(stream, fencing).await?
        {
            export.contexts.push(contexts::granted(fencing));
        }
        Ok(ask.answer(Ok(export), &mut self.out))
    }

    /// Waits until the client's older connections have ended. Returns false if a newer connection has replaced this
    /// one.
    async fn fence(&mut self, stream: &mut Transport, fencing: FencingToken) -> Result<bool, End> {
        // Drop this client's previous registration first; otherwise it would wait for itself.
        drop(self.fenced.take());
        self.fenced = tokio::select! {
            fenced = follow(self.rules, fencing, &mut self.life) => fenced?,
            end = departed(stream, &mut self.buffer) => return Err(end),
        };
        Ok(self.fenced.is_some())
    }

    /// Sends the acknowledgement of NBD_OPT_STARTTLS and runs the TLS handshake.
    async fn start_tls(&mut self, mut stream: Transport) -> Result<Transport, End> {
        self.send(&mut stream).await?;
        let stream = secure(stream, self.rules, &self.life).await?;
        self.opening.tls = true;
        self.opening.certificate = stream.certificate();
        self.certificate.set(self.opening.certificate.clone()).ok();
        // Another client may have sent the plain text before, so its export and its fencing token are dropped.
        self.last = None;
        self.fenced = None;
        Ok(stream)
    }

    /// Sends the last answer; the transmission follows.
    async fn done(mut self, mut stream: Transport, negotiated: Negotiated) -> Result<Opened, End> {
        self.send(&mut stream).await?;
        let Some((export, disk)) = self.last else {
            tracing::error!("our bug: a negotiation ended without an export");
            return Err(End::Cut);
        };
        Ok(Opened {
            stream,
            disk,
            negotiated,
            opening: self.opening,
            export,
            received: self.buffer.filled().to_vec(),
            fenced: self.fenced,
        })
    }

    /// Sends the last answer and closes.
    async fn end(mut self, mut stream: Transport, ending: Ending) -> End {
        // The session ends regardless of whether this can be sent.
        self.send(&mut stream).await.ok();
        drop(self.last);
        stream.wire().release();
        stream.finish_sending();
        stream.wire().linger().await;
        match ending {
            Ending::Aborted => End::Aborted,
            Ending::ShutDown => End::ShutDown,
            Ending::Refused(refusal) => End::Refused(refusal),
            Ending::Violation(violation) => End::Violation(violation),
        }
    }

    async fn send(&mut self, stream: &mut Transport) -> Result<(), End> {
        self.shown.server(&self.out);
        stream.send_all(&self.out).await.map_err(|error| End::from_send(&error))?;
        self.out.clear();
        // A long answer is rarely followed by another one.
        self.out.shrink_to(BUFFER);
        Ok(())
    }
}

/// The client's fencing token, if it asks to replace its older connections.
fn claimed(ask: &AskExport) -> Option<FencingToken> {
    match ask.purpose() {
        Purpose::ListContexts => ask.queries().into_iter().find_map(FencingToken::parse),
        _ => None,
    }
}

/// Waits until no request of the client's older connections is in progress.
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

/// Waits until the client has reconnected with a newer token; forever if it has sent no token.
async fn followed(fenced: Option<&Fenced>) -> End {
    match fenced {
        Some(fenced) => End::Revoked(fenced.revocation().revoked().await),
        None => future::pending().await,
    }
}
