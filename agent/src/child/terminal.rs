//! Signals and the terminal while a child runs that is in a process group of its own: ^C at the terminal
//! and TERM have to end it as if it were not.

use std::{fs::File, io, os::fd::AsFd};

use nix::{
    sys::{
        signal::{SigSet, Signal, kill, raise},
        signalfd::{SfdFlags, SignalFd},
    },
    unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp},
};

/// What ends a command.
const ENDING: [Signal; 4] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT];

/// Who has the terminal and takes the signals while a child runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Terminal {
    /// Neither is touched: the server's.
    Nobodys,
    /// Signals are taken, the terminal stays ours.
    Ours,
    /// The child may ask at it.
    Childs,
}

/// Undone when dropped.
#[derive(Debug)]
pub(super) struct Guard {
    signals: Option<(SignalFd, SigSet)>,
    /// The terminal that was given away or will be.
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
        // To take the terminal back from the background would stop us.
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

    /// The terminal goes to the group, which may have stopped at it already.
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
            // Where the terminal has hung up there is nothing to take back.
            tcsetpgrp(terminal.as_fd(), getpgrp()).ok();
        }
        if let Some((_, before)) = &self.signals {
            before.thread_set_mask().ok();
        }
    }
}
