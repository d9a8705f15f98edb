//! Negotiates on a connected socket: drives the state machine `nbd::negotiate` over the socket, in
//! plain text or inside TLS. `Connector` enters exports and asks for lists with it, on its own thread.
//! A program with a runtime drives it with its own `Wait`.

use std::{
    io::{self, Read, Write},
    os::fd::{AsFd, OwnedFd},
    time::Instant,
};

use nbd::{
    Framing, Refusal,
    negotiate::{self, ClientStep, ClientTls, Described, Listed, Ready},
    transmit::client::Client as Machine,
    wire::ReplyCode,
};

use crate::{
    dial::DialError,
    error::ClientError,
    socket::Socket,
    stream::{Stream, Tls},
    timeout::Timeout,
    tls::{Config, TlsError, shake_hands},
    wait::{Event, Wait},
};

/// A connection in transmission.
#[derive(Debug)]
pub struct Connected {
    /// The socket, non-blocking.
    pub stream: Stream,
    /// Bytes that have arrived after the negotiation.
    pub received: Vec<u8>,
    /// The client's end of the transmission.
    pub machine: Machine,
    /// The export, as the server described it.
    pub described: Described,
}

impl Connected {
    /// The bare socket, made blocking; `None` inside TLS.
    ///
    /// # Errors
    /// The system's, if the socket cannot be made blocking.
    pub fn into_plain(self) -> io::Result<Option<OwnedFd>> {
        match self.stream {
            Stream::Plain(socket) => Ok(Some(socket.into_blocking()?.into())),
            Stream::Tls(_) => Ok(None),
        }
    }
}

