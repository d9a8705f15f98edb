//! The range options of commands, and requests for a range in pieces that the server accepts.

use std::time::{Duration, Instant};

use clap::Args;
use human::{parse_size, print_size};
use nbd::{Uri, wire::TransmissionFlags};
use nbd_client::{Client, ClientError, Connector, Order, transfer};
use serde_json::{Map, Value};

use super::{CommandError, print::print_json};

/// A range of the export, up to its end if nothing else is said.
#[derive(Debug, Args)]
pub(crate) struct Range {
    /// Where to begin, in bytes; suffixes k, M, G, ... are powers of 1024
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = parse_size)]
    pub(crate) offset: u64,
    /// How many bytes; default: up to the end
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) length: Option<u64>,
}

/// A range that is to be changed: all of a disk is meant only if it is said.
#[derive(Debug, Args)]
pub(crate) struct Changed {
    /// Where to begin, in bytes; suffixes k, M, G, ... are powers of 1024
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = parse_size)]
    offset: u64,
    /// How many bytes
    #[arg(long, value_name = "SIZE", value_parser = parse_size, required_unless_present = "all")]
    length: Option<u64>,
    /// Everything from the offset to the end
    #[arg(long, conflicts_with = "length")]
    all: bool,
}

impl Range {
    /// Offset and length within an export of `size` bytes. It is an error if the range exceeds the
    /// export.
    pub(crate) fn inside(&self, size: u64) -> Result<(u64, u64), CommandError> {
        inside(self.offset, self.length, size)
    }
}

impl Changed {
    /// Offset and length within an export of `size` bytes. It is an error if the range exceeds the
    /// export.
    pub(super) fn inside(&self, size: u64) -> Result<(u64, u64), CommandError> {
        inside(self.offset, self.length, size)
    }
}

fn inside(at: u64, length: Option<u64>, size: u64) -> Result<(u64, u64), CommandError> {
    let rest = size.saturating_sub(at);
    let len = length.unwrap_or(rest);
    if at > size || len > rest {
        return Err(CommandError::PastEnd { what: format!("{len} bytes at {at}"), size });
    }
    Ok((at, len))
}

/// How what was changed becomes durable.
#[derive(Debug, Args)]
pub(crate) struct Settle {
    /// Make each piece durable before the server answers it (FUA)
    #[arg(long)]
    pub(super) fua: bool,
    /// Leave out the flush at the end
    #[arg(long)]
    no_flush: bool,
}

impl Settle {
    /// Flushes, unless that is not wanted or the server has no flush. Returns the JSON members that
    /// all changes have in common.
    pub(super) fn finish(
        &self,
        client: &mut Client,
        (at, len): (u64, u64),
    ) -> Result<Map<String, Value>, ClientError> {
        let flushed =
            !self.no_flush && client.terms().flags.contains(TransmissionFlags::SEND_FLUSH);
        if flushed {
            transfer::flush(client)?;
        }
        let told: [(&str, Value); 4] = [
            ("offset", at.into()),
            ("length", len.into()),
            ("fua", self.fua.into()),
            ("flushed", flushed.into()),
        ];
        Ok(told.map(|(key, value)| (key.to_owned(), value)).into_iter().collect())
    }
}

/// Opens an export, changes a range of it, and always closes the session properly. Prints the
/// result: JSON if `change` asks for it, otherwise a line with the word that it returns.
pub(super) fn changed(
    connector: &Connector,
    uri: &Uri,
    range: &Changed,
    change: impl FnOnce(
        &mut Client,
        (u64, u64),
    ) -> Result<(Map<String, Value>, bool, &'static str), CommandError>,
) -> Result<(), CommandError> {
    let mut client = connector.open(uri)?;
    let range = range.inside(client.described().size);
    let done = range.and_then(|range| Ok((range, change(&mut client, range)?)));
    client.close();
    let ((at, len), (told, json, word)) = done?;
    if json {
        return print_json(&told.into());
    }
    let settled =
        if told.get("flushed") == Some(&Value::from(true)) { "" } else { ", not flushed" };
    eprintln!("guest-tools: {} at {at} {word}{settled}", print_size(len));
    Ok(())
}

/// The first piece of a range, in bytes. A server that has to write zeroes for it takes about a
/// second.
const FIRST: u64 = 64 << 20;
/// A piece that took no longer is followed by one of twice the length.
const QUICK: Duration = Duration::from_millis(500);
/// A piece that took longer is followed by one of half the length, so that no answer takes as long
/// as the time after which a server counts as gone.
const SLOW: Duration = Duration::from_secs(5);

/// Sends requests for a range in pieces, one after another. Returns how many there were.
pub(super) fn in_pieces(
    client: &mut Client,
    (at, len): (u64, u64),
    order: impl Fn(u64, u64) -> Order,
) -> Result<u64, ClientError> {
    let unit = u64::from(client.terms().blocks.minimum.max(1));
    let longest = client.longest_range();
    let (mut at, mut left, mut piece, mut count) = (at, len, FIRST.min(longest), 0);
    while left > 0 {
        let now = piece.min(left);
        let begun = Instant::now();
        client.submit(order(at, now))?;
        client.next_good()?;
        at += now;
        left -= now;
        count += 1;
        let took = begun.elapsed();
        if took <= QUICK {
            piece = piece.saturating_mul(2).min(longest);
        } else if took > SLOW {
            piece = (piece / 2 - piece / 2 % unit).max(unit);
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_lies_inside() {
        for (at, length, found) in [
            (0, None, Some((0, 100))),
            (100, None, Some((100, 0))),
            (40, Some(60), Some((40, 60))),
            (40, Some(61), None),
            (101, None, None),
            (u64::MAX, Some(u64::MAX), None),
        ] {
            let range = Range { offset: at, length };
            assert_eq!(range.inside(100).ok(), found, "{range:?}");
        }
    }
}
