//! One connection in transmission, with many requests in flight, on the caller's own thread.
//!
//! ```text
//!  submit(Order) -> outgoing -> turn() <-> socket
//!                                 |
//!           pop() <- done <-------+          next_done() = turn() and poll(2) until pop() has one
//! ```
//!
//! It sends and receives at once: while the server accepts no requests, its replies are still read, so the two
//! ends cannot wait for each other for ever. Large reads are received in place. The caller chooses how many
//! requests are in flight. Nothing is retried here; `unanswered` returns the requests that a broken connection
//! leaves unanswered.

mod input;
mod order;
mod outgoing;
mod passed_over;
mod receive;
mod wait;

use std::{
    collections::{HashMap, VecDeque},
    fs::File,
    io::{self, Write},
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
    time::Instant,
};

use nbd::{Terms, negotiate::Described, transmit::client::Client as Machine};
use nix::{
    poll::PollFlags,
    sys::socket::{getsockopt, sockopt::PeerCredentials},
};

pub use self::order::{Done, Extent, Order, Verb};
pub use self::wait::{least, wait};
use self::{input::Input, outgoing::Outgoing, passed_over::PassedOver};
use crate::{
    connect::Connected,
    error::ClientError,
    stream::Stream,
    timeout::{Pulse, Timeout},
};

/// The length from which a read is received in place, in bytes.
const LARGE: u64 = 32 << 10;

/// Whether there is more to do after a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turned {
    /// There is not: poll(2) says when there is.
    Idle,
    /// There may be: bytes to send or to receive, perhaps inside the client, so that poll(2) would not say so.
    Busy,
}

/// An open export: one connection, on the caller's thread. `AsFd` and `interest` are for callers that wait by
/// themselves.
///
/// ```no_run
/// use nbd_client::{Connector, Order, Timeout};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let connector = Connector::new(Timeout::default());
/// let mut client = connector.open(&"nbd+vsock://2/".parse()?)?;
/// for at in [0, 4096, 8192] {
///     client.submit(Order::read(at, 4096, Vec::new()))?;
/// }
/// while client.under_way() > 0 {
///     // In the order in which the server answers.
///     let done = client.next_good()?;
///     println!("{} bytes at {}", done.order.bytes.len(), done.order.at);
/// }
/// client.close();
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Client {
    /// The server's name for errors.
    name: String,
    stream: Stream,
    machine: Machine,
    described: Described,
    input: Input,
    /// Requests in flight, by cookie.
    flying: HashMap<u64, Done>,
    passed_over: PassedOver,
    /// How many of those are reads that are received in place.
    large: usize,
    outgoing: Outgoing,
    /// Writes that were answered before their whole payload was sent, because some servers fail a write after its
    /// header. They stay in `flying` until it is sent.
    early: Vec<u64>,
    done: VecDeque<Done>,
    pulse: Pulse,
}

impl Client {
    /// Takes a connection over. `name` is what messages call the server, and `timeout` is how long it may owe an
    /// answer.
    ///
    /// # Errors
    /// `ClientError::Violation` if the server has sent an answer without a request.
    pub fn over(name: String, connected: Connected, timeout: Timeout) -> Result<Self, ClientError> {
        let Connected { mut stream, received, machine, described } = connected;
        // Bytes of the negotiation are no sign of life for a request.
        stream.take_moved();
        let input = Input::new(received);
        let (flying, large) = (HashMap::new(), 0);
        let (outgoing, early, done) = (Outgoing::default(), Vec::new(), VecDeque::new());
        let mut client = Self {
            name,
            stream,
            machine,
            described,
            input,
            flying,
            passed_over: PassedOver::default(),
            large,
            outgoing,
            early,
            done,
            pulse: Pulse::new(timeout),
        };
        // Bytes that arrived before any request must not be taken for an answer.
        client.input.open();
        let consumed = client.consume();
        client.input.close();
        consumed.map(|()| client)
    }

    /// What was negotiated: size, flags, framing, block sizes, contexts.
    pub fn terms(&self) -> &Terms {
        self.machine.terms()
    }

