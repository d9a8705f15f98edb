//! Connects the kernel's driver and the server: one thread that waits for both.
//!
//! ```text
//!            requests                 orders
//!  kernel --> Frontend --> Inflight::accept --> ready ----> Client --> server
//!  kernel <-- Frontend <-- Inflight::replies <-- finish <-- Client <-- server
//! ```
//!
//! `reconnect` describes what happens when a server goes away. `device` starts the relay with its frontends
//! and waits for its end. The relay ends when the kernel disconnects.

mod reconnect;

use std::{
    os::fd::AsFd,
    time::{Duration, Instant},
};

use human::chain;
use nbd::{transmit::client::Failure, wire::Errno as Code};
use nbd_client::{Client, Done, Order, Verb};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::{
    frontend::{Frontend, FrontendError, Next},
    inflight::Inflight,
    notify::tell,
    redial::Redial,
    saved::{Mark, Saved},
    state::Shared,
};

/// The most bytes of payload in flight. At this bound the relay takes no more requests from the kernel.
const WEIGHT: usize = 64 << 20;
/// Tags of orders that do not come from the kernel.
const OWN_FLUSH: u64 = u64::MAX;
const REPLAYED: u64 = u64::MAX - 1;

/// The state of the connections to the server.
#[derive(Debug)]
enum Net {
    Up(Vec<Client>),
    /// Acknowledged changes are sent again, from this offset on.
    Replay(Vec<Client>, u64),
    /// The time of the next try, and the number of tries so far.
    Down(Instant, u32),
}

/// The relay between the frontends and the server.
#[derive(Debug)]
pub(super) struct Relay {
    frontends: Vec<Box<dyn Frontend>>,
    net: Net,
    redial: Redial,
    inflight: Inflight,
    /// Since when requests are unanswered because connections broke.
    broken: Option<Instant>,
    /// How many connections were made since the last answer. A server may be reachable and give no valid
    /// answer.
    vain: u32,
    dead_timeout: Option<Duration>,
    /// The dead timeout has expired.
    failing: bool,
    /// The most bytes of acknowledged changes to keep. Beyond that the relay sends a flush.
    keep: usize,
    /// The mark that the relay's own flush covers, while it is in flight.
    flush: Option<u64>,
    /// The last flush failed.
    cannot_flush: bool,
    /// One of the relay's own flushes failed and the kernel has not been told. A later flush would not
    /// report what the server lost.
    untold: bool,
    /// A flush of the kernel's was answered, with an error if `untold` was set.
    telling: bool,
    /// The relay before this one was killed. Only this run of the server has the changes that were
    /// acknowledged to that relay and not flushed.
    inherits: bool,
    /// What the next relay has to know, if there can be one.
    saved: Option<Saved>,
    mark: Option<Mark>,
    state: Shared,
}

impl Relay {
    pub(super) fn new(
        (frontends, clients): (Vec<Box<dyn Frontend>>, Vec<Client>),
        redial: Redial,
        inflight: Inflight,
        (dead_timeout, keep): (Option<Duration>, usize),
        (saved, inherits): (Option<(Saved, Mark)>, bool),
        state: Shared,
    ) -> Self {
        // A server that keeps nothing back until a flush cannot lose anything.
        let inherits = inherits && inflight.flushes();
        let (saved, mark) = saved.unzip();
        Self {
            frontends,
            net: Net::Up(clients),
            redial,
            inflight,
            broken: None,
            vain: 0,
            dead_timeout,
            failing: false,
            keep,
            flush: None,
            cannot_flush: false,
            untold: saved.as_ref().is_some_and(|saved| saved.untold),
            telling: false,
            inherits,
            saved,
            mark,
            state,
        }
    }

    /// Relays until the kernel has disconnected.
    pub(super) fn run(mut self) -> Result<(), FrontendError> {
        self.frontends.iter_mut().try_for_each(|frontend| frontend.begin())?;
        while !self.frontends.iter().all(|frontend| frontend.has_ended()) {
            self.take_requests()?;
            self.ask();
            self.answer_kernel()?;
            self.note();
            self.wait()?;
            self.keep_connected();
        }
        self.goodbye();
        Ok(())
    }

    /// Whether to take requests: while a connection can take them, or when they are to fail at once.
    fn accepts(&self) -> bool {
        let kept = self.inflight.unflushed.held() > 2 * self.keep && !self.cannot_flush;
        let open = matches!(self.net, Net::Up(_)) || self.failing;
        open && !kept && self.inflight.weight() < WEIGHT
    }

