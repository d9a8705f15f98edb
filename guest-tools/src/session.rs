//! One connection: drives nbd's client machines over a blocking stream, one thread, a few requests
//! in flight. The commands use it; it prints nothing.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read, Write},
};

use nbd::{
    Framing, Refusal, Terms, Uri, Violation,
    negotiate::{self, ClientStep, Described},
    transmit::client::{Client, Event, Failure, Unfit},
};
use thiserror::Error;

use crate::dial::{DialError, dial};

/// Received at once, bytes.
const RECEIVE: usize = 256 << 10;
/// Longest read or write that is asked for, bytes.
const PIECE: u64 = 1 << 20;
/// Reads or writes in flight.
const DEPTH: usize = 4;

/// What can go wrong with a session. The URI says on what.
#[derive(Debug, Error)]
pub(crate) enum SessionError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("{uri} failed while {doing}")]
    Lost { uri: String, doing: String, source: io::Error },
    #[error("{uri} closed the connection while this end waited for {awaited}")]
    Closed { uri: String, awaited: String },
    #[error("{uri} is no NBD server that this program can use")]
    Violation { uri: String, source: Violation },
    #[error("{uri} was refused by the server")]
    Refused { uri: String, source: Refusal },
    #[error("cannot {doing} on {uri}")]
    Unfit { uri: String, doing: String, source: Unfit },
    #[error("cannot {doing} on {uri}")]
    Failed { uri: String, doing: String, source: Failure },
    #[error("cannot read the input")]
    Input(#[source] io::Error),
    #[error("cannot write the output")]
    Output(#[source] io::Error),
}

/// How a write becomes durable.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Durability {
    /// Each piece, before it is answered.
    pub(crate) fua: bool,
    /// All of it, at the end.
    pub(crate) flush: bool,
}

/// An open export.
#[derive(Debug)]
pub(crate) struct Session {
    /// For errors.
    uri: String,
    stream: File,
    /// Received and not consumed: `input[start..end]`.
    input: Vec<u8>,
    start: usize,
    end: usize,
    client: Client,
}

impl SessionError {
    fn lost(uri: &str, doing: &str, source: io::Error) -> Self {
        Self::Lost { uri: uri.to_string(), doing: doing.to_owned(), source }
    }
}

impl Session {
    /// Connects, negotiates as much as the server has, and enters the export of `uri`.
    pub(crate) fn open(uri: &Uri) -> Result<(Self, Described), SessionError> {
        let mut stream = dial(uri)?;
        let mut client = negotiate::Client::start(Framing::Extended);
        let (mut input, mut out) = (Vec::new(), Vec::new());
        loop {
            let (eaten, step) = client.step(&input, &mut out);
            input.drain(..eaten);
            let (next, hungry) = match step {
                ClientStep::Feed(client) => (client, true),
                ClientStep::Ready(ready)
                | ClientStep::Listed(ready, _)
                | ClientStep::Told(ready, _) => (ready.go(&uri.export, true, &mut out), false),
                ClientStep::Done(negotiated, described) => {
                    let client = Client::new(negotiated.into_terms());
                    let (start, end) = (0, input.len());
                    input.resize(RECEIVE.max(end), 0);
                    let uri = uri.to_string();
                    return Ok((Self { uri, stream, input, start, end, client }, described));
                }
                ClientStep::Refused(ready, source) => {
                    ready.abort(&mut out);
                    // The server said no: whether it hears the goodbye changes nothing.
                    stream.write_all(&out).ok();
                    return Err(SessionError::Refused { uri: uri.to_string(), source });
                }
                ClientStep::End(source) => {
                    return Err(SessionError::Violation { uri: uri.to_string(), source });
                }
            };
            client = next;
            stream
                .write_all(&out)
                .map_err(|e| SessionError::lost(&uri.to_string(), "sending an option", e))?;
            out.clear();
            if hungry {
                let awaited = client.awaited();
                let mut piece = [0; 4096];
                let n = receive(&mut stream, &mut piece).map_err(|source| {
                    SessionError::lost(&uri.to_string(), &format!("waiting for {awaited}"), source)
                })?;
                if n == 0 {
                    let (uri, awaited) = (uri.to_string(), awaited.to_owned());
                    return Err(SessionError::Closed { uri, awaited });
                }
                input.extend_from_slice(&piece[..n]);
            }
        }
    }

