//! From a URI to a server that has been asked something: dials, and drives nbd's machine of the
//! negotiation over the stream, which waits. `link` enters exports through it, commands ask for lists.

use std::{
    io::{self, Read, Write},
    os::fd::OwnedFd,
};

use nbd::{
    Framing, Refusal, Uri,
    negotiate::{
        self, ClientStep, ClientTls, Described, FencingToken, IDENTITY, INSTANCE, Listed, Ready,
        answer_to,
    },
    transmit::client::Client as Machine,
    wire::ReplyCode,
};

use crate::{
    dial::{DialError, dial},
    error::ClientError,
    stream::Stream,
    tls::prepare,
};

/// A connection in transmission: its socket, which still waits, what has come behind the
/// negotiation, its rules.
#[derive(Debug)]
pub struct Connected {
    pub socket: Stream,
    pub received: Vec<u8>,
    pub client: Machine,
    pub described: Described,
}

/// Connects, negotiates as much as the server has, and enters the export of `uri`, with one context
/// if the server has it.
pub fn enter(uri: &Uri, context: &str) -> Result<Connected, ClientError> {
    let (mut talk, ready) = Negotiation::begin(uri)?;
    let next = ready.go_with(&uri.export, Some(context), &mut talk.out);
    match talk.answer(next)? {
        ClientStep::Done(negotiated, described) => {
            let client = Machine::new(negotiated.into_terms());
            let Negotiation { socket, received, .. } = talk;
            Ok(Connected { socket, received, client, described })
        }
        step => Err(talk.refused(step)),
    }
}

/// What a server says to a client that may have to come back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// Which disk the export is, where the server knows that.
    pub identity: Option<String>,
    /// Which run of the server it is, where it says that.
    pub instance: Option<String>,
    /// The connection stands in place of the client's older ones, which are over.
    pub follows: bool,
}

/// Connects and enters the export in place of the connections that this client had before. A server that
/// knows nothing of that says nothing.
pub fn enter_fenced(
    uri: &Uri,
    fencing: FencingToken,
) -> Result<(Connected, Standing), ClientError> {
    let (mut talk, mut ready) = Negotiation::begin(uri)?;
    let mut standing = Standing::default();
    if ready.framing() >= Framing::Structured {
        let fencing = fencing.to_string();
        let next = ready.contexts_of(&uri.export, &[IDENTITY, INSTANCE, &fencing], &mut talk.out);
        ready = match talk.answer(next)? {
            ClientStep::Contexts(ready, names) => {
                let said = |query| names.iter().find_map(|name| answer_to(query, name));
                standing.identity = said(IDENTITY).map(str::to_owned);
                standing.instance = said(INSTANCE).map(str::to_owned);
                standing.follows = names.contains(&fencing);
                ready
            }
            // A server without any contexts, or one whose GO says better why.
            ClientStep::Refused(ready, _) => ready,
            step => return Err(talk.refused(step)),
        };
    }
    let next = ready.go(&uri.export, false, &mut talk.out);
    match talk.answer(next)? {
        ClientStep::Done(negotiated, described) => {
            let client = Machine::new(negotiated.into_terms());
            let Negotiation { socket, received, .. } = talk;
            Ok((Connected { socket, received, client, described }, standing))
        }
        step => Err(talk.refused(step)),
    }
}

/// Connects and enters the export as the kernel's own client needs it: compact requests, simple
/// replies, and a socket that waits as long as it takes.
pub fn enter_for_kernel(uri: &Uri) -> Result<Connected, ClientError> {
    let (mut talk, ready) = Negotiation::begin_with(uri, Framing::Simple)?;
    let next = ready.go(&uri.export, false, &mut talk.out);
    match talk.answer(next)? {
        ClientStep::Done(negotiated, described) => {
            let client = Machine::new(negotiated.into_terms());
            let Negotiation { socket, received, .. } = talk;
            Ok(Connected { socket, received, client, described })
        }
        step => Err(talk.refused(step)),
    }
}

impl Connected {
    /// The bare socket, where it is one, for somebody who waits as long as it takes.
    pub fn into_plain(self) -> io::Result<Option<OwnedFd>> {
        match self.socket {
            Stream::Plain(socket) => Ok(Some(socket.into_blocking()?.into())),
            Stream::Tls(_) => Ok(None),
        }
    }
}