    fn take_requests(&mut self) -> Result<(), FrontendError> {
        for index in 0..self.frontends.len() {
            while self.accepts() {
                let Some(frontend) = self.frontends.get_mut(index) else { break };
                let Next::Asked(asked) = frontend.next()? else { break };
                let room = frontend.room();
                let full = self.inflight.unflushed.held() > 2 * self.keep;
                if self.failing && !matches!(self.net, Net::Up(_)) {
                    frontend.answer(asked.request.cookie, Code::EIO, Vec::new())?;
                } else if full && !asked.bytes.is_empty() {
                    // The server cannot make anything durable, and no more can be kept here.
                    self.flush_ourselves();
                    if let Some(frontend) = self.frontends.get_mut(index) {
                        frontend.answer(asked.request.cookie, Code::EIO, Vec::new())?;
                    }
                } else {
                    self.inflight.accept(index, asked, room);
                }
            }
        }
        Ok(())
    }

    /// Sends the orders that are ready.
    fn ask(&mut self) {
        let much = self.inflight.unflushed.held() > self.keep;
        if (much || self.inherits) && !self.cannot_flush {
            self.flush_ourselves();
        }
        let Net::Up(clients) = &mut self.net else { return };
        while let Some(order) = self.inflight.next_order() {
            let Some(client) = clients.iter_mut().min_by_key(|client| client.under_way()) else {
                break;
            };
            let bare = Order { bytes: Vec::new(), ..order };
            if let Err(error) = client.submit(order) {
                tell(&format!("the server is not asked: {}", chain(&error)));
                self.inflight.finish(bare, Code::EINVAL);
            }
        }
        let pushed = clients.iter_mut().try_for_each(Client::push);
        self.unless_broken(pushed);
    }

    /// Sends a flush that the kernel did not ask for, unless one is in flight.
    fn flush_ourselves(&mut self) {
        let Net::Up(clients) = &mut self.net else { return };
        if self.flush.is_none()
            && let Some(client) = clients.first_mut()
            && client.submit(Order::bare(Verb::Flush, 0, 0).tagged(OWN_FLUSH)).is_ok()
        {
            self.flush = Some(self.inflight.unflushed.mark());
        }
    }

    fn answer_kernel(&mut self) -> Result<(), FrontendError> {
        let unflushed = !self.inflight.unflushed.is_empty() || self.inherits || self.untold;
        if let Some(mark) = &mut self.mark
            && let Err(error) = mark.set(unflushed)
        {
            tell(&format!("cannot write for the next relay which changes are flushed: {error}"));
        }
        for reply in self.inflight.replies() {
            if let Some(frontend) = self.frontends.get_mut(reply.frontend) {
                frontend.answer(reply.cookie, reply.error, reply.payload)?;
            }
        }
        self.frontends.iter_mut().try_for_each(|frontend| frontend.send())?;
        // Only after the kernel has the answer, because this process may be killed in between.
        if std::mem::take(&mut self.telling) {
            self.owe_failure(false);
        }
        Ok(())
    }

