//! `zero`: makes a range read as zeroes.

use std::io::{self, Read};

use clap::Args;
use nbd::wire::{CommandFlags, TransmissionFlags};
use nbd_client::{Client, Connector, Order, Verb, transfer, transfer::Durability};

use super::{
    CommandError,
    range::{Changed, Settle, changed, in_pieces},
};
use crate::target::Target;

const EXAMPLES: &str = "\
Examples:
  guest-tools zero --offset 1M --length 512k
  guest-tools zero --all nbd+vsock://2/scratch --fast
  guest-tools zero --length 1G --no-hole --json

Keys of --json: offset, length (bytes), requests, method (zero, or write where the server cannot
zero), fua, flushed.";

/// What was said.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Zero {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    range: Changed,
    /// Keep the space: no holes
    #[arg(long)]
    no_hole: bool,
    /// Fail rather than take as long as a write would
    #[arg(long)]
    fast: bool,
    #[command(flatten)]
    settle: Settle,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(words: &Zero, connector: &Connector) -> Result<(), CommandError> {
    changed(connector, &words.target.uri, &words.range, |client, range| {
        let mut flags = CommandFlags::empty();
        flags.set(CommandFlags::FUA, words.settle.fua);
        flags.set(CommandFlags::NO_HOLE, words.no_hole);
        flags.set(CommandFlags::FAST_ZERO, words.fast);
        let offered = client.terms().flags.contains(TransmissionFlags::SEND_WRITE_ZEROES);
        let (requests, method) = if offered || words.fast {
            let order = |at, len| Order::bare(Verb::Zero(flags), at, len);
            (in_pieces(client, range, order)?, "zero")
        } else {
            (write_zeroes(client, range, words.settle.fua)?, "write")
        };
        let mut told = words.settle.finish(client, range)?;
        told.insert("requests".to_owned(), requests.into());
        told.insert("method".to_owned(), method.into());
        Ok((told, words.json, "zeroed"))
    })
}

/// Writes zeroes as data, for servers without NBD_CMD_WRITE_ZEROES. Returns how many requests it
/// took.
fn write_zeroes(client: &mut Client, range: (u64, u64), fua: bool) -> Result<u64, CommandError> {
    let (at, len) = range;
    let durability = Durability { fua, flush: false };
    transfer::write(client, at, &mut io::repeat(0).take(len), durability)?;
    Ok(len.div_ceil(transfer::piece(client).max(1)))
}