/// What can be known of a server without a request.
#[derive(Debug)]
pub struct Server {
    /// It speaks fixed newstyle; else only the older one.
    pub fixed: bool,
    pub tls: bool,
    pub framing: Framing,
    pub exports: Vec<Known>,
}

/// What a server says of one export.
#[derive(Debug)]
pub struct Known {
    /// As it was asked for, or listed.
    pub name: String,
    /// Of the list; the one in `described` is the better one.
    pub description: String,
    /// Some servers list names that they do not open.
    pub described: Result<Described, Refusal>,
    /// `None` where they cannot be asked for.
    pub contexts: Option<Vec<String>>,
}

/// Asks for everything about the export of `uri`, and leaves.
pub fn describe(uri: &Uri) -> Result<Server, ClientError> {
    let (talk, ready) = Negotiation::begin(uri)?;
    let (fixed, framing) = (ready.is_fixed(), ready.framing());
    let known = talk.ask(ready, &uri.export)?;
    if let Err(source) = known.described {
        return Err(ClientError::Refused { uri: uri.to_string(), source });
    }
    Ok(Server { fixed, tls: uri.tls, framing, exports: vec![known] })
}

/// The exports that the server of `uri` names, and what it says of each when asked.
pub fn list(uri: &Uri) -> Result<Server, ClientError> {
    let (mut talk, ready) = Negotiation::begin(uri)?;
    let (fixed, framing) = (ready.is_fixed(), ready.framing());
    let next = ready.list(&mut talk.out);
    let (mut ready, listed) = match talk.answer(next)? {
        ClientStep::Listed(ready, listed) => (ready, listed),
        step => return Err(talk.refused(step)),
    };
    let mut exports = Vec::with_capacity(listed.len());
    for Listed { name, description } in listed {
        let contexts;
        (ready, contexts) = talk.contexts(ready, &name)?;
        let next = ready.info(&name, &mut talk.out);
        let described;
        (ready, described) = match talk.answer(next)? {
            ClientStep::Told(ready, described) => (ready, Ok(described)),
            ClientStep::Refused(ready, refusal) => (ready, Err(refusal)),
            step => return Err(talk.refused(step)),
        };
        exports.push(Known { name, description, described, contexts });
    }
    talk.leave(ready);
    Ok(Server { fixed, tls: uri.tls, framing, exports })
}

/// The most that is taken from a server before an export is entered, bytes: ten thousand exports, with
/// what there is to say of each, are a fifth of it. It bounds the memory and the time of `list`.
const MOST: usize = 16 << 20;

/// A negotiation under way.
#[derive(Debug)]
struct Negotiation {
    uri: String,
    socket: Stream,
    received: Vec<u8>,
    /// Bytes that have come, all in all.
    total: usize,
    out: Vec<u8>,
}

impl Negotiation {
    fn begin(uri: &Uri) -> Result<(Self, Ready), ClientError> {
        Self::begin_with(uri, Framing::Extended)
    }

    fn begin_with(uri: &Uri, framing: Framing) -> Result<(Self, Ready), ClientError> {
        let wrong = |source| DialError::Tls { uri: uri.to_string(), source };
        // What is missing for TLS is missed before anybody is connected to.
        let tls = uri.tls.then(|| prepare(uri)).transpose().map_err(wrong)?;
        let socket = dial(uri)?;
        let (received, out, socket) = (Vec::new(), Vec::new(), Stream::Plain(socket));
        let mut talk = Self { uri: uri.to_string(), socket, received, total: 0, out };
        let step = match tls {
            None => talk.answer(negotiate::Client::start(framing))?,
            Some(tls) => {
                let asked = talk.start_tls()?;
                talk.socket = talk.socket.secure(tls).map_err(wrong)?;
                match asked.secured(&mut talk.out) {
                    ClientStep::Feed(client) => talk.answer(client)?,
                    step => step,
                }
            }
        };
        match step {
            ClientStep::Ready(ready) => Ok((talk, ready)),
            step => Err(talk.refused(step)),
        }
    }

