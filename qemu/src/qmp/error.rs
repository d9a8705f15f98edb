//! Errors of a QMP connection.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::codec::{JsonError, MessageError, Refusal, TooLong};

/// A step over a QMP socket failed. The source says why.
#[derive(Debug, thiserror::Error)]
#[error("{step} the QMP socket {}", .socket.display())]
pub struct Error {
    /// The path of the socket.
    pub socket: PathBuf,
    /// What was tried.
    pub step: Step,
    /// Why it failed.
    #[source]
    pub why: Why,
}

/// What was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// To connect to the socket.
    Connect,
    /// To read the greeting.
    Greeting,
    /// To run the command of this name.
    Command(&'static str),
    /// To read events.
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

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Why {
    /// The socket failed.
    #[error(transparent)]
    Io(io::Error),
    /// QEMU sent nothing, or no answer, for this long.
    #[error("no answer within {0:?}")]
    Deadline(Duration),
    /// QEMU closed the connection between two lines.
    #[error("QEMU closed the connection")]
    Closed,
    /// QEMU closed the connection after this many bytes of a line.
    #[error("QEMU closed the connection in the middle of a line of {0} bytes so far")]
    ClosedInside(usize),
    /// QEMU sent a line that is too long.
    #[error(transparent)]
    TooLong(#[from] TooLong),
    /// QEMU sent a line that is no message.
    #[error("this is not QMP")]
    Message(#[from] MessageError),
    /// The first message is no greeting.
    #[error("the first line is no greeting: '{0}'")]
    NoGreeting(String),
    /// QEMU sent a second greeting.
    #[error("it greets in the middle of a connection")]
    Greeted,
    /// QEMU replied to a command that was not sent, or replied twice.
    #[error("it answers a command that is not waiting for an answer: id {id}")]
    Stray {
        /// The id of the reply, escaped.
        id: String,
    },
    /// QEMU could not parse a command.
    #[error("it did not understand what was sent")]
    NotUnderstood(#[source] Refusal),
    /// The reply has another form than this command's.
    #[error("the answer is not of the form that this command has")]
    Form(#[source] JsonError),
    /// The command cannot be written as JSON.
    #[error("the command cannot be written as JSON")]
    Unwritable(#[source] serde_json::Error),
    /// QEMU refused the command.
    #[error(transparent)]
    Refused(Refusal),
    /// An earlier error left client and QEMU out of step.
    #[error("the connection failed before and is not used any more")]
    Failed,
}

impl Error {
    pub(super) fn new(socket: &Path, step: Step, why: Why) -> Self {
        Self { socket: socket.into(), step, why }
    }

    /// QEMU's refusal of the command, if that is the reason. The connection can still be used.
    pub fn refusal(&self) -> Option<&Refusal> {
        if let Why::Refused(refusal) = &self.why { Some(refusal) } else { None }
    }

    /// Whether the connection ended, as it does when QEMU ends.
    pub fn is_end(&self) -> bool {
        match &self.why {
            Why::Closed | Why::ClosedInside(_) => true,
            Why::Io(error) => {
                matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
            }
            _ => false,
        }
    }

    /// What the user can do about the error, where that is known.
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
                "QEMU serves one client per QMP socket: is another one connected? Give the machine \
                 one more socket with another -qmp unix:PATH,server=on,wait=off"
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
