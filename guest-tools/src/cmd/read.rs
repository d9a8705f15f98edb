//! `read`: bytes of an export to standard output or a file, or held against the pattern.

use std::{fs::File, io};

use super::{CommandError, pattern::Verifier};
use crate::{cli, link::Link, session};

pub(crate) fn run(words: &cli::Read) -> Result<(), CommandError> {
    let mut link = Link::open(&words.target.uri)?;
    let (at, size) = (words.offset, link.described().size);
    let rest = size.saturating_sub(at);
    let len = words.length.unwrap_or(rest);
    if at > size || len > rest {
        link.close();
        let what = format!("{len} bytes at {at}");
        return Err(CommandError::PastEnd { what, size });
    }
    if words.verify_pattern {
        let mut verifier = Verifier::new(at);
        session::read(&mut link, at, len, &mut verifier)?;
        link.close();
        if let Some((first, count)) = verifier.verdict() {
            return Err(CommandError::Pattern { first, count, len });
        }
        eprintln!("guest-tools: {len} bytes at {at} are the pattern");
        return Ok(());
    }
    match &words.output {
        Some(path) => {
            let opened = File::create(path);
            let mut file =
                opened.map_err(|source| CommandError::Open { path: path.clone(), source })?;
            session::read(&mut link, at, len, &mut file)?;
        }
        None => session::read(&mut link, at, len, &mut io::stdout().lock())?,
    }
    link.close();
    Ok(())
}