    /// What was agreed.
    pub(crate) fn terms(&self) -> &Terms {
        self.client.terms()
    }

    /// Copies `len` bytes from `at` on to `sink`.
    pub(crate) fn read(
        &mut self,
        at: u64,
        len: u64,
        sink: &mut dyn Write,
    ) -> Result<(), SessionError> {
        let done = self.read_pieces(at, len, sink);
        self.settled(done)
    }

    fn read_pieces(&mut self, at: u64, len: u64, sink: &mut dyn Write) -> Result<(), SessionError> {
        let piece = self.piece();
        let end = at.saturating_add(len);
        let mut next = at;
        let mut out = Vec::new();
        let mut flying: VecDeque<Piece> = VecDeque::new();
        while next < end || !flying.is_empty() {
            while next < end && flying.len() < DEPTH {
                let len = piece.min(end - next);
                let cookie = match self.client.read(next, len, false, &mut out) {
                    Ok(cookie) => cookie,
                    Err(why) => {
                        // Those before it are waited for, so they have to leave.
                        self.send(&mut out)?;
                        return Err(self.unfit(&reading(next, len), why));
                    }
                };
                let bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
                flying.push_back(Piece { cookie, at: next, bytes, done: false });
                next += len;
            }
            self.send(&mut out)?;
            let (cookie, result) = self.wait(|event| {
                let (Event::Data { cookie, at, bytes }, mut pieces) = (event, flying.iter_mut())
                else {
                    // A hole: the pieces begin as zeroes.
                    return;
                };
                if let Some(piece) = pieces.find(|piece| piece.cookie == cookie) {
                    piece.put(at, bytes);
                }
            })?;
            if let Some(piece) = flying.iter_mut().find(|piece| piece.cookie == cookie) {
                let len = piece.bytes.len() as u64;
                result.map_err(|why| self.failed(&reading(piece.at, len), why))?;
                piece.done = true;
            }
            while let Some(piece) = flying.pop_front_if(|piece| piece.done) {
                sink.write_all(&piece.bytes).map_err(SessionError::Output)?;
            }
        }
        sink.flush().map_err(SessionError::Output)
    }

    /// Copies all of `source` to the export from `at` on. Says how many bytes.
    pub(crate) fn write(
        &mut self,
        at: u64,
        source: &mut dyn Read,
        durability: Durability,
    ) -> Result<u64, SessionError> {
        let done = self.write_pieces(at, source, durability.fua);
        let written = self.settled(done)?;
        if durability.flush {
            self.flush()?;
        }
        Ok(written)
    }

    fn write_pieces(
        &mut self,
        at: u64,
        source: &mut dyn Read,
        fua: bool,
    ) -> Result<u64, SessionError> {
        let piece = usize::try_from(self.piece()).unwrap_or(usize::MAX);
        let mut next = at;
        let mut flying: VecDeque<(u64, u64, u64)> = VecDeque::new();
        let mut payload = Vec::with_capacity(piece);
        let mut out = Vec::new();
        let mut ended = false;
        while !ended || !flying.is_empty() {
            if !ended && flying.len() < DEPTH {
                payload.clear();
                let mut limited = source.take(piece as u64);
                limited.read_to_end(&mut payload).map_err(SessionError::Input)?;
                ended = payload.is_empty();
                if !ended {
                    let len = payload.len() as u64;
                    let sent = self.client.write(next, len, fua, &mut out);
                    let cookie = sent.map_err(|why| self.unfit(&writing(next, len), why))?;
                    // In one piece: a header must not travel alone.
                    out.extend_from_slice(&payload);
                    self.send(&mut out)?;
                    flying.push_back((cookie, next, len));
                    next += len;
                }
                continue;
            }
            let (cookie, result) = self.wait(|_| ())?;
            if let Some(index) = flying.iter().position(|(of, ..)| *of == cookie)
                && let Some((_, at, len)) = flying.remove(index)
            {
                result.map_err(|why| self.failed(&writing(at, len), why))?;
            }
        }
        Ok(next - at)
    }

