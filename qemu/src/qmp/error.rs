//! What can go wrong between us and QEMU.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::codec::{JsonError, MessageError, Refusal, TooLong};

/// Something over a QMP socket did not work. The cause is the source.
#[derive(Debug, thiserror::Error)]
#[error("{step} the QMP socket {}", .socket.display())]
pub struct Error {
    pub socket: PathBuf,
    pub step: Step,
    #[source]
    pub why: Why,
}

/// What was being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Connect,
    /// Waiting for the first line.
    Greeting,
    Command(&'static str),
    /// Waiting for what happens in QEMU.
    Events,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect => f.write_str("cannot connect to"),
            Self::Greeting => f.write_str("no greeting from"),
            Self::Command(name) => write!(f, "{name} over"),
            Self::Events => f.write_str("waiting for events on"),
        }
    }
}

/// The cause of an `Error`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Why {
    #[error(transparent)]
    Io(io::Error),
    /// Nothing, or nothing to the point, for this long.
    #[error("no answer within {0:?}")]
    Deadline(Duration),
    #[error("QEMU closed the connection")]
    Closed,
    #[error("QEMU closed the connection in the middle of a line of {0} bytes so far")]
    ClosedInside(usize),
    #[error(transparent)]
    TooLong(#[from] TooLong),
    #[error("this is not QMP")]
    Message(#[from] MessageError),
    #[error("the first line is no greeting: '{0}'")]
    NoGreeting(String),
    #[error("it greets in the middle of a connection")]
    Greeted,
    #[error("it answers a command that is not waiting for an answer: id {id}")]
    Stray { id: String },
    #[error("it did not understand what was sent")]
    NotUnderstood(#[source] Refusal),
    #[error("the answer is not of the form that this command has")]
    Form(#[source] JsonError),
    #[error("the command cannot be written as JSON")]
    Unwritable(#[source] serde_json::Error),
    #[error(transparent)]
    Refused(Refusal),
    /// After an error that leaves the two ends out of step.
    #[error("the connection failed before and is not used any more")]
    Failed,
}

impl Error {
    pub(super) fn new(socket: &Path, step: Step, why: Why) -> Self {
        Self { socket: socket.into(), step, why }
    }

    /// QEMU's own no, with the connection as good as before.
    pub fn refusal(&self) -> Option<&Refusal> {
        if let Why::Refused(refusal) = &self.why { Some(refusal) } else { None }
    }

    /// QEMU is gone, rather than wrong.
    pub fn is_end(&self) -> bool {
        match &self.why {
            Why::Closed | Why::ClosedInside(_) => true,
            Why::Io(error) => {
                matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
            }
            _ => false,
        }
    }

    /// What to do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        Some(match (&self.step, &self.why) {
            (Step::Connect, Why::Io(error)) => match error.kind() {
                io::ErrorKind::NotFound => {
                    "start QEMU with -qmp unix:PATH,server=on,wait=off and name that path".into()
                }
                io::ErrorKind::ConnectionRefused => {
                    "no QEMU listens there any more: is the virtual machine running?".into()
                }
                io::ErrorKind::PermissionDenied => {
                    "run as the user of QEMU, or give this one access to the socket".into()
                }
                _ => return None,
            },
            (Step::Connect | Step::Greeting, Why::Deadline(_)) => {
                "QEMU serves one client a QMP socket: is another one connected? Give the machine a \
                 socket more with another -qmp unix:PATH,server=on,wait=off"
                    .into()
            }
            (Step::Greeting, Why::Message(_) | Why::NoGreeting(_)) => {
                "name the socket of -qmp; one of -monitor or of the guest agent is another thing"
                    .into()
            }
            (Step::Command(_), Why::Deadline(_)) => {
                "QEMU hangs or is stopped by a debugger; look at its process".into()
            }
            _ => return None,
        })
    }
}
