//! The negotiation with a far server, on a blocking socket and with a deadline.

use std::{
    fs::File,
    io::{self, Read, Write},
    time::{Duration, Instant},
};

use nbd::{
    Framing, Refusal, Violation,
    negotiate::{self, ClientStep, Described, Listed},
    transmit::client::Client,
};
use nix::sys::{
    socket::{setsockopt, sockopt},
    time::{TimeVal, TimeValLike},
};
use thiserror::Error;

/// For all of it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why nothing came of it.
#[derive(Debug, Error)]
pub(super) enum GreetError {
    #[error("the connection failed")]
    Lost(#[source] io::Error),
    #[error("the server closed instead of sending {0}")]
    Closed(&'static str),
    #[error("it is no NBD server that the agent can use")]
    Violation(#[source] Violation),
    #[error("the server refused")]
    Refused(#[source] Refusal),
}

impl From<GreetError> for io::Error {
    fn from(error: GreetError) -> Self {
        match error {
            GreetError::Lost(error) => error,
            other => {
                let cause = std::error::Error::source(&other).map(ToString::to_string);
                let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
                Self::other(format!("{other}{cause}"))
            }
        }
    }
}

/// A connection in transmission: its socket, what has come behind the negotiation, its rules.
#[derive(Debug)]
pub(super) struct Greeted {
    pub(super) socket: File,
    pub(super) received: Vec<u8>,
    pub(super) client: Client,
    pub(super) described: Described,
}

/// Enters an export.
pub(super) fn enter(socket: File, export: &str) -> Result<Greeted, GreetError> {
    let mut talk = Talk::begin(socket);
    let mut asked = false;
    loop {
        match talk.step()? {
            ClientStep::Ready(ready) if !asked => {
                asked = true;
                let next = ready.go(export, true, &mut talk.out);
                talk.go_on(next)?;
            }
            ClientStep::Done(negotiated, described) => {
                // From here on it may be silent as long as it likes.
                limit(&talk.socket, Duration::ZERO)?;
                let client = Client::new(negotiated.into_terms());
                let Talk { socket, received, .. } = talk;
                return Ok(Greeted { socket, received, client, described });
            }
            ClientStep::Refused(ready, refusal) => {
                ready.abort(&mut talk.out);
                // Whether it hears the goodbye changes nothing.
                talk.socket.write_all(&talk.out).ok();
                return Err(GreetError::Refused(refusal));
            }
            ClientStep::End(violation) => return Err(GreetError::Violation(violation)),
            ClientStep::Feed(client) => talk.feed(client)?,
            _ => return Err(GreetError::Closed("an answer to the question")),
        }
    }
}

/// Asks for the list.
pub(super) fn list(socket: File) -> Result<Vec<Listed>, GreetError> {
    let mut talk = Talk::begin(socket);
    loop {
        match talk.step()? {
            ClientStep::Ready(ready) => {
                let next = ready.list(&mut talk.out);
                talk.go_on(next)?;
            }
            ClientStep::Listed(ready, listed) => {
                ready.abort(&mut talk.out);
                talk.socket.write_all(&talk.out).ok();
                return Ok(listed);
            }
            ClientStep::Refused(_, refusal) => return Err(GreetError::Refused(refusal)),
            ClientStep::End(violation) => return Err(GreetError::Violation(violation)),
            ClientStep::Feed(client) => talk.feed(client)?,
            _ => return Err(GreetError::Closed("its list")),
        }
    }
}

struct Talk {
    socket: File,
    machine: Option<negotiate::Client>,
    received: Vec<u8>,
    out: Vec<u8>,
    deadline: Instant,
}

impl Talk {
    fn begin(socket: File) -> Self {
        let machine = Some(negotiate::Client::start(Framing::Extended));
        let deadline = Instant::now() + PATIENCE;
        Self { socket, machine, received: Vec::new(), out: Vec::new(), deadline }
    }

    fn step(&mut self) -> Result<ClientStep, GreetError> {
        let machine = self.machine.take().ok_or(GreetError::Closed("anything"))?;
        let (eaten, step) = machine.step(&self.received, &mut self.out);
        self.received.drain(..eaten);
        Ok(step)
    }

    /// Sends what is to be sent, and goes on with what is there.
    fn go_on(&mut self, machine: negotiate::Client) -> Result<(), GreetError> {
        self.machine = Some(machine);
        let sent = self.socket.write_all(&self.out).map_err(GreetError::Lost);
        self.out.clear();
        sent
    }

    /// The same, and waits for more.
    fn feed(&mut self, machine: negotiate::Client) -> Result<(), GreetError> {
        let awaited = machine.awaited();
        self.go_on(machine)?;
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(GreetError::Lost(io::ErrorKind::TimedOut.into()));
        }
        limit(&self.socket, left)?;
        let mut bytes = [0; 4096];
        let n = loop {
            match self.socket.read(&mut bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(GreetError::Lost(io::ErrorKind::TimedOut.into()));
                }
                read => break read.map_err(GreetError::Lost)?,
            }
        };
        if n == 0 {
            return Err(GreetError::Closed(awaited));
        }
        self.received.extend_from_slice(&bytes[..n]);
        Ok(())
    }
}

/// How long a receive may wait; zero: for ever.
fn limit(socket: &File, time: Duration) -> Result<(), GreetError> {
    let millis = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    let time = TimeVal::milliseconds(if time.is_zero() { 0 } else { millis.max(1) });
    setsockopt(socket, sockopt::ReceiveTimeout, &time)
        .map_err(|errno| GreetError::Lost(errno.into()))
}
