//! Runs the threads of a copy. Meanwhile the calling thread watches for signals, which end the
//! copy, and shows progress.

use std::{io, thread};

use nix::{
    errno::Errno,
    poll::{PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
};

use super::{
    ends::{Side, until},
    error::CopyError,
    job::Job,
    progress::Progress,
};

/// Receives SIGINT, SIGTERM and SIGHUP instead of their default action, until it is dropped.
#[derive(Debug)]
pub(super) struct Crew {
    signals: SignalFd,
    before: SigSet,
}

impl Crew {
    pub(super) fn new() -> Result<Self, CopyError> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            set.add(signal);
        }
        let before = SigSet::thread_get_mask().map_err(CopyError::watch)?;
        set.thread_block().map_err(CopyError::watch)?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&set, flags).map_err(CopyError::watch)?;
        Ok(Self { signals, before })
    }

    /// Runs `work` on each pair on a thread of its own, and returns when all threads have ended.
    pub(super) fn work(
        &self,
        job: &Job,
        progress: &mut Progress,
        pairs: Vec<(Side, Side)>,
        work: impl Fn(&Job, (Side, Side)) + Sync,
    ) -> Result<(), CopyError> {
        // Hung up when the last thread has ended.
        let (ended, alive) = io::pipe().map_err(CopyError::Watch)?;
        thread::scope(|scope| {
            for pair in pairs {
                let alive = alive.try_clone().map_err(CopyError::Watch);
                let spawned = alive.and_then(|alive| {
                    let (work, job) = (&work, &job);
                    let body = move || {
                        work(job, pair);
                        drop(alive);
                    };
                    thread::Builder::new().spawn_scoped(scope, body).map_err(CopyError::Watch)
                });
                if let Err(error) = spawned {
                    job.fail(error);
                }
            }
            drop(alive);
            loop {
                let mut fds = [until(&ended), until(&self.signals)];
                let pause = progress.pause().map(PollTimeout::try_from);
                let pause = pause.map_or(PollTimeout::NONE, |p| p.unwrap_or(PollTimeout::MAX));
                match poll(&mut fds, pause) {
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(errno) => job.fail(CopyError::watch(errno)),
                }
                if fds.first().is_some_and(|fd| fd.any() == Some(true)) {
                    return Ok(());
                }
                if let Ok(Some(_)) = self.signals.read_signal() {
                    if job.halt.is_raised() {
                        // A second signal: exit without waiting for the threads.
                        progress.end();
                        eprintln!("guest-tools: error: interrupted; the copy is incomplete");
                        std::process::exit(1);
                    }
                    job.fail(CopyError::Interrupted);
                }
                progress.tick(job.done(), job.rules.size);
            }
        })
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        // The mask was valid before, so restoring it succeeds.
        self.before.thread_set_mask().ok();
    }
}
