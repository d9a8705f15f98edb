//! From a URI to a server that has been asked something: dials, and drives nbd's machine of the
//! negotiation over the blocking stream. `link` enters exports through it, commands ask for lists.

use std::{
    fs::File,
    io::{self, Read, Write},
};

use nbd::{
    Framing, Uri,
    negotiate::{self, ClientStep, Described, Listed, Ready},
    transmit::client::Client,
};

use crate::{dial::dial, error::SessionError};

/// A connection in transmission: its socket, which still blocks, what has come behind the
/// negotiation, its rules.
#[derive(Debug)]
pub(crate) struct Entered {
    pub(crate) socket: File,
    pub(crate) received: Vec<u8>,
    pub(crate) client: Client,
    pub(crate) described: Described,
}

/// Connects, negotiates as much as the server has, and enters the export of `uri`.
pub(crate) fn enter(uri: &Uri) -> Result<Entered, SessionError> {
    let (mut talk, ready) = Talk::begin(uri)?;
    let next = ready.go(&uri.export, true, &mut talk.out);
    match talk.answer(next)? {
        ClientStep::Done(negotiated, described) => {
            let client = Client::new(negotiated.into_terms());
            let Talk { socket, received, .. } = talk;
            Ok(Entered { socket, received, client, described })
        }
        step => Err(talk.refused(step)),
    }
}

/// The exports that the server of `uri` names, and what it says of each when asked (some servers
/// list names that they do not open).
#[allow(dead_code, reason = "the command is on its way")]
pub(crate) fn list(uri: &Uri) -> Result<Vec<(Listed, Option<Described>)>, SessionError> {
    let (mut talk, ready) = Talk::begin(uri)?;
    let next = ready.list(&mut talk.out);
    let (mut ready, listed) = match talk.answer(next)? {
        ClientStep::Listed(ready, listed) => (ready, listed),
        step => return Err(talk.refused(step)),
    };
    let mut told = Vec::with_capacity(listed.len());
    for export in listed {
        let next = ready.info(&export.name, &mut talk.out);
        let described = match talk.answer(next)? {
            ClientStep::Told(again, described) => {
                ready = again;
                Some(described)
            }
            ClientStep::Refused(again, _) => {
                ready = again;
                None
            }
            step => return Err(talk.refused(step)),
        };
        told.push((export, described));
    }
    ready.abort(&mut talk.out);
    // The list is here: whether the server hears the goodbye changes nothing.
    talk.socket.write_all(&talk.out).ok();
    Ok(told)
}

/// A negotiation under way.
struct Talk {
    uri: String,
    socket: File,
    received: Vec<u8>,
    out: Vec<u8>,
}

impl Talk {
    fn begin(uri: &Uri) -> Result<(Self, Ready), SessionError> {
        let socket = dial(uri)?;
        let (uri, received, out) = (uri.to_string(), Vec::new(), Vec::new());
        let mut talk = Self { uri, socket, received, out };
        match talk.answer(negotiate::Client::start(Framing::Extended))? {
            ClientStep::Ready(ready) => Ok((talk, ready)),
            step => Err(talk.refused(step)),
        }
    }

    /// Sends what was asked and receives until the machine has an answer.
    fn answer(&mut self, mut client: negotiate::Client) -> Result<ClientStep, SessionError> {
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
                SessionError::lost(&self.uri, &format!("waiting for {awaited}"), source)
            })?;
            if n == 0 {
                let (uri, awaited) = (self.uri.clone(), awaited.to_owned());
                return Err(SessionError::Closed { uri, awaited });
            }
            self.received.extend_from_slice(piece.get(..n).unwrap_or_default());
        }
    }

    fn send(&mut self) -> Result<(), SessionError> {
        let sent = self.socket.write_all(&self.out);
        self.out.clear();
        sent.map_err(|e| SessionError::lost(&self.uri, "sending an option", e))
    }

    /// One read, again if a signal came between. A stream that stays silent is a timeout.
    fn receive(&mut self, room: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.socket.read(room) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in 60 s"));
                }
                other => return other,
            }
        }
    }

    /// The answer was a no.
    fn refused(&mut self, step: ClientStep) -> SessionError {
        let uri = self.uri.clone();
        match step {
            ClientStep::Refused(ready, source) => {
                ready.abort(&mut self.out);
                // Whether it hears the goodbye changes nothing.
                self.socket.write_all(&self.out).ok();
                SessionError::Refused { uri, source }
            }
            ClientStep::End(source) => SessionError::Violation { uri, source },
            _ => SessionError::Closed { uri, awaited: "an answer to the question".to_owned() },
        }
    }
}
