//! Signals and the terminal while a child runs that is in a process group of its own. ^C at the terminal and TERM must
//! end the child as if it were in the agent's group.

use std::{fs::File, io, os::fd::AsFd};

use nix::{
    sys::{
        signal::{SigSet, Signal, kill, raise},
        signalfd::{SfdFlags, SignalFd},
    },
    unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp},
};

/// The signals that end a command.
const ENDING: [Signal; 4] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT];

/// The owner of the terminal and of the signals while a child runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Terminal {
    /// Neither is changed: for the server.
    Nobodys,
    /// This process takes the signals and keeps the terminal.
    Ours,
    /// The child has the terminal and may ask at it.
    Childs,
}

/// Restores the signals and the terminal on drop.
#[derive(Debug)]
pub(super) struct Guard {
    signals: Option<(SignalFd, SigSet)>,
    /// The terminal that is or will be handed over.
    terminal: Option<File>,
}

impl Terminal {
    pub(super) fn guard(self) -> io::Result<Guard> {
        if self == Self::Nobodys {
            return Ok(Guard { signals: None, terminal: None });
        }
        let mut taken = ENDING.into_iter().collect::<SigSet>();
        let before = SigSet::thread_get_mask()?;
        let fd = SignalFd::with_flags(&taken, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        // Taking the terminal back from the background would stop this process.
        taken.add(Signal::SIGTTOU);
        taken.thread_block()?;
        let terminal = File::options().read(true).write(true).open("/dev/tty").ok();
        let terminal = terminal.filter(|terminal| {
            self == Self::Childs && tcgetpgrp(terminal).is_ok_and(|group| group == getpgrp())
        });
        Ok(Guard { signals: Some((fd, before)), terminal })
    }
}

impl Guard {
    pub(super) fn signals(&self) -> Option<&SignalFd> {
        self.signals.as_ref().map(|(fd, _)| fd)
    }

    /// Hands the terminal to the group. The group may have been stopped at the terminal already, so it is continued.
    pub(super) fn hand_over(&self, group: Pid) {
        let Some(terminal) = &self.terminal else { return };
        if tcsetpgrp(terminal.as_fd(), group).is_ok() {
            kill(Pid::from_raw(-group.as_raw()), Signal::SIGCONT).ok();
        }
    }

    /// Ends this process as the signal would have.
    pub(super) fn pass_on(self, signal: Signal) {
        drop(self);
        raise(signal).ok();
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(terminal) = &self.terminal {
            // If the terminal has hung up, there is nothing to take back.
            tcsetpgrp(terminal.as_fd(), getpgrp()).ok();
        }
        if let Some((_, before)) = &self.signals {
            before.thread_set_mask().ok();
        }
    }
}
