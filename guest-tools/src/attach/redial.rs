//! Connects to the server on a thread of its own, so that the relay still answers the kernel and control
//! clients while a server is silent. The thread starts with the relay, because no thread can be started
//! once memory is short.

use std::{
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::Duration,
};

use agent_contexts::FencingToken;
use nbd::Uri;
use nbd_client::{Client, ClientError, Connector};
use thiserror::Error;

use super::{export::Export, fenced::open_fenced, unfit::Unfit};

/// The size of the thread's stack, in bytes. The stack is locked in memory.
pub(super) const STACK: usize = 256 << 10;
/// The pause between two tries, at first and at most.
const FIRST: Duration = Duration::from_millis(100);
const LAST: Duration = Duration::from_secs(2);

/// Why a try to connect again has failed.
#[derive(Debug, Error)]
pub(super) enum RedialError {
    #[error(transparent)]
    Session(#[from] ClientError),
    #[error("another relay has come in place of this one")]
    Replaced,
    #[error("the export has changed, and is not used")]
    Changed(#[from] Unfit),
    #[error(
        "the server was started anew before it had flushed what the relay before this one was \
         answered, and may have lost it: unmount what is on the device, detach it with \
         --force, and attach again"
    )]
    Anew,
}

/// Connections, and the run of the server that they lead to.
type Found = (Vec<Client>, Option<String>);

/// The handle of the thread.
#[derive(Debug)]
pub(super) struct Redial {
    /// Starts a try. The value is the run of the server that is required, if one is.
    ask: Sender<Option<String>>,
    answers: Receiver<Result<Found, RedialError>>,
    wake: UnixStream,
    under_way: bool,
}

impl Redial {
    /// Starts the thread. It opens `count` connections to the export of `uri`, which must be `export`.
    /// They replace those of `fencing`.
    pub(super) fn start(
        (connector, uri): (Connector, Uri),
        count: usize,
        export: Export,
        mut fencing: FencingToken,
    ) -> io::Result<Self> {
        let (wake, mut woken) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        let (ask, asked) = channel::<Option<String>>();
        let (answer, answers) = channel();
        thread::Builder::new().name("redial".to_owned()).stack_size(STACK).spawn(move || {
            while let Ok(run) = asked.recv() {
                // A try that fails half way leaves connections open. The next generation replaces them.
                fencing.generation += 1;
                let clients =
                    connect_all((&connector, &uri), count, &export, fencing, run.as_deref());
                // The other end is closed if the relay has ended.
                if answer.send(clients).is_err() || woken.write_all(&[1]).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { ask, answers, wake, under_way: false })
    }

    /// Starts to connect, unless a try is in progress. With `run` only that run of the server is accepted.
    pub(super) fn begin(&mut self, run: Option<&str>) {
        if !self.under_way {
            self.under_way = self.ask.send(run.map(str::to_owned)).is_ok();
        }
    }

    pub(super) const fn is_under_way(&self) -> bool {
        self.under_way
    }

    /// Returns the result of a finished try.
    pub(super) fn answer(&mut self) -> Option<Result<Found, RedialError>> {
        // The bytes only wake the poll.
        while self.wake.read(&mut [0; 8]).is_ok_and(|n| n > 0) {}
        let answer = self.answers.try_recv().ok()?;
        self.under_way = false;
        Some(answer)
    }
}

impl AsFd for Redial {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

/// How long to wait before try number `n`, counted from 0.
pub(super) fn pause(n: u32) -> Duration {
    match n {
        0 => Duration::ZERO,
        _ => FIRST.saturating_mul(1 << (n - 1).min(8)).min(LAST),
    }
}

/// Opens all connections. Each of them must lead to the same export.
fn connect_all(
    (connector, uri): (&Connector, &Uri),
    count: usize,
    export: &Export,
    fencing: FencingToken,
    run: Option<&str>,
) -> Result<Found, RedialError> {
    let mut clients = Vec::with_capacity(count);
    let mut first: Option<Export> = None;
    for _ in 0..count {
        let opened = open_fenced(connector, uri, fencing);
        let (client, standing) = opened?;
        // The server knows clients that reconnect, and reports that a newer connection exists.
        if standing.identity.is_some() && !standing.follows {
            client.close();
            return Err(RedialError::Replaced);
        }
        let again = export.again(&client, standing);
        if let Err(change) = export.is_still(&again) {
            client.close();
            return Err(change.into());
        }
        if run.is_some() && again.instance.as_deref() != run {
            client.close();
            return Err(RedialError::Anew);
        }
        first.get_or_insert_with(|| again.clone()).and(&again);
        clients.push(client);
    }
    Ok((clients, first.and_then(|export| export.instance)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pauses_grow_to_two_seconds() {
        let pauses: Vec<_> = (0..8).map(|n| pause(n).as_millis()).collect();
        assert_eq!(pauses, [0, 100, 200, 400, 800, 1600, 2000, 2000]);
        assert_eq!(pause(u32::MAX), LAST);
    }
}
