//! The transmission of one connection, on one task: receive, answer, send, again.
//!
//! One receive takes in many requests; a disk that need not wait answers them in place; the
//! replies leave in one send. What would block goes to the blocking pool and comes back through
//! `blocking`. Reads and sends wait at the same time, so neither end can hold up the other.

mod intake;
mod reply;

use std::{
    io::{self, IoSlice},
    sync::Arc,
    time::Duration,
};

use nbd::{Buffer, Gather, Terms};
use tokio::sync::watch;

use self::intake::{Intake, Want};
pub(super) use self::reply::op;
use super::{End, Life, Traffic, blocking::Blocking, pool, spin::Spin, stream::Stream};
use crate::sys::socket::MAX_RUNS;
use disk::{Answer, Disk, Slice};

/// Answered bytes after which a turn sends, and other connections of the thread get theirs.
const TURN: u64 = 1 << 20;
/// Replies that wait for a client that does not read, in bytes; beyond it nothing is taken in.
/// The most a connection holds is `pool::LARGE` + this + `MAX_BLOCKED` + 2 x `MAX_PAYLOAD`.
const MAX_WAITING: u64 = 16 << 20;
/// Payload of requests in the blocking pool, in bytes; beyond it nothing is taken in.
const MAX_BLOCKED: u64 = 32 << 20;

/// Between two looks whether the client of requests that take long is still there.
const LOOK_FOR_CLIENT: Duration = Duration::from_millis(250);

/// A connection in transmission.
#[derive(Debug)]
pub(super) struct Transmission {
    /// Its number, for the log.
    connection: u64,
    stream: Stream,
    disk: Arc<dyn Disk>,
    terms: Terms,
    /// Longest write that does not end the connection, bytes.
    write_endured: u64,
    intake: Intake,
    buffer: Buffer,
    /// What disks put their answers into; kept for its memory.
    answer: Answer,
    out: Gather<Slice>,
    /// The last send found no room.
    stuck: bool,
    blocking: Blocking,
    spin: Spin,
    traffic: Traffic,
    /// Whether the last write was a large one.
    large_writes: bool,
    /// Bytes answered since others had their turn.
    turn: u64,
}

impl Transmission {
    /// `received` has come behind the negotiation's last byte.
    pub(super) fn new(
        connection: u64,
        stream: Stream,
        disk: Arc<dyn Disk>,
        terms: Terms,
        received: &[u8],
        blocking: Blocking,
    ) -> Self {
        let mut buffer = Buffer::default();
        if !received.is_empty() {
            pool::grow(&mut buffer);
            buffer.spare()[..received.len()].copy_from_slice(received);
            buffer.added(received.len());
        }
        let write_endured = disk.facts().write_endured.into();
        Self {
            connection,
            stream,
            disk,
            terms,
            write_endured,
            intake: Intake::Header,
            buffer,
            answer: Answer::default(),
            out: Gather::default(),
            stuck: false,
            blocking,
            spin: Spin::default(),
            traffic: Traffic::default(),
            large_writes: false,
            turn: 0,
        }
    }

    /// Runs to the end.
    pub(super) async fn run(mut self, mut life: watch::Receiver<Life>) -> (End, Traffic) {
        let end = self.serve(&mut life).await;
        if end == End::Disconnected && self.blocking.holds {
            tokio::select! {
                () = self.disk.part() => {}
                _ = life.wait_for(|life| *life == Life::Ending) => {}
            }
        }
        self.stream.wire().release();
        if end == End::Disconnected {
            // The client closes first. Over vsock Linux answers ENOTCONN, and not an end of the stream, to
            // one that says it sends no more when the other side has closed already, as libnbd does.
            self.stream.finish_sending();
            super::linger(self.stream.wire()).await;
        } else {
            self.stream.say_goodbye();
        }
        (end, self.traffic)
    }

    async fn serve(&mut self, life: &mut watch::Receiver<Life>) -> End {
        loop {
            if life.has_changed().is_ok_and(|changed| changed) {
                let now = *life.borrow_and_update();
                match now {
                    Life::Serving => {}
                    Life::Draining => return self.drain(life).await,
                    Life::Ending => return End::Cut,
                }
            }
            self.blocking.reap(|finished| {
                reply::finish(&self.terms, &mut self.out, &mut self.traffic, finished);
            });
            let want = self.take_in().unwrap_or_else(|violation| {
                self.intake = Intake::Closed(End::Violation(violation));
                Want::Nothing
            });
            if let Err(error) = self.send() {
                return End::from_send(&error);
            }
            if let Intake::Closed(end) = &self.intake
                && self.is_all_sent()
                && self.blocking.is_empty()
            {
                return end.clone();
            }
            if self.turn >= TURN {
                self.turn = 0;
                tokio::task::yield_now().await;
            }
            match want {
                Want::Input => match self.receive() {
                    Ok(()) => continue,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => {
                        self.intake = Intake::Closed(End::from_receive(&error));
                        continue;
                    }
                },
                Want::Room if self.has_room() => continue,
                Want::Room | Want::Nothing => {}
            }
            self.wait(life, want).await;
        }
    }

    /// Waits until there is something to do.
    async fn wait(&mut self, life: &mut watch::Receiver<Life>, want: Want) {
        if self.is_all_sent() && self.blocking.is_empty() && self.spin.turn() {
            tokio::task::yield_now().await;
            return;
        }
        self.spin.stop();
        pool::shrink(&mut self.buffer);
        self.stream.rest();
        self.out.shrink();
        // While nothing is received, only a look shows that the client of a long request has gone.
        let watches = want != Want::Input && !self.blocking.is_empty();
        // Errors come back from the call that they concern.
        tokio::select! {
            _ = self.stream.readable(), if want == Want::Input => {}
            _ = self.stream.writable(), if !self.is_all_sent() => {}
            () = self.blocking.some() => {}
            () = tokio::time::sleep(LOOK_FOR_CLIENT), if watches => {
                if self.stream.wire().has_hung_up() {
                    self.blocking.client_gone();
                }
            }
            Ok(()) = life.changed() => life.mark_changed(),
        }
    }

    /// No reply waits to be sent, here or in TLS.
    fn is_all_sent(&self) -> bool {
        self.out.is_empty() && self.stream.is_flushed()
    }

    /// May another request be taken in?
    fn has_room(&self) -> bool {
        self.out.len() < if self.stuck { MAX_WAITING } else { TURN }
            && self.blocking.has_room(MAX_BLOCKED)
    }

    /// Sends as much as goes.
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
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The agent is going away: nothing new is taken in; what was is finished, made durable and
    /// answered.
    async fn drain(&mut self, life: &mut watch::Receiver<Life>) -> End {
        let finishing = async {
            loop {
                self.blocking.reap(|finished| {
                    reply::finish(&self.terms, &mut self.out, &mut self.traffic, finished);
                });
                if let Err(error) = self.send() {
                    return End::from_send(&error);
                }
                if self.blocking.is_empty() && self.is_all_sent() {
                    break;
                }
                tokio::select! {
                    _ = self.stream.writable(), if self.stuck => {}
                    () = self.blocking.some() => {}
                }
            }
            self.blocking.flush(Arc::clone(&self.disk)).await;
            self.stream.finish_sending();
            super::linger(self.stream.wire()).await;
            End::ShutDown
        };
        tokio::select! {
            end = finishing => end,
            _ = life.wait_for(|life| *life == Life::Ending) => End::Cut,
        }
    }
}