/// Whether the connection continues inside TLS.
#[derive(Debug, Clone, Copy)]
pub enum Security<'a> {
    /// In plain text.
    Plain,
    /// Inside TLS if the server supports it, otherwise in plain text. An attacker between the client
    /// and the server can force plain text.
    Opportunistic(&'a Config),
    /// Inside TLS, or the connection fails.
    Required(&'a Config),
}

/// What can be learned about a server without a request.
#[derive(Debug)]
pub struct Server {
    /// The server supports fixed newstyle. Otherwise it supports only the older form.
    pub fixed: bool,
    /// The connection is inside TLS.
    pub tls: bool,
    /// How messages are framed.
    pub framing: Framing,
    /// The exports that were asked for.
    pub exports: Vec<Known>,
}

/// What a server reports about one export.
#[derive(Debug)]
pub struct Known {
    /// The name as it was asked for, or listed.
    pub name: String,
    /// The description in the list. The one in `described` is more accurate.
    pub description: String,
    /// The export's properties. Some servers list names that they do not open.
    pub described: Result<Described, Refusal>,
    /// The metadata contexts; `None` if the server cannot be asked for them.
    pub contexts: Option<Vec<String>>,
}

/// The most bytes that are accepted from a server before an export is entered. Ten thousand exports,
/// with everything about each, take a fifth of it. It bounds the memory and the time of a list.
const MOST: usize = 16 << 20;

/// A negotiation in progress. A question consumes the `Ready` that `begin` returned, and returns the
/// next one if another question may follow.
#[derive(Debug)]
pub struct Negotiation<W> {
    name: String,
    stream: Stream,
    received: Vec<u8>,
    /// How many bytes have arrived in all.
    total: usize,
    out: Vec<u8>,
    timeout: Timeout,
    wait: W,
}

impl<W: Wait> Negotiation<W> {
    /// Reads the greeting, starts TLS as `security` says, and agrees on the framing: the best that the
    /// server has, up to `framing`. Each answer has `timeout`; `name` is what messages call the
    /// server.
    ///
    /// # Errors
    /// `ClientError::Refused` if TLS is required and the server has none; `ClientError::Dial` if the
    /// handshake fails; `ClientError::{Lost, Closed, Violation, Early, Long}`.
    pub async fn begin(
        name: &str,
        socket: Socket,
        security: Security<'_>,
        framing: Framing,
        (timeout, wait): (Timeout, W),
    ) -> Result<(Self, Ready), ClientError> {
        let (received, out, stream) = (Vec::new(), Vec::new(), Stream::Plain(socket));
        let mut talk =
            Self { name: name.to_owned(), stream, received, total: 0, out, timeout, wait };
        let step = match security {
            Security::Plain => talk.answer(negotiate::Client::start(framing)).await?,
            Security::Opportunistic(tls) | Security::Required(tls) => {
                let asked = match talk.answer(negotiate::Client::start_secure(framing)).await? {
                    ClientStep::StartTls(asked) => Ok(asked),
                    ClientStep::Refused(ready, _)
                        if matches!(security, Security::Opportunistic(_)) =>
                    {
                        Err(ready)
                    }
                    step => return Err(talk.refused(step)),
                };
                let step = match asked {
                    Ok(asked) => {
                        talk = talk.secure(tls).await?;
                        ClientTls::secured(asked, &mut talk.out)
                    }
                    Err(ready) => ready.without_tls(&mut talk.out),
                };
                match step {
                    ClientStep::Feed(client) => talk.answer(client).await?,
                    step => step,
                }
            }
        };
        match step {
            ClientStep::Ready(ready) => Ok((talk, ready)),
            step => Err(talk.refused(step)),
        }
    }

    /// Whether the connection is inside TLS.
    pub const fn is_secure(&self) -> bool {
        matches!(self.stream, Stream::Tls(_))
    }

    /// Enters an export, with one metadata context if the server has it.
    ///
    /// # Errors
    /// `ClientError::Refused` if the server does not open the export; otherwise as `begin`.
    pub async fn enter(
        mut self,
        ready: Ready,
        export: &str,
        context: Option<&str>,
    ) -> Result<Connected, ClientError> {
        let next = ready.go_with(export, context, &mut self.out);
        match self.answer(next).await? {
            ClientStep::Done(negotiated, described) => {
                let machine = Machine::new(negotiated.into_terms());
                let Self { stream, received, .. } = self;
                Ok(Connected { stream, received, machine, described })
            }
            step => Err(self.refused(step)),
        }
    }

    /// Asks for the names of the exports, and ends the session.
    ///
    /// # Errors
    /// As `enter`.
    pub async fn list(mut self, ready: Ready) -> Result<Vec<Listed>, ClientError> {
        let (ready, listed) = self.listed(ready).await?;
        self.leave(ready);
        Ok(listed)
    }

    async fn listed(&mut self, ready: Ready) -> Result<(Ready, Vec<Listed>), ClientError> {
        let next = ready.list(&mut self.out);
        match self.answer(next).await? {
            ClientStep::Listed(ready, listed) => Ok((ready, listed)),
            step => Err(self.refused(step)),
        }
    }

    /// Asks for the exports and for the server's description of each, and ends the session.
    ///
    /// # Errors
    /// As `enter`. It is no error if the server does not describe an export.
    pub async fn list_all(mut self, ready: Ready) -> Result<Server, ClientError> {
        let (fixed, framing, tls) = (ready.is_fixed(), ready.framing(), self.is_secure());
        let (mut ready, listed) = self.listed(ready).await?;
        let mut exports = Vec::with_capacity(listed.len());
        for Listed { name, description } in listed {
            let contexts;
            (ready, contexts) = self.contexts(ready, &name, &[]).await?;
            let next = ready.info(&name, &mut self.out);
            let described;
            (ready, described) = match self.answer(next).await? {
                ClientStep::Told(ready, described) => (ready, Ok(described)),
                ClientStep::Refused(ready, refusal) => (ready, Err(refusal)),
                step => return Err(self.refused(step)),
            };
            exports.push(Known { name, description, described, contexts });
        }
        self.leave(ready);
        Ok(Server { fixed, tls, framing, exports })
    }

    /// Asks for everything about one export, and ends the session.
    ///
    /// # Errors
    /// As `enter`.
    pub async fn describe(mut self, ready: Ready, name: &str) -> Result<Server, ClientError> {
        let (fixed, framing, tls) = (ready.is_fixed(), ready.framing(), self.is_secure());
        let (ready, contexts) = self.contexts(ready, name, &[]).await?;
        let next = ready.info(name, &mut self.out);
        let described = match self.answer(next).await? {
            ClientStep::Told(ready, described) => {
                self.leave(ready);
                described
            }
            // Older servers describe an export only by opening it.
            ClientStep::Refused(ready, refusal) if refusal.code() == ReplyCode::ERR_UNSUP => {
                let next = ready.go(name, false, &mut self.out);
                match self.answer(next).await? {
                    ClientStep::Done(negotiated, described) => {
                        Machine::new(negotiated.into_terms()).disconnect(&mut self.out);
                        self.stream.write_all(&self.out).ok();
                        described
                    }
                    step => return Err(self.refused(step)),
                }
            }
            step => return Err(self.refused(step)),
        };
        let (name, description) = (name.to_owned(), String::new());
        let export = Known { name, description, described: Ok(described), contexts };
        Ok(Server { fixed, tls, framing, exports: vec![export] })
    }

    /// The metadata contexts of an export that match the queries. Without a query, these are all that
    /// the server reports to everybody. `None` if the server cannot be asked for contexts.
    ///
    /// # Errors
    /// As `enter`. A refusal is `None`, because it comes from a server without any contexts, or from
    /// one whose answer to `enter` explains the refusal better.
    pub async fn contexts(
        &mut self,
        ready: Ready,
        export: &str,
        queries: &[&str],
    ) -> Result<(Ready, Option<Vec<String>>), ClientError> {
        if ready.framing() < Framing::Structured {
            return Ok((ready, None));
        }
        let next = ready.contexts_of(export, queries, &mut self.out);
        match self.answer(next).await? {
            ClientStep::Contexts(ready, names) => Ok((ready, Some(names))),
            ClientStep::Refused(ready, _) => Ok((ready, None)),
            step => Err(self.refused(step)),
        }
    }

    /// Sends NBD_OPT_ABORT. An error does not matter.
    pub fn leave(&mut self, ready: Ready) {
        ready.abort(&mut self.out);
        self.stream.write_all(&self.out).ok();
        self.stream.flush().ok();
    }

    /// Starts TLS, after the server has agreed to it.
    async fn secure(mut self, tls: &Config) -> Result<Self, ClientError> {
        // These bytes came in plain text, and anybody could have sent them.
        if !self.received.is_empty() {
            return Err(ClientError::Early(self.name));
        }
        let Stream::Plain(mut socket) = self.stream else { return Ok(self) };
        let done = shake_hands(&mut socket, tls, self.timeout, &self.wait).await;
        let wrong = |source: TlsError| DialError::Tls { name: self.name.clone(), source };
        self.stream = Stream::Tls(Box::new(Tls::new(socket, done.map_err(wrong)?)));
        Ok(self)
    }

    /// Sends what is queued and receives until the machine has an answer.
    async fn answer(&mut self, mut client: negotiate::Client) -> Result<ClientStep, ClientError> {
        // The deadline is for the whole answer. Bytes that trickle in do not extend it.
        let until = self.timeout.deadline();
        loop {
            let (eaten, step) = client.step(&self.received, &mut self.out);
            self.received.drain(..eaten);
            let sent = self.send(until).await;
            sent.map_err(|error| ClientError::lost(&self.name, "sending an option", error))?;
            match step {
                ClientStep::Feed(again) => client = again,
                answer => return Ok(answer),
            }
            let awaited = client.awaited();
            let mut piece = [0; 4096];
            let received = self.receive(&mut piece, until).await;
            let n = received.map_err(|source| {
                ClientError::lost(&self.name, &format!("waiting for {awaited}"), source)
            })?;
            if n == 0 {
                let (name, awaited) = (self.name.clone(), awaited.to_owned());
                return Err(ClientError::Closed { name, awaited });
            }
            self.total += n;
            if self.total > MOST {
                return Err(ClientError::Long { name: self.name.clone(), limit: MOST });
            }
            self.received.extend_from_slice(piece.get(..n).unwrap_or_default());
        }
    }

    async fn send(&mut self, until: Option<Instant>) -> io::Result<()> {
        let mut sent = 0;
        loop {
            let left = self.out.get(sent..).unwrap_or_default();
            let done = if left.is_empty() {
                self.stream.flush().map(|()| 0)
            } else {
                self.stream.write(left)
            };
            match done {
                Ok(_) if left.is_empty() => {
                    self.out.clear();
                    return Ok(());
                }
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => sent += n,
                Err(error) => self.wait_after(error, Event::Writable, until).await?,
            }
        }
    }

    /// Reads once. Silence until the deadline is a timeout.
    async fn receive(&mut self, room: &mut [u8], until: Option<Instant>) -> io::Result<usize> {
        loop {
            match self.stream.read(room) {
                Ok(n) if n > 0 && until.is_some_and(|until| Instant::now() >= until) => {
                    // Bytes trickle in, but the time is up.
                    return Err(self.timeout.expired());
                }
                Ok(n) => return Ok(n),
                Err(error) => self.wait_after(error, Event::Readable, until).await?,
            }
        }
    }

    /// Waits where a blocking call would have waited, and returns other errors.
    async fn wait_after(
        &self,
        error: io::Error,
        event: Event,
        until: Option<Instant>,
    ) -> io::Result<()> {
        match error.kind() {
            io::ErrorKind::Interrupted => Ok(()),
            io::ErrorKind::WouldBlock => {
                let ready = self.wait.ready(self.stream.as_fd(), event, until).await?;
                if ready { Ok(()) } else { Err(self.timeout.expired()) }
            }
            _ => Err(error),
        }
    }

    /// The error for a refusal.
    fn refused(&mut self, step: ClientStep) -> ClientError {
        let name = self.name.clone();
        match step {
            ClientStep::Refused(ready, source) => {
                self.leave(ready);
                ClientError::Refused { name, source }
            }
            ClientStep::End(source) => ClientError::Violation { name, source },
            _ => ClientError::Closed { name, awaited: "an answer to the question".to_owned() },
        }
    }
}