    /// Everything about one export, and goodbye.
    fn ask(mut self, ready: Ready, name: &str) -> Result<Known, ClientError> {
        let (ready, contexts) = self.contexts(ready, name)?;
        let next = ready.info(name, &mut self.out);
        let described = match self.answer(next)? {
            ClientStep::Told(ready, described) => {
                self.leave(ready);
                Ok(described)
            }
            // Older servers have no way to tell but to open it.
            ClientStep::Refused(ready, refusal) if refusal.code() == ReplyCode::ERR_UNSUP => {
                let next = ready.go(name, false, &mut self.out);
                match self.answer(next)? {
                    ClientStep::Done(negotiated, described) => {
                        Machine::new(negotiated.into_terms()).disconnect(&mut self.out);
                        self.socket.write_all(&self.out).ok();
                        Ok(described)
                    }
                    step => return Err(self.refused(step)),
                }
            }
            ClientStep::Refused(ready, refusal) => {
                self.leave(ready);
                Err(refusal)
            }
            step => return Err(self.refused(step)),
        };
        let (name, description) = (name.to_owned(), String::new());
        Ok(Known { name, description, described, contexts })
    }

    /// The contexts of an export, where they can be asked for.
    fn contexts(
        &mut self,
        ready: Ready,
        name: &str,
    ) -> Result<(Ready, Option<Vec<String>>), ClientError> {
        if ready.framing() < Framing::Structured {
            return Ok((ready, None));
        }
        let next = ready.contexts(name, &mut self.out);
        match self.answer(next)? {
            ClientStep::Contexts(ready, names) => Ok((ready, Some(names))),
            ClientStep::Refused(ready, _) => Ok((ready, None)),
            step => Err(self.refused(step)),
        }
    }

    /// Says goodbye. What was asked for is here: whether the server hears it changes nothing.
    fn leave(&mut self, ready: Ready) {
        ready.abort(&mut self.out);
        self.socket.write_all(&self.out).ok();
    }

    /// Asks for TLS. The handshake comes next.
    fn start_tls(&mut self) -> Result<ClientTls, ClientError> {
        let asked = match self.answer(negotiate::Client::start_secure(Framing::Extended))? {
            ClientStep::StartTls(asked) => asked,
            step => return Err(self.refused(step)),
        };
        // It came in plain text, from anybody.
        if !self.received.is_empty() {
            return Err(ClientError::Early(self.uri.clone()));
        }
        Ok(asked)
    }

    /// Sends what was asked and receives until the machine has an answer.
    fn answer(&mut self, mut client: negotiate::Client) -> Result<ClientStep, ClientError> {
        // However slowly it comes: what trickles in is no answer.
        self.socket.begin_to_wait();
        loop {
            let (eaten, step) = client.step(&self.received, &mut self.out);
            self.received.drain(..eaten);
            self.send()?;
            match step {
                ClientStep::Feed(again) => client = again,
                answer => return Ok(answer),
            }
            let awaited = client.awaited();
            let mut piece = [0; 4096];
            let n = self.receive(&mut piece).map_err(|source| {
                ClientError::lost(&self.uri, &format!("waiting for {awaited}"), source)
            })?;
            if n == 0 {
                let (uri, awaited) = (self.uri.clone(), awaited.to_owned());
                return Err(ClientError::Closed { uri, awaited });
            }
            self.total += n;
            if self.total > MOST {
                return Err(ClientError::Long { uri: self.uri.clone(), limit: MOST });
            }
            self.received.extend_from_slice(piece.get(..n).unwrap_or_default());
        }
    }

    fn send(&mut self) -> Result<(), ClientError> {
        let sent = self.socket.write_all(&self.out);
        self.out.clear();
        sent.map_err(|error| ClientError::lost(&self.uri, "sending an option", error))
    }

    /// One read, again if a signal came between. A stream that stays silent is a timeout.
    fn receive(&mut self, room: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.socket.read(room) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    /// The answer was a no.
    fn refused(&mut self, step: ClientStep) -> ClientError {
        let uri = self.uri.clone();
        match step {
            ClientStep::Refused(ready, source) => {
                self.leave(ready);
                ClientError::Refused { uri, source }
            }
            ClientStep::End(source) => ClientError::Violation { uri, source },
            _ => ClientError::Closed { uri, awaited: "an answer to the question".to_owned() },
        }
    }
}