    /// Waits until there is something to do, and receives from the connections that are ready.
    fn wait(&mut self) -> Result<(), FrontendError> {
        let accepts = self.accepts();
        let timeout = self.timeout();
        let clients = match &self.net {
            Net::Up(clients) | Net::Replay(clients, _) => clients.as_slice(),
            Net::Down(..) => &[],
        };
        let mut fds = vec![PollFd::new(self.redial.as_fd(), PollFlags::POLLIN)];
        fds.extend(clients.iter().map(|client| PollFd::new(client.as_fd(), client.interest())));
        let frontends: Vec<_> = (0..self.frontends.len())
            .filter(|&index| {
                self.frontends.get(index).is_some_and(|frontend| !frontend.has_ended())
            })
            .collect();
        if frontends.is_empty() {
            // The kernel has left during this turn, and nothing would wake this thread any more.
            return Ok(());
        }
        for frontend in frontends.iter().filter_map(|&index| self.frontends.get(index)) {
            fds.push(PollFd::new(frontend.as_fd(), frontend.interest(accepts)));
        }
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            // Without poll there is nothing left to try. The loop continues.
            Err(errno) => tell(&format!("cannot wait for the sockets: {errno}")),
        }
        let happened: Vec<_> = fds.iter().map(|fd| fd.any().unwrap_or_default()).collect();
        let lane_events: Vec<_> = fds
            .iter()
            .skip(1 + clients.len())
            .map(|fd| fd.revents().unwrap_or(PollFlags::empty()))
            .collect();
        let woken = happened.get(1..=clients.len()).unwrap_or_default().to_vec();
        drop(fds);
        for (index, events) in frontends.into_iter().zip(lane_events) {
            let Some(frontend) = self.frontends.get_mut(index) else { continue };
            if events.contains(PollFlags::POLLHUP) {
                frontend.end();
            } else if events.contains(PollFlags::POLLIN) {
                frontend.wake()?;
            }
        }
        self.receive(&woken);
        Ok(())
    }

    /// How long to wait until something is due without an event.
    fn timeout(&self) -> PollTimeout {
        let since = if self.failing { None } else { self.broken };
        let dead = since.or_else(|| self.asked_since()).zip(self.dead_timeout);
        let dead = dead.map(|(since, timeout)| since + timeout);
        let next = match self.net {
            Net::Down(next, _) if !self.redial.is_under_way() => Some(next),
            _ => None,
        };
        let Some(first) = [dead, next].into_iter().flatten().min() else {
            return PollTimeout::NONE;
        };
        // Rounded up: a poll that ends early would find nothing to do.
        let left = first.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
    }

    /// Since when the server owes an answer on one of the connections, if it does.
    fn asked_since(&self) -> Option<Instant> {
        let (Net::Up(clients) | Net::Replay(clients, _)) = &self.net else { return None };
        clients.iter().filter_map(Client::owes_since).min()
    }

    fn receive(&mut self, woken: &[bool]) {
        let (Net::Up(clients) | Net::Replay(clients, _)) = &mut self.net else { return };
        let mut answered = Vec::new();
        let mut turned = Ok(());
        for (client, _) in clients.iter_mut().zip(woken).filter(|(_, woken)| **woken) {
            // One turn only: what is left is still there for the next poll.
            turned = client.turn();
            answered.extend(std::iter::from_fn(|| client.pop()));
            if turned.is_err() {
                break;
            }
        }
        for done in answered {
            if let Some(reason) = self.answered(done) {
                self.broke(&reason);
            }
        }
        self.unless_broken(turned);
    }

    /// Handles an answer of the server. Returns a reason if the connections have to be given up.
    fn answered(&mut self, mut done: Done) -> Option<String> {
        let failed = done.result.as_ref().err();
        match (done.order.tag, failed) {
            // The server will come back and do the request then.
            (tag, Some(failure)) if failure.errno == Code::ESHUTDOWN => {
                if tag < REPLAYED {
                    self.inflight.unanswered(done.order);
                }
                return Some("the server is shutting down".to_owned());
            }
            (OWN_FLUSH, failed) => {
                let mark = self.flush.take();
                self.cannot_flush = failed.is_some();
                match (failed, mark) {
                    (Some(failure), _) => {
                        let text = format!("a flush failed: {failure}");
                        self.owe_failure(true);
                        tell(&text);
                    }
                    (None, Some(mark)) => {
                        self.inflight.unflushed.flushed(mark);
                        self.inherits = false;
                    }
                    (None, None) => {}
                }
            }
            (REPLAYED, Some(failure)) => {
                let what = done.order.name();
                return Some(format!(
                    "the server acknowledged a change, may have lost it, and refuses it now: \
                     cannot {what}: {failure}"
                ));
            }
            (REPLAYED, None) => self.state.lock().replayed += 1,
            _ => {
                if done.order.verb == Verb::Flush {
                    if self.untold && failed.is_none() {
                        let text = "a flush before this one failed".to_owned();
                        done.result = Err(Failure { errno: Code::EIO, text, at: None });
                    }
                    self.telling = true;
                    let flushed = done.result.is_ok();
                    self.cannot_flush &= !flushed;
                    self.inherits &= !flushed;
                }
                (self.broken, self.vain) = (None, 0);
                self.inflight.done(done);
            }
        }
        None
    }

    /// Records whether the kernel's next flush has to fail, for this relay and for the next one.
    fn owe_failure(&mut self, untold: bool) {
        if std::mem::replace(&mut self.untold, untold) == untold {
            return;
        }
        if let Some(saved) = &mut self.saved {
            saved.untold = untold;
            if let Err(error) = saved.write() {
                tell(&format!("cannot write this for the next relay: {error}"));
            }
        }
    }

    fn note(&self) {
        let mut state = self.state.lock();
        state.under_way = self.inflight.under_way();
        state.unflushed = self.inflight.unflushed.held();
    }
}
