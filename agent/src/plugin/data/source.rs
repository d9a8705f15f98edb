//! The sources of `data=`: a file, or the output of a command.

use std::{
    fs,
    io::{self, Read},
    process::{Command, ExitStatus},
};

use thiserror::Error;

use crate::child::{ChildError, Job, Printed};

/// Most bytes of a file or of the output of a command, because either may never end.
const MOST: u64 = 1 << 30;

pub(super) enum Source {
    File(String),
    Command(String),
}

/// Why a source cannot be read.
#[derive(Debug, Error)]
pub(super) enum SourceError {
    #[error("the file {0} cannot be read")]
    File(String, #[source] io::Error),
    #[error("the command ({0}) failed: {1}")]
    Status(String, ExitStatus),
    #[error("the command ({0}) failed")]
    Command(String, #[source] ChildError),
    #[error("it gives more than {MOST} bytes; take a part of it: [:LENGTH]")]
    Endless,
}

impl Source {
    /// All bytes, or the first `most` bytes.
    pub(super) fn read(self, most: Option<u64>) -> Result<Vec<u8>, SourceError> {
        match self {
            Self::File(name) => {
                let file = fs::File::open(&name)
                    .map_err(|error| SourceError::File(name.clone(), error))?;
                limited(file, most, |error| SourceError::File(name.clone(), error))
            }
            Self::Command(command) => {
                let failed = |error| SourceError::Command(command.clone(), error);
                let mut shell = Command::new("/bin/sh");
                shell.arg("-c").arg(&command);
                // The start of the agent waits for the command, so the user can interrupt it.
                let job = Job::new(shell).interruptible(true);
                if let Some(most) = most {
                    // The command may never end, and no more output is needed.
                    let most = usize::try_from(most.min(MOST + 1)).unwrap_or(usize::MAX);
                    let bytes = job.output(most).beginning();
                    let bytes = bytes.map_err(failed)?;
                    return if bytes.len() as u64 > MOST {
                        Err(SourceError::Endless)
                    } else {
                        Ok(bytes)
                    };
                }
                let most = usize::try_from(MOST).unwrap_or(usize::MAX);
                match job.output(most).print() {
                    Ok(Printed { status, stdout, .. }) if status.success() => Ok(stdout),
                    Ok(Printed { status, .. }) => Err(SourceError::Status(command, status)),
                    Err(ChildError::Flood(_)) => Err(SourceError::Endless),
                    Err(error) => Err(failed(error)),
                }
            }
        }
    }
}

/// Reads all bytes, or the first `most` bytes.
fn limited(
    from: impl Read,
    most: Option<u64>,
    failed: impl Fn(io::Error) -> SourceError,
) -> Result<Vec<u8>, SourceError> {
    let mut bytes = Vec::new();
    let limit = most.unwrap_or(MOST + 1).min(MOST + 1);
    from.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MOST { Err(SourceError::Endless) } else { Ok(bytes) }
}
