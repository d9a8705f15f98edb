//! The transmission of one connection, on one task: receive, answer, send, repeat.
//!
//! One receive takes in many requests. A disk that need not wait answers them in place. The replies leave in one send.
//! Requests that would block go to the threads of the tenant and come back through `blocking`. Receiving and sending
//! wait at the same time, so neither end can block the other.

mod alone;
mod arriving;
mod closing;
mod failures;
mod receive;
mod reply;
#[cfg(test)]
mod tests;
mod turn;

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use disk::{Answer, Disk};
use nbd::{
    Buffer, Gather,
    negotiate::Negotiated,
    transmit::{Received, Receiver},
};
use tokio::{
    sync::watch,
    time::{Instant, Sleep, sleep_until},
};

use alone::{Stop, Where};
use arriving::Arriving;
pub(super) use failures::Failures;
use receive::{Incoming, Want};
use reply::Lent;
use turn::Turn;

use super::{
    blocking::Blocking,
    busy_poll::BusyPoll,
    end::{End, Life},
    traffic::Traffic,
    turns::Turns,
};
use crate::{
    sys::socket::MAX_RUNS,
    transport::{Transport, buffer_pool},
};

/// Bytes of replies after which they are sent before more requests are taken in. The data read for them is then still
/// in the processor's cache: four times as many bytes halved the rate of 256 KiB reads from a file.
const BATCH: u64 = 320 << 10;
/// The same for a disk that lends its pages. With `BATCH` there would be twice as many sends, which costs 3 % of the
/// rate of 256 KiB reads.
const BATCH_LENT: u64 = 1 << 20;
/// Memory that these replies may hold, in bytes: most pages of a memory disk are lent whole.
const BATCH_HELD: u64 = 8 << 20;
/// Memory that replies hold which the client has not read yet, in bytes. Beyond it no request is taken in.
const MAX_WAITING: u64 = 16 << 20;
/// Replies that hold this many bytes more than they need are copied when they have to wait.
const SLACK: u64 = 256 << 10;
/// Payload of requests on other threads, in bytes. Beyond it no request is taken in.
const MAX_BLOCKED: u64 = 32 << 20;
/// The interval between two checks whether the client of long requests is still there. Over TCP the end of a stream
/// comes after all data sent before it. So a client that has filled the receive buffer is found to be gone only when it
/// resets the connection, or when the kernel's keepalive gets no answer.
const LOOK_FOR_CLIENT: Duration = Duration::from_millis(250);

/// The result of a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waited {
    /// There may be something to do.
    Enough,
    /// Nothing has happened for long, and the connection has a thread to itself.
    Idle,
}

/// A connection in transmission.
#[derive(Debug)]
pub(super) struct Transmission {
    /// Its number, for the log.
    connection: u64,
    stream: Transport,
    disk: Arc<dyn Disk>,
    receiver: Receiver,
    /// A received request that waits for memory.
    waiting: Option<Received>,
    /// The large write that is being received.
    incoming: Option<Incoming>,
    /// The request that was incomplete at the last wait.
    arriving: Option<Arriving>,
    /// Wakes the connection when a request may have taken too long to arrive. It is set once and not for each wait,
    /// because most requests arrive before.
    watchdog: Option<Pin<Box<Sleep>>>,
    /// If set, nothing more is taken in, and the connection ends with this once all requests are answered.
    ended: Option<End>,
    buffer: Buffer,
    /// The buffer for the answers of disks; kept to reuse its memory.
    answer: Answer,
    out: Gather<Lent>,
    /// The last send would have blocked.
    stuck: bool,
    /// `BATCH`, or `BATCH_LENT`.
    batch: u64,
    blocking: Blocking,
    busy_poll: BusyPoll,
    traffic: Traffic,
    failures: Failures,
    /// Whether the last write was a large one.
    large_writes: bool,
    turn: Turn,
    runs: Where,
}