    /// Makes what was written durable. A server without flush has nothing to lose, or says nothing
    /// about it.
    fn flush(&mut self) -> Result<(), SessionError> {
        let mut out = Vec::new();
        match self.client.flush(&mut out) {
            Err(Unfit::NotOffered(_)) => return Ok(()),
            Err(why) => return Err(self.unfit("flush", why)),
            Ok(_) => self.send(&mut out)?,
        }
        let (_, result) = self.wait(|_| ())?;
        result.map_err(|why| self.failed("flush", why))
    }

    /// After a failure that leaves the connection in step, lets everything that was asked be
    /// answered. Some servers take it badly when a client leaves before that,
    /// nbdkit 1.32 by an assertion.
    fn settled<T>(&mut self, done: Result<T, SessionError>) -> Result<T, SessionError> {
        let in_step = matches!(
            done,
            Err(SessionError::Unfit { .. }
                | SessionError::Failed { .. }
                | SessionError::Input(_)
                | SessionError::Output(_))
        );
        while in_step && self.client.outstanding() > 0 && self.wait(|_| ()).is_ok() {}
        done
    }

    /// Ends the session. Everything that was asked has been answered.
    pub(crate) fn close(mut self) {
        let mut out = Vec::new();
        self.client.disconnect(&mut out);
        // Nothing depends on it: the server sees the end of the stream too.
        self.stream.write_all(&out).ok();
    }

    /// Waits for the end of any request; what comes before that goes to `take`.
    fn wait(
        &mut self,
        mut take: impl FnMut(Event<'_>),
    ) -> Result<(u64, Result<(), Failure>), SessionError> {
        loop {
            let there = self.input.get(self.start..self.end).unwrap_or_default();
            let (eaten, event) = self
                .client
                .step(there)
                .map_err(|source| SessionError::Violation { uri: self.uri.clone(), source })?;
            self.start += eaten;
            match event {
                Some(Event::Done { cookie, result }) => return Ok((cookie, result)),
                Some(event) => take(event),
                None => self.fill()?,
            }
        }
    }

    /// Receives more, behind what is left.
    fn fill(&mut self) -> Result<(), SessionError> {
        self.input.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let room = self.input.get_mut(self.end..).unwrap_or_default();
        let doing = "waiting for a reply";
        let n = receive(&mut self.stream, room)
            .map_err(|source| SessionError::lost(&self.uri, doing, source))?;
        if n == 0 {
            let awaited = format!("the replies to {} requests", self.client.outstanding());
            return Err(SessionError::Closed { uri: self.uri.clone(), awaited });
        }
        self.end += n;
        Ok(())
    }

    fn send(&mut self, out: &mut Vec<u8>) -> Result<(), SessionError> {
        let sent = self.stream.write_all(out);
        out.clear();
        sent.map_err(|error| {
            let source = match error.kind() {
                io::ErrorKind::WouldBlock => silent("nothing was taken in 60 s"),
                _ => error,
            };
            SessionError::lost(&self.uri, "sending a request", source)
        })
    }

    /// The length of one read or write: a multiple of the block size, in the server's limit.
    fn piece(&self) -> u64 {
        let blocks = self.terms().blocks;
        let longest = PIECE.min(self.client.longest_payload());
        longest - longest % u64::from(blocks.minimum.max(1))
    }

    fn unfit(&self, doing: &str, source: Unfit) -> SessionError {
        SessionError::Unfit { uri: self.uri.clone(), doing: doing.to_owned(), source }
    }

    fn failed(&self, doing: &str, source: Failure) -> SessionError {
        SessionError::Failed { uri: self.uri.clone(), doing: doing.to_owned(), source }
    }
}

/// A read in flight.
#[derive(Debug)]
struct Piece {
    cookie: u64,
    at: u64,
    bytes: Vec<u8>,
    done: bool,
}

impl Piece {
    /// The machine has seen to it that the bytes lie inside.
    fn put(&mut self, at: u64, bytes: &[u8]) {
        let start = usize::try_from(at - self.at).unwrap_or(usize::MAX);
        if let Some(place) = self.bytes.get_mut(start..start + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }
}

fn reading(at: u64, len: u64) -> String {
    format!("read {len} bytes at {at}")
}

fn writing(at: u64, len: u64) -> String {
    format!("write {len} bytes at {at}")
}

/// One read, again if a signal came between. A stream that stays silent is a timeout.
fn receive(stream: &mut File, room: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(room) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(silent("no answer in 60 s"));
            }
            other => return other,
        }
    }
}

/// What the socket's own time limit means.
fn silent(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}
