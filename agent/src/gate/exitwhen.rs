//! Ends the agent after an event, once its clients have left: nbdkit-exitwhen-filter(1).

mod event;

use std::{
    io::{self, Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use nix::poll::PollTimeout;
use thiserror::Error;

use self::event::Event;
use super::{Entry, absolute};
use crate::{
    access::{Caller, Denied, Gate, Pass},
    lifecycle::Stop,
    params::{Key, ParamError, Params},
    stack::BuildError,
    sys::poll,
};

pub(super) const ENTRY: Entry = Entry {
    name: "exitwhen",
    about: "End after an event, once the clients have left",
    keys: &[
        Key::many("exit-when-file-created", "PATH", "The file exists"),
        Key::many("exit-when-file-deleted", "PATH", "The file does not exist"),
        Key::many("exit-when-pipe-closed", "FD", "The other end of this pipe is closed"),
        Key::many("exit-when-process-exits", "PID", "This process has ended"),
        Key::many("exit-when-script", "COMMAND", "The command exits with 88"),
        Key::once(
            "exit-when-poll",
            "TIME",
            "How often files and scripts are checked [default: 60]",
        ),
    ],
    build: |params, stack, context| {
        let poll = poll_time(params)?;
        let events = events(params)?;
        if events.is_empty() {
            return Ok(stack);
        }
        let watch = Watch::start(events, poll, context.lifecycle.stop())
            .map_err(|error| BuildError::Own(Box::new(error)))?;
        Ok(stack.with_last_gate(Arc::new(Door(watch))))
    },
};

#[derive(Debug, Error)]
enum ExitWhenError {
    #[error("filter exitwhen: exit-when-pipe-closed={fd}: no such descriptor was left to agent")]
    Pipe { fd: i32, source: io::Error },
    #[error("filter exitwhen: exit-when-process-exits={pid}: there is no such process")]
    Process { pid: u32, source: io::Error },
    #[error("filter exitwhen: cannot start its thread")]
    Thread(#[source] io::Error),
}

fn poll_time(params: &Params<'_>) -> Result<Duration, ParamError> {
    let key = "exit-when-poll";
    let time = params.duration(key)?.unwrap_or(Duration::from_mins(1));
    if time.is_zero() {
        return Err(params.wrong(key, "0", "a time", "it is more than 0"));
    }
    Ok(time)
}

fn events(params: &Params<'_>) -> Result<Vec<Event>, BuildError> {
    let mut events = Vec::new();
    for path in params.values("exit-when-file-created") {
        events.push(Event::Created(absolute(path)));
    }
    for path in params.values("exit-when-file-deleted") {
        events.push(Event::Deleted(absolute(path)));
    }
    for text in params.values("exit-when-pipe-closed") {
        let fd = text
            .parse()
            .map_err(|error| params.wrong("exit-when-pipe-closed", text, "a number", error))?;
        let end = poll::left(fd).map_err(|source| ExitWhenError::Pipe { fd, source });
        events.push(Event::Closed { fd, end: end.map_err(own)? });
    }
    for text in params.values("exit-when-process-exits") {
        let pid = text
            .parse()
            .map_err(|error| params.wrong("exit-when-process-exits", text, "a number", error))?;
        let end = poll::process(pid).map_err(|source| ExitWhenError::Process { pid, source });
        events.push(Event::Exits { pid, end: end.map_err(own)? });
    }
    for command in params.values("exit-when-script") {
        events.push(Event::Script(command.to_owned()));
    }
    Ok(events)
}

fn own(error: ExitWhenError) -> BuildError {
    BuildError::Own(Box::new(error))
}

/// The events that are watched, and the number of clients.
#[derive(Debug)]
struct Watch {
    events: Vec<Event>,
    /// The event that has happened. From then on no client is let in.
    happened: OnceLock<String>,
    connected: AtomicUsize,
    stop: Stop,
    /// A byte written here makes the thread look at once.
    nudge: UnixStream,
}

impl Watch {
    /// Looks at the events other than scripts, and starts the thread that looks at all of them.
    fn start(events: Vec<Event>, poll: Duration, stop: Stop) -> Result<Arc<Self>, ExitWhenError> {
        let (nudge, nudged) = UnixStream::pair().map_err(ExitWhenError::Thread)?;
        for end in [&nudge, &nudged] {
            end.set_nonblocking(true).map_err(ExitWhenError::Thread)?;
        }
        let connected = AtomicUsize::new(0);
        let watch = Arc::new(Self { events, happened: OnceLock::new(), connected, stop, nudge });
        watch.look();
        let watching = Arc::clone(&watch);
        thread::Builder::new()
            .name("exitwhen".into())
            .spawn(move || watching.run(&nudged, poll))
            .map_err(ExitWhenError::Thread)?;
        Ok(watch)
    }

    /// Runs the thread. It waits for the poll time, for a nudge, and for pipes and processes.
    fn run(&self, nudged: &UnixStream, poll: Duration) {
        let timeout = PollTimeout::try_from(poll).unwrap_or(PollTimeout::MAX);
        let ends: Vec<&OwnedFd> = self.events.iter().filter_map(Event::end).collect();
        let mut inputs: Vec<&OwnedFd> = self.events.iter().filter_map(Event::input).collect();
        let nudges = OwnedFd::from(match nudged.try_clone() {
            Ok(nudged) => nudged,
            Err(error) => {
                return tracing::error!("filter exitwhen: cannot watch for events: {error}");
            }
        });
        inputs.push(&nudges);
        loop {
            if !self.look()
                && let Some(script) =
                    self.events.iter().find(|event| event.is_script_that_has_happened())
            {
                self.happens(script);
            }
            if self.happened.get().is_some() {
                return;
            }
            if let Err(error) = poll::wait(&inputs, &ends, timeout) {
                return tracing::error!("filter exitwhen: cannot watch for events: {error}");
            }
            // The thread looks once for all nudges. An empty pipe is no error.
            drop((&*nudged).read(&mut [0; 64]));
        }
    }

    /// Looks at the events other than scripts. True if an event has happened, now or before.
    fn look(&self) -> bool {
        if self.happened.get().is_some() {
            return true;
        }
        let event = self.events.iter().find(|event| event.has_happened());
        if let Some(event) = event {
            self.happens(event);
        }
        event.is_some()
    }

    fn happens(&self, event: &Event) {
        if self.happened.set(event.to_string()).is_ok() {
            tracing::info!(
                "exitwhen: {event}: no new clients; ending when the present clients have left"
            );
        }
        self.stop_if_alone();
    }

    fn stop_if_alone(&self) {
        if let Some(why) = self.happened.get()
            && self.connected.load(Ordering::SeqCst) == 0
        {
            self.stop.now(format!("{why} (filter exitwhen)"));
        }
    }

    /// Makes the thread ask the scripts when a client comes or goes.
    fn nudge(&self) {
        if self.events.iter().any(Event::is_script) {
            // A full pipe is nudge enough.
            drop((&self.nudge).write(&[1]));
        }
    }
}

#[derive(Debug)]
struct Door(Arc<Watch>);

impl Gate for Door {
    fn admit(&self, _: &Caller<'_>) -> Result<Pass, Denied> {
        let watch = &self.0;
        watch.connected.fetch_add(1, Ordering::SeqCst);
        let client = Client(Arc::clone(watch));
        if watch.look() {
            let why = watch.happened.get().map_or("", String::as_str);
            return Err(Denied::new(format!("agent is ending: {why} (filter exitwhen)")));
        }
        watch.nudge();
        Ok(Pass::holding(client))
    }
}

struct Client(Arc<Watch>);

impl Drop for Client {
    fn drop(&mut self) {
        self.0.connected.fetch_sub(1, Ordering::SeqCst);
        self.0.look();
        self.0.stop_if_alone();
        self.0.nudge();
    }
}

#[cfg(test)]
mod tests;