impl Transmission {
    /// `received` are the bytes after the negotiation's last one.
    pub(super) fn new(
        connection: u64,
        stream: Transport,
        disk: Arc<dyn Disk>,
        negotiated: Negotiated,
        received: &[u8],
        blocking: Blocking,
        failures: Failures,
    ) -> Self {
        let mut buffer = Buffer::default();
        if !received.is_empty() {
            // It fits: it is at most as long as the negotiation's buffer.
            buffer_pool::small(&mut buffer);
            buffer.spare()[..received.len()].copy_from_slice(received);
            buffer.added(received.len());
        }
        let info = disk.info();
        let write_cutoff = info.write_cutoff.into();
        let batch = if info.lends { BATCH_LENT } else { BATCH };
        Self {
            connection,
            stream,
            disk,
            receiver: Receiver::new(negotiated, write_cutoff),
            waiting: None,
            incoming: None,
            arriving: None,
            watchdog: None,
            ended: None,
            buffer,
            answer: Answer::default(),
            out: Gather::default(),
            stuck: false,
            batch,
            blocking,
            busy_poll: BusyPoll::default(),
            traffic: Traffic::default(),
            large_writes: false,
            turn: Turn::new(),
            runs: Where::default(),
            failures,
        }
    }

    async fn serve(&mut self, life: &mut watch::Receiver<Life>) -> Stop {
        // `Turns` belong to a thread, and this future is polled on one thread only.
        let mut turns = Turns::new(&self.failures.tenant);
        begin(&mut turns).await;
        loop {
            if life.has_changed().is_ok_and(|changed| changed) {
                let now = *life.borrow_and_update();
                match now {
                    Life::Serving => {}
                    Life::Draining => return Stop::End(self.drain(life).await),
                    Life::Ending => return Stop::End(End::Cut),
                }
            }
            self.reap();
            let want = self.take_in().unwrap_or_else(|violation| {
                self.ended = Some(End::Violation(violation));
                Want::Nothing
            });
            let held = self.held();
            if let Err(error) = self.send() {
                return Stop::End(End::from_send(&error));
            }
            if let Some(end) = &self.ended
                && self.is_all_sent()
                && self.blocking.is_empty()
            {
                return Stop::End(end.clone());
            }
            if self.runs.wants_thread() {
                return Stop::Move;
            }
            // In this order, because the time has to be counted in both cases.
            if turns.count() || self.turn.is_over() {
                turns.pass().await;
                self.turn = Turn::new();
            }
            match want {
                Want::Input => match self.receive() {
                    Ok(()) => continue,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => {
                        self.ended = Some(End::from_receive(&error));
                        continue;
                    }
                },
                Want::Turn => continue,
                Want::Room if self.has_room() => continue,
                Want::Memory(_) if self.held() < held => continue,
                Want::Room | Want::Memory(_) | Want::Nothing => {}
            }
            if self.wait(life, want).await == Waited::Idle {
                return Stop::Move;
            }
            begin(&mut turns).await;
        }
    }

    /// Waits until there is something to do.
    async fn wait(&mut self, life: &mut watch::Receiver<Life>, want: Want) -> Waited {
        if self.is_all_sent() && self.poll(life, want).await {
            self.turn = Turn::new();
            return Waited::Enough;
        }
        self.busy_poll.stop();
        buffer_pool::shrink(&mut self.buffer);
        self.stream.rest();
        self.out.shrink();
        self.blocking.memory.release_to(self.held());
        // While nothing is received, only a check shows that the client has gone. That matters to a client with a long
        // request and to one that waits for memory.
        let for_memory = matches!(want, Want::Memory(_));
        let watches = for_memory || want != Want::Input && !self.blocking.is_empty();
        let needed = if let Want::Memory(needed) = want { needed } else { 0 };
        let due = self.due(want);
        if let (Some(due), None) = (due, &self.watchdog) {
            self.watchdog = Some(Box::pin(sleep_until(due)));
        }
        let paused = (want != Want::Input).then(Instant::now);
        let mut waited = Waited::Enough;
        let some = self.blocking.some();
        // An error is returned again by the call that it concerns.
        tokio::select! {
            _ = self.stream.readable(), if want == Want::Input => {}
            _ = self.stream.writable(), if !self.is_all_sent() => {}
            () = some => {}
            () = self.blocking.memory.acquire(needed), if needed > 0 => {}
            () = tokio::time::sleep(LOOK_FOR_CLIENT), if watches => {
                if for_memory && self.stream.wire().is_closed() {
                    self.ended = Some(End::ClosedInside);
                }
                if self.stream.wire().has_hung_up() {
                    self.blocking.client_gone();
                }
            }
            Some(()) = rings(&mut self.watchdog), if due.is_some() => {
                self.watchdog = None;
                if due.is_some_and(|due| due <= Instant::now()) {
                    self.ended = Some(End::Stalled);
                }
            }
            Ok(()) = life.changed() => life.mark_changed(),
            () = self.runs.tick() => {
                if self.runs.is_idle(self.traffic.requests) && self.blocking.is_empty() {
                    waited = Waited::Idle;
                }
            }
        }
        if let (Some(arriving), Some(paused)) = (&mut self.arriving, paused) {
            arriving.pause(paused.elapsed());
        }
        self.turn = Turn::new();
        waited
    }

