//! `trim`: tells the server that a range is no longer needed.

use clap::Args;
use nbd_client::{Connector, Order, Verb};

use super::{
    CommandError,
    range::{Changed, Settle, changed, in_pieces},
};
use crate::target::Target;

const EXAMPLES: &str = "\
Examples:
  guest-tools trim --offset 1G --length 1G
  guest-tools trim --all nbd+vsock://2/scratch --json

What is read from there afterwards may be anything; 'guest-tools zero' makes it zeroes.

Keys of --json: offset, length (bytes), requests, fua, flushed.";

/// What was said.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Trim {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    range: Changed,
    #[command(flatten)]
    settle: Settle,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(words: &Trim, connector: &Connector) -> Result<(), CommandError> {
    changed(connector, &words.target.uri, &words.range, |client, range| {
        let verb = Verb::Trim { fua: words.settle.fua };
        let requests = in_pieces(client, range, |at, len| Order::bare(verb, at, len))?;
        let mut told = words.settle.finish(client, range)?;
        told.insert("requests".to_owned(), requests.into());
        Ok((told, words.json, "trimmed"))
    })
}
