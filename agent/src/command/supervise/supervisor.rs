//! The poll loop of the supervisor.

use std::{
    env,
    ffi::{CString, OsString},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStringExt,
    },
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask},
        signalfd::{SfdFlags, SignalFd},
        wait::{WaitStatus, waitpid},
    },
    unistd::Pid,
};

use super::{
    back_off::BackOff,
    message::{Change, Message},
    store::{self, Store},
};
use crate::{
    fd_store::SUPERVISOR,
    sys::{self, manager::Manager, scm, spawn},
};

/// Signals that are passed on to the agent.
const PASSED: [Signal; 5] =
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP, Signal::SIGUSR1];
/// `SI_KERNEL`: the terminal sent the signal, to the agent too.
const SI_KERNEL: i32 = 0x80;
/// Maximum length of a notification in bytes: the limit of systemd.
const NOTIFICATION: usize = 4096;

/// Maximum number of notifications that are received before signals are looked at again. A socket's queue is shorter
/// (net.unix.max_dgram_qlen), so nothing is left in it when the agent has ended.
const TURN: usize = 1024;

/// The supervisor, and the agent that it runs.
#[derive(Debug)]
pub(super) struct Supervisor {
    path: CString,
    words: Vec<CString>,
    signals: SignalFd,
    /// The signals that were blocked before.
    blocked: SigSet,
    /// Where the agent sends its notifications, and the name of that socket.
    socket: OwnedFd,
    name: String,
    manager: Option<Manager>,
    store: Store,
    back_off: BackOff,
    /// Whether the agent has been ready once.
    been_ready: bool,
    /// Whether a signal asked for the end.
    ending: bool,
}

/// The running agent.
#[derive(Debug)]
struct Child {
    id: Pid,
    /// Readable once it has ended.
    end: OwnedFd,
}

/// What was to be read.
#[derive(Debug, Default)]
struct Ready {
    signal: bool,
    message: bool,
    ended: bool,
}

