//! `write`: copies standard input, a file or the pattern to an export, and flushes.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use clap::Args;
use human::{parse_size, print_size};
use nbd::wire::TransmissionFlags;
use nbd_client::{ClientError, Connector, transfer, transfer::Durability};
use serde_json::json;

use super::{CommandError, pattern::Source, print::print_json};
use crate::{stamp::Stamp, sys, target::Target};

const EXAMPLES: &str = "\
Examples:
  guest-tools write < disk.img
  guest-tools write nbd+vsock://2/disk --offset 1M --input part.img
  guest-tools write --pattern --length 1G --json

Keys of --json: offset, length (bytes), fua, flushed.";

/// What was said.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Write {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Where to begin, in bytes; suffixes k, M, G, ... are powers of 1024
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = parse_size)]
    pub(crate) offset: u64,
    /// Where the bytes come from; default: standard input
    #[arg(long, short, visible_alias = "in", value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,
    /// Write a pattern instead: each aligned 8 bytes are their own offset, big-endian
    #[arg(long, requires = "length", conflicts_with = "input")]
    pub(crate) pattern: bool,
    /// How many bytes of the pattern
    #[arg(long, value_name = "SIZE", requires = "pattern", value_parser = parse_size)]
    pub(crate) length: Option<u64>,
    /// Make each piece durable before the server answers it (FUA)
    #[arg(long)]
    pub(crate) fua: bool,
    /// Leave out the flush at the end
    #[arg(long)]
    pub(crate) no_flush: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(words: &Write, connector: &Connector) -> Result<(), CommandError> {
    let mut client = connector.open(&words.target.uri)?;
    let (at, size) = (words.offset, client.described().size);
    // Nothing is written if the data is known not to fit. The length of a pipe is known only at its
    // end.
    let fits = |len: u64| {
        if size.checked_sub(at).is_some_and(|room| len <= room) {
            return Ok(());
        }
        let what = format!("{len} bytes at {at}");
        Err(CommandError::PastEnd { what, size })
    };
    let durability = Durability { fua: words.fua, flush: !words.no_flush };
    let mut copy = |source: &mut dyn Read| transfer::write(&mut client, at, source, durability);
    let written = match (&words.input, words.pattern.then_some(words.length).flatten()) {
        (Some(path), _) => {
            let wrong = |source| CommandError::Open { path: path.clone(), source };
            let file = File::open(path).map_err(wrong)?;
            let facts = file.metadata().map_err(wrong)?;
            fits(if facts.is_file() { facts.len() } else { 0 })?;
            whole(&file, path, &mut copy)?
        }
        (None, Some(len)) => {
            fits(len)?;
            copy(&mut Source::new(at, len))?
        }
        (None, None) => {
            fits(0)?;
            let path = Path::new("standard input");
            let wrong = |source| CommandError::Open { path: path.to_owned(), source };
            let input = io::stdin();
            sys::was_open(input.as_fd()).map_err(wrong)?;
            let input = input.as_fd().try_clone_to_owned().map_err(wrong)?;
            whole(&File::from(input), path, &mut copy)?
        }
    };
    let flushed = durability.flush && client.terms().flags.contains(TransmissionFlags::SEND_FLUSH);
    client.close();
    if words.json {
        return print_json(&json!({
            "offset": at, "length": written, "fua": words.fua, "flushed": flushed,
        }));
    }
    let settled = if words.no_flush { ", not flushed" } else { "" };
    eprintln!("guest-tools: {} written at {at}{settled}", print_size(written));
    Ok(())
}

/// Copies a whole file. A change of the file meanwhile is an error, because the result would not be
/// a copy.
fn whole(
    mut file: &File,
    path: &Path,
    copy: &mut dyn FnMut(&mut dyn Read) -> Result<u64, ClientError>,
) -> Result<u64, CommandError> {
    let wrong = |source| CommandError::Open { path: path.to_owned(), source };
    let stamp = Stamp::of(file).map_err(wrong)?;
    let written = copy(&mut file)?;
    let changed = stamp.map_or(Ok(None), |stamp| stamp.changed(file)).map_err(wrong)?;
    match changed {
        None => Ok(written),
        Some(change) => {
            let name = path.display().to_string();
            Err(CommandError::Changed { len: written, name, change })
        }
    }
}
