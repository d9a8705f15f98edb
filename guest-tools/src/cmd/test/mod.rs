//! `test`: checks that a disk works. It writes blocks that encode their own offset, over several
//! connections, and compares everything that it reads with what must be there.
//!
//! `block` makes the blocks, `model` knows what the disk must hold, `drive` has the connections, `rounds`
//! runs the test, and `extents`, `bytes` and `far` test one subject each.

mod block;
mod bytes;
mod drive;
mod extents;
mod far;
mod model;
mod rounds;

use std::time::Instant;

use clap::Args;
use human::{parse_size, print_size};
use nbd::wire::TransmissionFlags;
use nbd_client::{Connector, Order};
use serde_json::json;

use self::drive::{Drive, Settings};
use super::{CommandError, print::print_json, range::Range};
use crate::target::Target;

const EXAMPLES: &str = "\
Examples:
  guest-tools test --destroy                     all of it, up to 1 GiB
  guest-tools test --destroy --length 64M --connections 2 nbd+vsock://2/scratch
  guest-tools test --read-only                   is still there what the last run wrote?

A run fills the range, changes it at random by writes, FUA, zeroes and trims while it reads, flushes
and cuts the connections, does so again in the middle of writes, and at last writes all of it once
more, for --read-only. Requests have all lengths up to the longest that the server takes, and some
have any offset that it takes. What was answered must be read back, what was flushed or written with
FUA must be there after a cut, and no data may be in an extent that is said to be zeroes. Requests
that are under way at the same time do not overlap: what such ones leave is not specified. Without
multi-conn one connection is used. Where the export is longer than the range and --length is not
given, a few blocks behind it are written too, at its end and around powers of two.

Keys of --json: offset, length (bytes), block (bytes), connections, requests, cuts, seconds, seed.";

/// The most bytes that are tested by default.
const MOST: u64 = 1 << 30;

/// What was said.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Test {
    #[command(flatten)]
    target: Target,
    /// Yes, what is on the disk may be lost
    #[arg(long, required_unless_present = "read_only")]
    destroy: bool,
    /// Change nothing: check what the last run wrote
    #[arg(long, conflicts_with = "destroy")]
    read_only: bool,
    #[command(flatten)]
    range: Range,
    /// Most that is tested if no length is said
    #[arg(long, hide = true, value_name = "SIZE", default_value_t = MOST, value_parser = parse_size)]
    most: u64,
    /// Connections at the same time, where the server has multi-conn
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    connections: u16,
    /// Requests under way on each
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    requests: u16,
    /// What the random changes begin with; the same seed makes the same requests
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(words: &Test, connector: &Connector) -> Result<(), CommandError> {
    let begun = Instant::now();
    let uri = &words.target.uri;
    let mut client = connector.open(uri)?;
    if words.destroy && client.described().flags.contains(TransmissionFlags::READ_ONLY) {
        client.close();
        return Err(CommandError::ReadOnly(uri.to_string()));
    }
    let size = client.described().size;
    let unit = u64::from(client.terms().blocks.minimum).max(1);
    let block = unit.max(512);
    let multi = client.described().flags.contains(TransmissionFlags::CAN_MULTI_CONN);
    let seed = words.seed.unwrap_or_else(|| u64::from(std::process::id()) ^ clock());
    let (at, len, end, seed, last) = if words.read_only {
        let at = words.range.offset.next_multiple_of(block);
        client.submit(Order::read(at, block, Vec::new()))?;
        let head = client.next_good()?.order.bytes;
        let (len, seed, last) = drive::header(&head).ok_or(CommandError::NoRun { at })?;
        // The length is the server's claim, and the test needs memory in proportion to it.
        if len > words.range.length.unwrap_or(MOST).max(MOST) {
            client.close();
            return Err(CommandError::LongRun { at, len });
        }
        if at.checked_add(len).is_none_or(|end| end > size) {
            return Err(CommandError::PastEnd {
                what: format!("{len} tested bytes at {at}"),
                size,
            });
        }
        (at, len, at + len, seed, Some(last))
    } else {
        let (at, len) = words.range.inside(size)?;
        let start = at.next_multiple_of(block);
        let len = (at + len).saturating_sub(start);
        let len = if words.range.length.is_some() { len } else { len.min(words.most) };
        (start, len - len % block, start + len, seed, None)
    };
    client.close();
    if len < 16 * block {
        let what = format!("a test takes 16 blocks of {block} bytes: {}", 16 * block);
        return Err(CommandError::PastEnd { what, size });
    }
    let connections = if multi { words.connections.into() } else { 1 };
    let requests = words.requests.into();
    let whole = words.range.length.is_none();
    let settings = Settings { at, len, end, size, block, unit, whole, seed, connections, requests };
    let mut drive = Drive::new(connector, uri, settings)?;
    let done = match last {
        Some(last) => drive.check_last_run(last),
        None => drive.all(),
    };
    let (requests, cuts) = drive.close();
    done?;
    let seconds = begun.elapsed().as_secs_f64();
    if words.json {
        return print_json(&json!({
            "offset": at, "length": len, "block": block, "connections": connections,
            "requests": requests, "cuts": cuts, "seconds": seconds, "seed": seed,
        }));
    }
    eprintln!(
        "guest-tools: {} at {at} are right: {requests} requests, {connections} connections, {cuts} \
         cuts, {seconds:.1} s, seed {seed}",
        print_size(len)
    );
    Ok(())
}

/// A different number at each run. It need not be unpredictable.
fn clock() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    block::mix(now.map_or(0, |now| now.subsec_nanos().into()))
}