    /// Polls a few times for more bytes and for finished requests, before the connection goes to sleep. Returns true if
    /// there is something to do. A poll that finds nothing does nothing else, because connections that poll share the
    /// thread with those that work.
    async fn poll(&mut self, life: &watch::Receiver<Life>, want: Want) -> bool {
        if want != Want::Input && self.blocking.is_empty() {
            return false;
        }
        while self.busy_poll.turn() {
            tokio::task::yield_now().await;
            if self.blocking.has_finished() {
                self.busy_poll.hit(false);
                return true;
            }
            let received = match want {
                Want::Input => self.receive(),
                _ => Err(io::ErrorKind::WouldBlock.into()),
            };
            match received {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(()) => return true,
                Err(error) => {
                    self.ended = Some(End::from_receive(&error));
                    return true;
                }
            }
            if life.has_changed().is_ok_and(|changed| changed) {
                return true;
            }
        }
        false
    }

    /// The time at which the connection ends unless more of a request that has begun has arrived.
    fn due(&mut self, want: Want) -> Option<Instant> {
        if !self.receiver.is_inside(&self.buffer) {
            self.arriving = None;
            return None;
        }
        if want != Want::Input {
            return None;
        }
        let missing = self.receiver.payload_left();
        Some(Arriving::due(&mut self.arriving, self.traffic.requests, missing))
    }

    /// No reply waits to be sent, here or in TLS.
    fn is_all_sent(&self) -> bool {
        self.out.is_empty() && self.stream.is_flushed()
    }

    /// Whether another request may be taken in.
    fn has_room(&self) -> bool {
        let sent_soon = if self.stuck {
            self.out.held() < MAX_WAITING
        } else {
            self.out.len() < self.batch && self.out.held() < BATCH_HELD
        };
        sent_soon && self.blocking.has_room(MAX_BLOCKED)
    }

    /// Bytes of memory that the connection holds.
    fn held(&self) -> u64 {
        self.buffer.capacity() as u64
            + self.stream.held()
            + self.out.held()
            + self.blocking.bytes()
            + self.incoming.as_ref().map_or(0, Incoming::held)
    }

    /// Sends as much as possible without blocking.
    fn send(&mut self) -> io::Result<()> {
        self.stuck = false;
        while !self.is_all_sent() {
            let sent = if self.out.is_empty() {
                self.stream.try_flush()
            } else {
                let mut runs: Vec<IoSlice<'_>> = Vec::with_capacity(128);
                self.out.slices(MAX_RUNS, &mut runs);
                self.stream.try_send(&runs).map(|n| self.out.advance(n as u64))
            };
            match sent {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.stuck = true;
                    if self.out.held() > 2 * self.out.len() + SLACK {
                        self.out.compact();
                    }
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Begins to work after a wait. It may wait for a turn, because many connections of a tenant may become ready at once.
async fn begin(turns: &mut Turns) {
    if turns.begin() {
        turns.pass().await;
    }
}

/// Waits for the watchdog, if there is one.
async fn rings(watchdog: &mut Option<Pin<Box<Sleep>>>) -> Option<()> {
    watchdog.as_mut()?.await;
    Some(())
}
