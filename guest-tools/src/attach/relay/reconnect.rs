//! What the relay does when the server or the kernel goes away: the transitions from `Net::Up` and back.
//!
//! ```text
//!  Up -- a client breaks --> Down -- clients to the same export --> Replay -- all replayed --> Up
//!                           |  ^------- refused, or broken again ---'
//!                           '-- the dead timeout --> requests fail until Up
//! ```
//!
//! A server that accepts connections and gives no valid answer is treated as one that cannot be reached.
//! When one connection (a client) breaks, all are given up. Their unanswered requests are sent again on new
//! ones, after all changes that were acknowledged and not flushed (`unflushed`), and before anything new.

use std::{
    os::fd::AsFd,
    time::{Duration, Instant},
};

use human::chain;
use nbd::wire::Errno as Code;
use nbd_client::{Client, ClientError};
use nix::poll::{PollFd, PollTimeout, poll};

use super::{
    super::{notify::tell, redial::pause, state::Phase},
    Net, REPLAYED, Relay,
};

/// The most replayed changes in flight.
const DEPTH: usize = 8;
/// How long the last flush may take after the kernel has disconnected.
const GOODBYE: Duration = Duration::from_secs(10);

impl Relay {
    pub(super) fn unless_broken(&mut self, done: Result<(), ClientError>) {
        if let Err(error) = done {
            self.broke(&chain(&error).to_string());
        }
    }

    /// Gives the connections up. Unanswered requests stay, and are sent again.
    pub(super) fn broke(&mut self, reason: &str) {
        let tries = match &self.net {
            Net::Down(..) => return,
            // The server was reachable and failed: retry no faster than if it were not.
            Net::Replay(..) => 3,
            Net::Up(_) => self.vain,
        };
        let down = Net::Down(Instant::now() + pause(tries), tries + 1);
        let (Net::Up(clients) | Net::Replay(clients, _)) = std::mem::replace(&mut self.net, down)
        else {
            return;
        };
        let since = self.broken.unwrap_or_else(Instant::now);
        self.flush = None;
        for mut client in clients {
            while let Some(done) = client.pop() {
                // One reason is enough.
                drop(self.answered(done));
            }
            for order in client.unanswered() {
                if order.tag < REPLAYED {
                    self.state.lock().repeated += 1;
                    self.inflight.unanswered(order);
                }
            }
        }
        self.flush = None;
        self.broken.get_or_insert(since);
        self.missed(reason);
    }

    /// Records that there is no connection, and why.
    fn missed(&mut self, reason: &str) {
        let mut state = self.state.lock();
        let phase = if self.failing { Phase::Failed } else { Phase::Reconnecting };
        if state.phase != phase || state.last_error.as_deref() != Some(reason) {
            tell(&format!("{}: {}: {reason}", state.device, phase.name()));
        }
        if state.phase != phase {
            (state.phase, state.since) = (phase, Instant::now());
        }
        state.last_error = Some(reason.to_owned());
    }

    /// Reconnects, replays, and lets requests fail once the dead timeout expires.
    pub(super) fn keep_connected(&mut self) {
        match (self.redial.answer(), &self.net) {
            (Some(Ok((clients, instance))), Net::Down(..)) => {
                if let Some(saved) = &mut self.saved {
                    saved.export.instance = instance;
                }
                self.net = Net::Replay(clients, 0);
            }
            (Some(Err(reason)), &Net::Down(_, tries)) => {
                self.net = Net::Down(Instant::now() + pause(tries), tries.saturating_add(1));
                self.missed(&chain(&reason).to_string());
            }
            _ => {}
        }
        let silent = self.asked_since().zip(self.dead_timeout);
        if let Some((since, timeout)) = silent.filter(|(since, most)| since.elapsed() >= *most) {
            self.broken.get_or_insert(since);
            self.broke(&format!("no answer in {} s", timeout.as_secs_f32()));
        }
        if let Net::Down(next, _) = self.net
            && Instant::now() >= next
        {
            let saved = self.saved.as_ref().filter(|_| self.inherits);
            self.redial.begin(saved.and_then(|saved| saved.export.instance.as_deref()));
        }
        self.replay();
        let dead = self.broken.zip(self.dead_timeout);
        if !self.failing && dead.is_some_and(|(since, timeout)| since.elapsed() >= timeout) {
            let reason = self.state.lock().last_error.clone().unwrap_or_default();
            // If there is a server that gives no valid answer, this prevents a late answer from being
            // taken for one to a newer request.
            self.broke(&reason);
            self.failing = true;
            self.inflight.fail_all(Code::EIO);
            self.missed(&reason);
        }
    }

    /// Sends acknowledged changes again. When all have been answered, the kernel's requests continue.
    fn replay(&mut self) {
        let Net::Replay(clients, from) = &mut self.net else { return };
        let Some(client) = clients.first_mut() else { return };
        let mut done = Ok(());
        while client.under_way() < DEPTH {
            let Some(order) = self.inflight.unflushed.again(*from, client.longest_payload()) else {
                break;
            };
            *from = order.at + order.len;
            done = client.submit(order.tagged(REPLAYED));
            if done.is_err() {
                break;
            }
        }
        let done = done.and_then(|()| client.push());
        let all = client.under_way() == 0;
        self.unless_broken(done);
        if all && let Net::Replay(clients, _) = &mut self.net {
            self.net = Net::Up(std::mem::take(clients));
            self.failing = false;
            self.vain = self.vain.saturating_add(1);
            if self.inflight.under_way() == 0 {
                self.broken = None;
            }
            // From now on this run of the server has all acknowledged changes.
            if let Some(error) = self.saved.as_ref().and_then(|saved| saved.write().err()) {
                tell(&format!("no other relay can take over from this one: {error}"));
            }
            let mut state = self.state.lock();
            (state.phase, state.since) = (Phase::Connected, Instant::now());
            state.reconnects += 1;
            tell(&format!("{}: connected again", state.device));
        }
    }

    /// Called when the kernel is gone: flushes what the kernel did not flush, within `GOODBYE`.
    pub(super) fn goodbye(&mut self) {
        let until = Instant::now() + GOODBYE;
        if !self.inflight.unflushed.is_empty() {
            self.flush = None;
            self.flush_ourselves();
        }
        while self.flush.is_some() && Instant::now() < until {
            self.ask();
            let timeout =
                PollTimeout::try_from(until - Instant::now()).unwrap_or(PollTimeout::ZERO);
            let Net::Up(clients) = &self.net else { return };
            let mut fds: Vec<_> = clients
                .iter()
                .map(|client| PollFd::new(client.as_fd(), client.interest()))
                .collect();
            // The clients are examined whatever the result.
            poll(&mut fds, timeout).ok();
            let woken = vec![true; clients.len()];
            self.receive(&woken);
        }
        if let Net::Up(clients) = std::mem::replace(&mut self.net, Net::Down(until, 0)) {
            clients.into_iter().for_each(Client::close);
        }
    }
}
