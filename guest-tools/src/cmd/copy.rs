//! `copy`: copies a disk from one side to another, including its holes.

use clap::Args;
use human::parse_size;
use nbd_client::Connector;
use serde_json::json;

use super::{CommandError, print::print_json};
use crate::copy::{Copied, How, Plan, Word, copy, per_second, short};

const EXAMPLES: &str = "\
Each side is an address (nbd+vsock://2/NAME, nbd+unix:///NAME?socket=PATH, nbd://ADDRESS/NAME), a
file, a block device, or - for standard input or output. null: as the destination keeps nothing.

A file as the destination is made, or made empty first. An export or device that is larger than the
source keeps what is behind it; one that is smaller is refused before anything is written. Holes
stay holes. The destination is flushed at the end (nbdcopy does that only with --flush). Nothing is
copied onto itself, nor a device onto the file or disk that it is made of. A file that somebody
changes while it is read is copied, and then it is an error: parts may be old and parts new.

Examples:
  guest-tools copy nbd+vsock://2/ disk.img
  guest-tools copy /dev/vdb nbd+vsock://2/backup --verify
  guest-tools copy nbd+vsock://2/ - | gzip > disk.gz

Keys of --json: source, destination, length, data, zeroes (bytes), connections, flushed, verified,
seconds, bytes-per-second.";

/// What was said.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Copy {
    /// Where the bytes come from
    #[arg(value_name = "SRC")]
    source: Word,
    /// Where they go to
    #[arg(value_name = "DST")]
    destination: Word,
    /// Connections to each server, where both allow several; default: 4, or the processors if fewer
    #[arg(long, short = 'C', value_name = "N", value_parser = parse_count)]
    connections: Option<usize>,
    /// Requests under way on each connection; default: 64, or those that are 4 MiB together
    #[arg(long, short = 'R', value_name = "N", value_parser = parse_count)]
    requests: Option<usize>,
    /// Bytes of one request, at most; up to 32M
    #[arg(long, value_name = "SIZE", default_value = "256k", value_parser = parse_request_size)]
    request_size: u64,
    /// Make blocks of this size that are all zeroes holes; 0 to look for none; default: 4096, or
    /// what the destination prefers
    #[arg(long, short = 'S', value_name = "SIZE", value_parser = parse_sparse)]
    sparse: Option<u64>,
    /// Do not ask the source for its holes
    #[arg(long)]
    no_extents: bool,
    /// Take up space on the destination for zeroes too
    #[arg(long)]
    allocated: bool,
    /// The destination is known to be all zeroes: write none
    #[arg(long, visible_alias = "target-is-zero", conflicts_with = "allocated")]
    destination_is_zero: bool,
    /// Make all of it durable at the end; so it is without this word too
    #[arg(long, conflicts_with = "no_flush")]
    flush: bool,
    /// Leave out the flush at the end
    #[arg(long)]
    no_flush: bool,
    /// Read both sides again and compare them
    #[arg(long)]
    verify: bool,
    /// How to show progress: auto, bar, lines, none, or a descriptor that is to get N/100
    #[arg(long, short, value_name = "HOW", num_args = 0..=1, require_equals = true,
          default_value = "auto", default_missing_value = "auto")]
    progress: How,
    /// Show nothing but errors
    #[arg(long, short, conflicts_with = "progress")]
    quiet: bool,
    /// Print JSON on standard output, which the bytes must not use
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(words: &Copy, connector: &Connector) -> Result<(), CommandError> {
    if words.json && words.destination == Word::Stdio {
        return Err(CommandError::Words("--json is printed where the bytes are to go: say a file"));
    }
    if words.source == Word::Null {
        return Err(CommandError::Words("null: is no source, only a destination"));
    }
    let plan = Plan {
        connector: connector.clone(),
        source: words.source.clone(),
        target: words.destination.clone(),
        connections: words.connections,
        requests: words.requests,
        request_size: words.request_size,
        sparse: words.sparse,
        extents: !words.no_extents,
        zero: words.destination_is_zero,
        allocate: words.allocated,
        flush: !words.no_flush,
        verify: words.verify,
        progress: if words.quiet { How::None } else { words.progress },
        quiet: words.quiet,
        json: words.json,
    };
    let copied = copy(&plan)?;
    if words.json {
        return print_json(&told(words, &copied));
    }
    if !words.quiet {
        let Copied { data, zeroes, time, .. } = copied;
        let kept = !matches!(words.destination, Word::Stdio | Word::Null);
        let unflushed = words.no_flush || kept && !copied.flushed;
        let flushed = if unflushed { ", not flushed" } else { "" };
        let verified = if copied.verified { ", verified" } else { "" };
        eprintln!(
            "guest-tools: {} bytes copied ({} of data, {} of zeroes) in {:.3} s, {}/s{flushed}{verified}",
            data + zeroes,
            short(data),
            short(zeroes),
            time.as_secs_f64(),
            short(per_second(data + zeroes, time)),
        );
    }
    Ok(())
}

fn told(words: &Copy, copied: &Copied) -> serde_json::Value {
    json!({
        "source": words.source.to_string(),
        "destination": words.destination.to_string(),
        "length": copied.data + copied.zeroes,
        "data": copied.data,
        "zeroes": copied.zeroes,
        "connections": copied.connections,
        "flushed": copied.flushed,
        "verified": copied.verified,
        "seconds": copied.time.as_secs_f64(),
        "bytes-per-second": per_second(copied.data + copied.zeroes, copied.time),
    })
}

fn parse_count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=1024) => Ok(count),
        _ => Err("it is a number from 1 to 1024".to_owned()),
    }
}

fn parse_request_size(text: &str) -> Result<u64, String> {
    match parse_size(text).map_err(|error| error.to_string())? {
        size @ 512..=0x200_0000 => Ok(size),
        _ => Err("it is from 512 to 32M".to_owned()),
    }
}

fn parse_sparse(text: &str) -> Result<u64, String> {
    match parse_size(text).map_err(|error| error.to_string())? {
        0 => Ok(0),
        size @ 512..=0x200_0000 if size.is_power_of_two() => Ok(size),
        _ => Err("it is 0, or a power of two from 512 to 32M".to_owned()),
    }
}
