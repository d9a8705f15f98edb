//! The negotiation with a far server, with a deadline and without a thread that waits.

use std::{
    io::{self, IoSlice, IoSliceMut},
    os::fd::OwnedFd,
    time::Duration,
};

use nbd::{
    Framing, Refusal, Violation,
    negotiate::{self, ClientStep, Described, Listed},
    transmit::client::Client,
};
use thiserror::Error;
use tokio::time::timeout;

use crate::sys::socket::Socket;

/// For all of it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why nothing came of it.
#[derive(Debug, Error)]
pub(super) enum ConnectError {
    #[error("the connection failed")]
    Lost(#[source] io::Error),
    #[error("the server closed instead of sending {0}")]
    Closed(&'static str),
    #[error("it is no NBD server that the agent can use")]
    Violation(#[source] Violation),
    #[error("the server refused")]
    Refused(#[source] Refusal),
}

impl From<ConnectError> for io::Error {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Lost(error) => error,
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
pub(super) struct Connected {
    /// From here on it may be silent as long as it likes. On no runtime.
    pub(super) socket: OwnedFd,
    pub(super) received: Vec<u8>,
    pub(super) client: Client,
    pub(super) described: Described,
}

/// Enters an export.
pub(super) async fn enter(socket: Socket, export: &str) -> Result<Connected, ConnectError> {
    within(async {
        let mut talk = Talk::begin(socket);
        let mut asked = false;
        loop {
            match talk.step()? {
                ClientStep::Ready(ready) if !asked => {
                    asked = true;
                    let next = ready.go(export, true, &mut talk.out);
                    talk.go_on(next).await?;
                }
                ClientStep::Done(negotiated, described) => {
                    let client = Client::new(negotiated.into_terms());
                    let Talk { socket, received, .. } = talk;
                    let socket = socket.into_descriptor();
                    return Ok(Connected { socket, received, client, described });
                }
                ClientStep::Refused(ready, refusal) => {
                    ready.abort(&mut talk.out);
                    talk.say_goodbye();
                    return Err(ConnectError::Refused(refusal));
                }
                ClientStep::End(violation) => return Err(ConnectError::Violation(violation)),
                ClientStep::Feed(client) => talk.feed(client).await?,
                _ => return Err(ConnectError::Closed("an answer to the question")),
            }
        }
    })
    .await
}

/// Asks for the list.
pub(super) async fn list(socket: Socket) -> Result<Vec<Listed>, ConnectError> {
    within(async {
        let mut talk = Talk::begin(socket);
        loop {
            match talk.step()? {
                ClientStep::Ready(ready) => {
                    let next = ready.list(&mut talk.out);
                    talk.go_on(next).await?;
                }
                ClientStep::Listed(ready, listed) => {
                    ready.abort(&mut talk.out);
                    talk.say_goodbye();
                    return Ok(listed);
                }
                ClientStep::Refused(_, refusal) => return Err(ConnectError::Refused(refusal)),
                ClientStep::End(violation) => return Err(ConnectError::Violation(violation)),
                ClientStep::Feed(client) => talk.feed(client).await?,
                _ => return Err(ConnectError::Closed("its list")),
            }
        }
    })
    .await
}

async fn within<T>(talk: impl Future<Output = Result<T, ConnectError>>) -> Result<T, ConnectError> {
    let late = |_| Err(ConnectError::Lost(io::ErrorKind::TimedOut.into()));
    timeout(PATIENCE, talk).await.unwrap_or_else(late)
}

struct Talk {
    socket: Socket,
    machine: Option<negotiate::Client>,
    received: Vec<u8>,
    out: Vec<u8>,
}

impl Talk {
    fn begin(socket: Socket) -> Self {
        let machine = Some(negotiate::Client::start(Framing::Extended));
        Self { socket, machine, received: Vec::new(), out: Vec::new() }
    }

    fn step(&mut self) -> Result<ClientStep, ConnectError> {
        let machine = self.machine.take().ok_or(ConnectError::Closed("anything"))?;
        let (eaten, step) = machine.step(&self.received, &mut self.out);
        self.received.drain(..eaten);
        Ok(step)
    }

    /// Sends what is to be sent, and goes on with what is there.
    async fn go_on(&mut self, machine: negotiate::Client) -> Result<(), ConnectError> {
        self.machine = Some(machine);
        let out = std::mem::take(&mut self.out);
        self.socket.send_all(&out).await.map_err(ConnectError::Lost)
    }

    /// The same, and waits for more.
    async fn feed(&mut self, machine: negotiate::Client) -> Result<(), ConnectError> {
        let awaited = machine.awaited();
        self.go_on(machine).await?;
        let mut bytes = vec![0; 4096];
        let n = loop {
            match self.socket.try_recv(&mut [IoSliceMut::new(&mut bytes)]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.socket.readable().await.map_err(ConnectError::Lost)?;
                }
                received => break received.map_err(ConnectError::Lost)?,
            }
        };
        if n == 0 {
            return Err(ConnectError::Closed(awaited));
        }
        self.received.extend_from_slice(&bytes[..n]);
        Ok(())
    }

    /// Whether the server hears it changes nothing.
    fn say_goodbye(&self) {
        self.socket.try_send(&[IoSlice::new(&self.out)]).ok();
    }
}