    /// How the server described the export.
    pub const fn described(&self) -> &Described {
        &self.described
    }

    /// The longest read or write, in bytes.
    pub fn longest_payload(&self) -> u64 {
        self.machine.longest_payload()
    }

    /// The longest range, in bytes, that is safe for the other commands: a multiple of every block size. nbdkit
    /// 1.32 fails an assertion when asked for the extents of 2^32-1 bytes.
    pub fn longest_range(&self) -> u64 {
        self.machine.longest_range() & !0xffff
    }

    /// How many requests were submitted and not popped.
    pub fn under_way(&self) -> usize {
        self.flying.len() + self.done.len()
    }

    /// Since when the server owes a sign of life, by the rule of the module `timeout`, or the answer to a request while
    /// it has answered later ones. `None` if no request is in flight.
    pub fn owes_since(&self) -> Option<Instant> {
        let heard = (!self.flying.is_empty()).then(|| self.pulse.heard());
        heard.into_iter().chain(self.passed_over.since()).min()
    }

    /// Queues a request; `turn` sends it. The caller chooses how many requests are in flight.
    ///
    /// # Errors
    /// `ClientError::Unfit` if the request does not fit the export. It is not sent, and the connection continues.
    pub fn submit(&mut self, mut order: Order) -> Result<(), ClientError> {
        if order.verb.reads() {
            order.bytes.resize(usize::try_from(order.len).unwrap_or(usize::MAX), 0);
        }
        let payload = if let Verb::Write { .. } = order.verb { order.bytes.len() } else { 0 };
        let cookie = self.queue(&order, payload)?;
        self.fly(cookie, order);
        Ok(())
    }

    /// Like `submit`, for a write of borrowed bytes, which are sent at once as far as the socket takes them. The others
    /// are copied to `order.bytes`, which is empty and has room for all of them.
    ///
    /// # Errors
    /// As `submit`; `ClientError::Lost`: the connection has ended.
    pub fn submit_write(&mut self, mut order: Order, bytes: &[&[u8]]) -> Result<(), ClientError> {
        let others = !self.outgoing.is_empty();
        let cookie = self.queue(&order, bytes.iter().map(|run| run.len()).sum())?;
        let sent =
            if others { Ok(0) } else { self.outgoing.send_borrowed(&mut self.stream, bytes) };
        let mut skip = *sent.as_ref().unwrap_or(&0);
        for run in bytes {
            let here = skip.min(run.len());
            skip -= here;
            order.bytes.extend_from_slice(run.get(here..).unwrap_or_default());
        }
        self.fly(cookie, order);
        self.pulse.moved(self.stream.take_moved());
        sent.map(drop).map_err(|source| ClientError::lost(&self.name, "sending a request", source))
    }

    /// Queues the header of a request that has `payload` bytes behind it.
    fn queue(&mut self, order: &Order, payload: usize) -> Result<u64, ClientError> {
        let put = order.put(&mut self.machine, self.outgoing.heads());
        let cookie = put.map_err(|source| {
            let (name, doing) = (self.name.clone(), order.name());
            ClientError::Unfit { name, doing, source }
        })?;
        self.outgoing.push(cookie, payload);
        Ok(cookie)
    }

    fn fly(&mut self, cookie: u64, order: Order) {
        if self.flying.is_empty() {
            self.pulse.begin();
        }
        self.large += usize::from(is_large(&order));
        self.flying.insert(cookie, Done::new(order));
        self.passed_over.submitted(cookie);
    }

    /// Takes the next request that was answered; `None` if there is none yet.
    pub fn pop(&mut self) -> Option<Done> {
        self.done.pop_front()
    }

    /// Sends and receives what it can without waiting.
    ///
    /// # Errors
    /// `ClientError::{Lost, Closed, Violation}`: the connection has ended, and `unanswered` returns the requests.
    pub fn turn(&mut self) -> Result<(), ClientError> {
        self.turn_within(usize::MAX).map(drop)
    }