impl Supervisor {
    pub(super) fn new(words: &[OsString]) -> io::Result<Self> {
        // The path, and not the open file: an upgrade replaces the program.
        let path = CString::new(env::current_exe()?.into_os_string().into_vec())?;
        let name = env::args_os().next().unwrap_or_else(|| "agent".into());
        let words = [name].into_iter().chain(words.iter().cloned());
        let words = words.map(|word| CString::new(word.into_vec())).collect::<Result<_, _>>()?;
        // The store and the agent need them.
        if let Err(error) = sys::process::raise_open_files() {
            tracing::debug!("the limit of open files stays as it is: {error}");
        }
        let mut mask = SigSet::empty();
        mask.extend(PASSED);
        let mut blocked = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mask), Some(&mut blocked))?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let (socket, name) = scm::named_socket()?;
        Ok(Self {
            path,
            words,
            signals,
            blocked,
            socket,
            name,
            manager: Manager::from_environment().unwrap_or_else(|error| {
                tracing::warn!(
                    "the service manager is told nothing: cannot connect to NOTIFY_SOCKET: {error}"
                );
                None
            }),
            store: Store::default(),
            back_off: BackOff::new(),
            been_ready: false,
            ending: false,
        })
    }

    /// Runs the agent until it ends for good. Returns the exit status.
    pub(super) fn run(mut self) -> io::Result<u8> {
        loop {
            let start = Instant::now();
            let reason = match self.start() {
                Ok(child) => match self.attend(&child)? {
                    WaitStatus::Exited(_, status) => {
                        if status == 0 || self.ending || !self.been_ready {
                            return Ok(u8::try_from(status).unwrap_or(1));
                        }
                        format!("the agent (process {}) ended with status {status}", child.id)
                    }
                    WaitStatus::Signaled(_, signal, _) => {
                        if self.ending || !self.been_ready {
                            return Ok(u8::try_from(128 + signal as i32).unwrap_or(1));
                        }
                        format!("the agent (process {}) was killed by {signal}", child.id)
                    }
                    other => format!("the agent (process {}) is gone: {other:?}", child.id),
                },
                Err(error) if self.been_ready => {
                    format!("cannot start {}: {error}", self.path.to_string_lossy())
                }
                Err(error) => return Err(error),
            };
            let wait = self.back_off.after(start.elapsed());
            let kept = self.store.files().len();
            let when = if wait.is_zero() {
                "at once".to_owned()
            } else {
                format!("in {} ms", wait.as_millis())
            };
            tracing::warn!("{reason}; starting it again {when}, with {kept} descriptors kept");
            self.tell_manager(&format!("STATUS={reason}; starting it again {when}"));
            self.pause(wait)?;
            if self.ending {
                return Ok(0);
            }
        }
    }

    /// Starts the agent, and hands over all that is kept.
    fn start(&self) -> io::Result<Child> {
        let files = self.store.files();
        let watchdog = env::var_os("WATCHDOG_PID").is_some();
        let of_its_id = ["LISTEN_PID", "WATCHDOG_PID"];
        let id = spawn::start(spawn::Program {
            path: &self.path,
            words: &self.words,
            variables: self.variables(files.len())?,
            of_its_id: if watchdog { &of_its_id } else { &of_its_id[..1] },
            blocked: &self.blocked,
            files: &files,
        })?;
        let end = sys::poll::process(id.as_raw().cast_unsigned())?;
        Ok(Child { id, end })
    }

    fn variables(&self, count: usize) -> io::Result<Vec<CString>> {
        let own = [
            ("NOTIFY_SOCKET", self.name.clone()),
            ("FDSTORE", store::MOST.to_string()),
            (SUPERVISOR, std::process::id().to_string()),
            ("LISTEN_FDS", count.to_string()),
            ("LISTEN_FDNAMES", self.store.names()),
        ];
        let own = own.into_iter().map(|(name, value)| (name.into(), value.into()));
        let replaced = ["NOTIFY_SOCKET", "FDSTORE", SUPERVISOR];
        let inherited = env::vars_os().filter(|(name, _): &(OsString, OsString)| {
            !replaced.iter().any(|replaced| name == replaced)
                && name != "WATCHDOG_PID"
                && !name.as_encoded_bytes().starts_with(b"LISTEN_")
        });
        let all = inherited.chain(own).map(|(name, value)| {
            let mut variable = name.into_vec();
            variable.push(b'=');
            variable.extend(value.into_vec());
            Ok(CString::new(variable)?)
        });
        all.collect()
    }

    /// Serves the agent until it has ended. Returns how it ended.
    fn attend(&mut self, child: &Child) -> io::Result<WaitStatus> {
        loop {
            let ready = self.poll(Some(child), None)?;
            if ready.signal {
                self.pass_signals(Some(child))?;
            }
            // Until the child is waited for, the kernel knows it as the sender of what it has sent.
            if ready.message || ready.ended {
                self.receive(child)?;
            }
            if ready.ended {
                return loop {
                    match waitpid(child.id, None) {
                        Err(Errno::EINTR) => {}
                        ended => break Ok(ended?),
                    }
                };
            }
        }
    }

    /// Waits, unless a signal asks for the end.
    fn pause(&mut self, wait: Duration) -> io::Result<()> {
        let until = Instant::now() + wait;
        while !self.ending {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            if self.poll(None, Some(left))?.signal {
                self.pass_signals(None)?;
            }
        }
        Ok(())
    }

    /// Waits until there is something to do, and drops the kept connections whose peers have gone.
    fn poll(&mut self, child: Option<&Child>, timeout: Option<Duration>) -> io::Result<Ready> {
        let input = PollFlags::POLLIN;
        let mut fds = vec![PollFd::new(self.signals.as_fd(), input)];
        if let Some(child) = child {
            fds.push(PollFd::new(self.socket.as_fd(), input));
            fds.push(PollFd::new(child.end.as_fd(), input));
        }
        let fixed = fds.len();
        fds.extend(self.store.polled().map(|fd| PollFd::new(fd, PollFlags::empty())));
        // Rounded up, so that the loop does not spin in the last millisecond.
        let timeout = timeout.map_or(Ok(PollTimeout::NONE), |timeout| {
            PollTimeout::try_from(timeout + Duration::from_millis(1)).map_err(io::Error::other)
        })?;
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => return Ok(Ready::default()),
            polled => polled?,
        };
        let any: Vec<bool> = fds.iter().map(|fd| fd.any() != Some(false)).collect();
        let ready = Ready {
            signal: any[0],
            message: child.is_some() && any[1],
            ended: child.is_some() && any[2],
        };
        let mut gone = any[fixed..].iter();
        self.store.retain_polled(|| gone.next() != Some(&true));
        Ok(ready)
    }

    fn pass_signals(&mut self, child: Option<&Child>) -> io::Result<()> {
        while let Some(info) = self.signals.read_signal()? {
            let number = info.ssi_signo.cast_signed();
            let Ok(signal) = Signal::try_from(number) else { continue };
            self.ending |= matches!(signal, Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT);
            if info.ssi_code == SI_KERNEL {
                continue;
            }
            if let Some(child) = child
                && let Err(error) = kill(child.id, signal)
            {
                tracing::warn!("{signal} cannot be passed on to the agent: {error}");
            }
        }
        Ok(())
    }

    /// Receives the notifications that are there.
    fn receive(&mut self, child: &Child) -> io::Result<()> {
        let mut buffer = [0; NOTIFICATION];
        for _ in 0..TURN {
            let Some(datagram) = scm::receive(&self.socket, &mut buffer)? else { break };
            if datagram.sender != child.id.as_raw() {
                tracing::debug!("a notification of process {} is ignored", datagram.sender);
                continue;
            }
            let message = Message::parse(datagram.bytes);
            self.been_ready |= message.ready;
            match message.store {
                Some(Change::Add) => {
                    for file in datagram.files {
                        if self.store.add(&message.name, file, !message.unpolled).is_err() {
                            tracing::warn!(
                                "{} is not kept: the store is full ({} descriptors at most); it \
                                 will not outlive the agent",
                                crate::text::escaped(&message.name),
                                store::MOST
                            );
                        }
                    }
                }
                Some(Change::Remove) => self.store.remove(&message.name),
                None => {}
            }
            self.tell_manager(&message.forwarded);
        }
        Ok(())
    }

    fn tell_manager(&self, text: &str) {
        let Some(manager) = self.manager.as_ref().filter(|_| !text.is_empty()) else { return };
        if let Err(error) = manager.send(text, None) {
            tracing::debug!("the service manager cannot be told: {error}");
        }
    }
}
