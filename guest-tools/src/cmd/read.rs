//! `read`: bytes of an export to standard output or a file, or held against the pattern.

use std::{fs::File, io, path::PathBuf};

use clap::Args;

use super::{CommandError, pattern::Verifier};
use crate::{cli::Target, link::Link, session, size::parse_size};

/// What was said.
#[derive(Debug, Args)]
pub(crate) struct Read {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Where to begin, in bytes; suffixes k, M, G, ... are powers of 1024
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = parse_size)]
    pub(crate) offset: u64,
    /// How many bytes; default: up to the end
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) length: Option<u64>,
    /// Where to put them; default: standard output
    #[arg(long, short, visible_alias = "out", value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Put them nowhere; fail unless each is what `write --pattern` writes there
    #[arg(long, conflicts_with = "output")]
    pub(crate) verify_pattern: bool,
}

pub(crate) fn run(words: &Read) -> Result<(), CommandError> {
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