    /// Like `turn`, but sends and receives at most `calls` times each, for a thread that serves several clients.
    ///
    /// # Errors
    /// As `turn`.
    pub fn turn_within(&mut self, calls: usize) -> Result<Turned, ClientError> {
        let sent = self.send(calls)?;
        self.input.open();
        let received = self.receive(calls);
        self.input.close();
        received.map(|received| if sent == Turned::Busy { sent } else { received })
    }

    /// Gives up all requests with this tag, which are popped with another result or never. Memory for their answers is
    /// freed at once. A request that was not sent yet is sent, since others follow it.
    pub fn abandon(&mut self, tag: u64) {
        for done in self.flying.values_mut().filter(|done| done.order.tag == tag) {
            if done.order.verb.reads() {
                self.large -= usize::from(is_large(&done.order));
                (done.order.bytes, done.order.len) = (Vec::new(), 0);
            }
        }
    }

    /// Like `turn`, but receives nothing: for callers that learn from poll(2) when there is something to receive.
    ///
    /// # Errors
    /// As `turn`.
    pub fn push(&mut self) -> Result<(), ClientError> {
        if self.outgoing.is_empty() { Ok(()) } else { self.send(usize::MAX).map(drop) }
    }

    /// The socket, for a runtime that waits for it. It stays open as long as either is there.
    pub fn descriptor(&self) -> Arc<File> {
        self.stream.descriptor()
    }

    /// The events of poll(2) to wait for before the next `turn`.
    pub fn interest(&self) -> PollFlags {
        if self.outgoing.is_empty() && !self.stream.holds_output() {
            PollFlags::POLLIN
        } else {
            PollFlags::POLLIN | PollFlags::POLLOUT
        }
    }

    /// Returns the request, unless the server failed it.
    ///
    /// # Errors
    /// `ClientError::Failed`.
    pub fn good(&self, done: Done) -> Result<Done, ClientError> {
        match done.result {
            Ok(()) => Ok(done),
            Err(source) => {
                let (name, doing) = (self.name.clone(), done.order.name());
                Err(ClientError::Failed { name, doing, source })
            }
        }
    }

    /// The id of the process that made the server's Unix socket. `None` for other sockets, and if the process
    /// cannot be seen.
    pub fn server(&self) -> Option<i32> {
        let peer = getsockopt(&self.stream.as_fd(), PeerCredentials).ok()?;
        Some(peer.pid()).filter(|pid| *pid > 0)
    }

    /// Sends NBD_CMD_DISC and closes. Call it only when every request has been answered, because some servers fail
    /// otherwise.
    pub fn close(self) {
        let Self { machine, mut stream, outgoing, .. } = self;
        // After an incomplete request the server would take the message for a part of it.
        if outgoing.is_empty() {
            let mut out = Vec::new();
            machine.disconnect(&mut out);
            // An error does not matter: the server sees the end of the stream too.
            stream.write_all(&out).ok();
        }
        stream.end();
    }

    /// Returns the requests without an answer, in the order in which they were submitted. Pop the answers first,
    /// because they are lost otherwise.
    pub fn unanswered(self) -> Vec<Order> {
        let mut left: Vec<_> = self.flying.into_iter().collect();
        left.sort_unstable_by_key(|(cookie, _)| *cookie);
        left.into_iter().map(|(_, done)| done.order).collect()
    }

    fn send(&mut self, most: usize) -> Result<Turned, ClientError> {
        let sent = self
            .outgoing
            .send(&mut self.stream, &self.flying, most)
            .and_then(|sent| self.stream.flush().map(|()| sent))
            .or_else(|error| {
                if error.kind() == io::ErrorKind::WouldBlock {
                    Ok(Turned::Idle)
                } else {
                    Err(error)
                }
            })
            .map_err(|source| ClientError::lost(&self.name, "sending a request", source))?;
        self.pulse.moved(self.stream.take_moved());
        let outgoing = &self.outgoing;
        let left = self.early.extract_if(.., |cookie| !outgoing.has_unsent(*cookie));
        for cookie in left.collect::<Vec<_>>() {
            self.finish(cookie);
        }
        Ok(sent)
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

const fn is_large(order: &Order) -> bool {
    order.verb.reads() && order.len >= LARGE
}

#[cfg(test)]
mod tests;
