//! `write`: standard input or a file to an export, and a flush.

use std::{fs::File, io};

use super::CommandError;
use crate::{cli, session::Session};

pub(crate) fn run(words: &cli::Write) -> Result<(), CommandError> {
    let (mut session, described) = Session::open(&words.target.uri)?;
    let (at, size) = (words.offset, described.size);
    let written = match &words.input {
        Some(path) => {
            let wrong = |source| CommandError::Open { path: path.clone(), source };
            let mut file = File::open(path).map_err(wrong)?;
            let facts = file.metadata().map_err(wrong)?;
            // What is known not to fit is not begun. A pipe tells its length at its end.
            if facts.is_file() && size.checked_sub(at).is_none_or(|room| facts.len() > room) {
                let what = format!("{} bytes at {at}", facts.len());
                return Err(CommandError::PastEnd { what, size });
            }
            session.write(at, &mut file)?
        }
        None => session.write(at, &mut io::stdin().lock())?,
    };
    session.close();
    eprintln!("guest-tools: {written} bytes written at {at}");
    Ok(())
}
