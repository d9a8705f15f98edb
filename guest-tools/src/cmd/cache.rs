//! `cache`: asks the server to prefetch a range that will be read soon.

use clap::Args;
use human::print_size;
use nbd_client::{Connector, Order, Verb};
use serde_json::json;

use super::{
    CommandError,
    print::print_json,
    range::{Range, in_pieces},
};
use crate::target::Target;

const EXAMPLES: &str = "\
Examples:
  guest-tools cache --length 64M
  guest-tools cache nbd+vsock://2/root --json

Keys of --json: offset, length (bytes), requests.";

/// What was said.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Cache {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    range: Range,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(words: &Cache, connector: &Connector) -> Result<(), CommandError> {
    let mut client = connector.open(&words.target.uri)?;
    let done = words.range.inside(client.described().size).and_then(|range| {
        Ok((range, in_pieces(&mut client, range, |at, len| Order::bare(Verb::Cache, at, len))?))
    });
    client.close();
    let ((at, len), requests) = done?;
    if words.json {
        return print_json(&json!({ "offset": at, "length": len, "requests": requests }));
    }
    eprintln!("guest-tools: {} at {at} cached", print_size(len));
    Ok(())
}
