//! Receives the replies of remote servers on one thread for all links, and passes each to the thread that sent the
//! request.

use std::{
    collections::HashMap,
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc::SyncSender},
};

use human::chain;
use nbd_client::{Client, ClientError, Done, Order, client::Turned};
use nix::{
    poll::PollFlags,
    sys::socket::{Shutdown, shutdown},
};
use tokio::{
    io::{Interest, Ready, unix::AsyncFd},
    sync::Notify,
};

use super::runtime::runtime;
use crate::sys::poll;

/// Calls that send, and calls that receive, on one link before other links have their turn.
const CALLS: usize = 4;

/// The state of a link that the requesting threads and the reading thread share.
#[derive(Debug)]
pub(super) struct Shared {
    /// The server's name in messages.
    pub(super) far: String,
    state: Mutex<State>,
    /// Wakes the reading thread: there is something to send, or the link has ended.
    wake: Notify,
}

#[derive(Debug)]
struct State {
    /// The reading thread takes it away when the link has ended.
    client: Option<Client>,
    waiting: HashMap<u64, SyncSender<Done>>,
    /// The tag of the next request.
    next: u64,
    end: Option<End>,
}

/// Why a link carries no requests any more.
#[derive(Debug, Clone)]
enum End {
    /// It was closed here. The server is told.
    Closed,
    Broken(String),
}

impl End {
    fn why(&self) -> &str {
        match self {
            Self::Closed => "it was closed here",
            Self::Broken(why) => why,
        }
    }
}

/// Why a request was not sent.
#[derive(Debug)]
pub(super) enum NotSent {
    /// The link has ended, and why.
    Ended(String),
    /// The request does not fit the export.
    Unfit(ClientError),
}

impl Shared {
    /// Begins to read, on the thread for all links.
    pub(super) fn start(client: Client, far: String) -> io::Result<Arc<Self>> {
        let runtime = runtime()?;
        let watched = {
            let _on = runtime.enter();
            poll::shared(client.descriptor())?
        };
        let state = State { client: Some(client), waiting: HashMap::new(), next: 0, end: None };
        let (state, wake) = (Mutex::new(state), Notify::new());
        let shared = Arc::new(Self { far, state, wake });
        runtime.spawn(read_replies(Reading(Arc::clone(&shared)), watched));
        Ok(shared)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the link has ended, if it has.
    pub(super) fn ended(&self) -> Option<String> {
        self.lock().end.as_ref().map(|end| end.why().to_owned())
    }

    /// Sends a request as far as the socket takes it; the reading thread sends the rest. `bytes` is what a write writes,
    /// and the order has room for them. `tell` gets the reply. Returns the tag of the request.
    pub(super) fn send(
        &self,
        order: Order,
        bytes: &[&[u8]],
        tell: SyncSender<Done>,
    ) -> Result<u64, NotSent> {
        let mut state = self.lock();
        let State { client, waiting, next, end } = &mut *state;
        let (Some(client), None) = (client, &end) else {
            return Err(NotSent::Ended(end.as_ref().map_or("", End::why).to_owned()));
        };
        let tag = *next;
        let order = order.tagged(tag);
        let submitted = match bytes {
            [] => client.submit(order),
            bytes => client.submit_write(order, bytes),
        };
        let pushed = match submitted {
            Err(error @ ClientError::Unfit { .. }) => return Err(NotSent::Unfit(error)),
            submitted => submitted.and_then(|()| client.push()),
        };
        *next += 1;
        waiting.insert(tag, tell);
        let is_left = client.interest().contains(PollFlags::POLLOUT);
        drop(state);
        if let Err(error) = pushed {
            self.fail(&chain(&error).to_string());
        } else if is_left {
            self.wake.notify_one();
        }
        Ok(tag)
    }

    /// Gives up a request: its reply is dropped.
    pub(super) fn give_up(&self, tag: u64) {
        let mut state = self.lock();
        state.waiting.remove(&tag);
        if let Some(client) = &mut state.client {
            client.abandon(tag);
        }
    }

    /// Marks the link as failed: from now on every request fails, and so do those in flight, even if they are still
    /// being sent.
    pub(super) fn fail(&self, why: &str) {
        self.end(End::Broken(why.to_owned()));
    }

    /// Closes the link. The server is told if it still works.
    pub(super) fn close(&self) {
        self.end(End::Closed);
    }

    fn end(&self, end: End) {
        let mut state = self.lock();
        if state.end.is_none() {
            if let End::Broken(why) = &end {
                let unanswered = state.waiting.len();
                tracing::warn!(
                    far = self.far,
                    why,
                    unanswered,
                    "the far server's connection broke"
                );
                if let Some(client) = &state.client {
                    shutdown(client.as_fd().as_raw_fd(), Shutdown::Both).ok();
                }
            }
            state.end = Some(end);
        }
        // Waiting threads see that their sender is gone.
        state.waiting.clear();
        drop(state);
        self.wake.notify_one();
    }

    /// What to wait for on the socket. `None`: the link has ended.
    fn interest(&self) -> Option<Interest> {
        let state = self.lock();
        let client = state.client.as_ref().filter(|_| state.end.is_none())?;
        Some(if client.interest().contains(PollFlags::POLLOUT) {
            Interest::READABLE | Interest::WRITABLE
        } else {
            Interest::READABLE
        })
    }

    /// Sends and receives without waiting, and hands out replies. Returns whether there is more to do, and the
    /// readiness of the socket that is used up.
    fn turn(&self) -> Result<(Turned, Ready), ClientError> {
        let mut state = self.lock();
        let State { client, waiting, end, .. } = &mut *state;
        let (Some(client), None) = (client, end) else { return Ok((Turned::Idle, Ready::EMPTY)) };
        let turned = client.turn_within(CALLS);
        while let Some(done) = client.pop() {
            if let Some(tell) = waiting.remove(&done.order.tag) {
                // Nothing waits for it only if an agent's thread has died.
                tell.send(done).ok();
            }
        }
        let turned = turned?;
        let mut used = if turned == Turned::Idle { Ready::READABLE } else { Ready::EMPTY };
        if client.interest().contains(PollFlags::POLLOUT) {
            used |= Ready::WRITABLE;
        }
        Ok((turned, used))
    }
}

/// Ends the link when nothing reads the replies any more.
struct Reading(Arc<Shared>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.fail("a bug in agent: nothing reads its replies any more");
        let mut state = self.0.lock();
        let client = state.client.take();
        if let (Some(client), Some(End::Closed)) = (client, &state.end) {
            client.close();
        }
    }
}

/// Reads the server's messages and hands out the replies, until the link ends.
async fn read_replies(reading: Reading, watched: AsyncFd<Arc<File>>) {
    let shared = &reading.0;
    while let Some(interest) = shared.interest() {
        let mut ready = tokio::select! {
            ready = watched.ready(interest) => match ready {
                Ok(ready) => Some(ready),
                Err(error) => return shared.fail(&format!("the connection failed: {error}")),
            },
            () = shared.wake.notified() => None,
        };
        loop {
            match shared.turn() {
                Ok((Turned::Busy, _)) => tokio::task::yield_now().await,
                Ok((Turned::Idle, used)) => {
                    if let Some(ready) = &mut ready {
                        ready.clear_ready_matching(used);
                    }
                    break;
                }
                Err(error) => return shared.fail(&chain(&error).to_string()),
            }
        }
    }
}
