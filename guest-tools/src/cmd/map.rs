//! `map`: prints which parts of an export are data and which are holes, or the extents of any other
//! context, in nbdinfo's format.

use std::{
    collections::BTreeMap,
    io::{self, BufWriter, Write},
};

use clap::Args;
use nbd::wire::{BASE_ALLOCATION, printable};
use nbd_client::{Connector, Extent, extents::Extents};
use serde_json::{Map as Object, Value};

use super::{
    CommandError,
    print::{print, print_json},
    range::Range,
};
use crate::target::Target;

const EXAMPLES: &str = "\
Examples:
  guest-tools map                              offset, length, type and its name, a line an extent
  guest-tools map --totals                     how much is data?
  guest-tools map --context qemu:dirty-bitmap:b nbd+vsock://2/disk --json

Keys of --json: a list with offset and length (bytes), type (the number in the protocol) and
description, where the type has a name; with --totals size (bytes), percent, type, description.

A server that does not have the context is an error; 'guest-tools info' lists those it has.";

/// The most requests in flight.
const DEPTH: usize = 8;

/// What was said.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Map {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    range: Range,
    /// Which map
    #[arg(long, value_name = "NAME", default_value = BASE_ALLOCATION)]
    context: String,
    /// Print how many bytes there are of each type
    #[arg(long)]
    totals: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(words: &Map, connector: &Connector) -> Result<(), CommandError> {
    let mut client = connector.open_with(&words.target.uri, &words.context)?;
    let range = words.range.inside(client.described().size);
    if client.terms().context(&words.context).is_none() || range.is_err() {
        client.close();
        range?;
        let context = printable(words.context.as_bytes());
        return Err(CommandError::Context { uri: words.target.uri.to_string(), context });
    }
    let range = range?;
    let mut walk = Extents::new(&client, range, DEPTH);
    if words.totals {
        let mut totals = BTreeMap::new();
        while let Some(extent) = walk.next(&mut client)? {
            *totals.entry(extent.flags.bits()).or_insert(0_u64) += extent.len;
        }
        client.close();
        return print_totals(words, &totals, range.1);
    }
    // Printed as it arrives, because the extents may exceed the memory.
    let mut out = BufWriter::new(io::stdout().lock());
    let printed = (|| {
        let mut first = true;
        while let Some(extent) = walk.next(&mut client)? {
            let line = if words.json {
                let comma = if first { "[\n" } else { ",\n" };
                format!("{comma}{}", extent_json(extent, &words.context))
            } else {
                extent_line(extent, &words.context)
            };
            first = false;
            out.write_all(line.as_bytes()).map_err(CommandError::Print)?;
        }
        if words.json {
            let end: &[u8] = if first { b"[]\n" } else { b"\n]\n" };
            out.write_all(end).map_err(CommandError::Print)?;
        }
        out.flush().map_err(CommandError::Print)
    })();
    match printed {
        Ok(()) => client.close(),
        // The reader, for example `head`, has closed the pipe.
        Err(CommandError::Print(error)) if error.kind() == io::ErrorKind::BrokenPipe => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

fn extent_line(extent: Extent, context: &str) -> String {
    let Extent { at, len, flags } = extent;
    let kind = flags.bits();
    let name = description(context, kind).map(|name| format!("  {name}")).unwrap_or_default();
    format!("{at:>10}  {len:>10}  {kind:>3}{name}\n")
}

fn extent_json(extent: Extent, context: &str) -> Value {
    let Extent { at, len, flags } = extent;
    let mut told = described(context, flags.bits());
    told.insert("offset".to_owned(), at.into());
    told.insert("length".to_owned(), len.into());
    told.into()
}

fn print_totals(words: &Map, totals: &BTreeMap<u32, u64>, of: u64) -> Result<(), CommandError> {
    #[allow(clippy::cast_precision_loss, reason = "it is printed with a few digits")]
    let percent = |size: u64| 100.0 * size as f64 / of as f64;
    if words.json {
        let lines = totals.iter().map(|(&kind, &size)| {
            let mut told = described(&words.context, kind);
            told.insert("size".to_owned(), size.into());
            told.insert("percent".to_owned(), six_digits(percent(size)));
            Value::from(told)
        });
        return print_json(&lines.collect());
    }
    let lines = totals.iter().map(|(&kind, &size)| {
        let name = description(&words.context, kind).map(|name| format!(" {name}"));
        format!("{size:>10} {:>5.1}% {kind:>3}{}\n", percent(size), name.unwrap_or_default())
    });
    print(&lines.collect::<String>())
}

/// Formats a number as nbdinfo does: six significant digits, without a decimal point if it is
/// whole.
fn six_digits(number: f64) -> Value {
    let short = format!("{number:.5e}").parse().unwrap_or(number);
    let whole = format!("{short}").parse::<u64>();
    whole.map_or_else(|_| short.into(), Value::from)
}

fn described(context: &str, kind: u32) -> Object<String, Value> {
    let mut told = Object::new();
    told.insert("type".to_owned(), kind.into());
    if let Some(name) = description(context, kind) {
        told.insert("description".to_owned(), name.into());
    }
    told
}

/// The name of an extent's type, for known contexts.
fn description(context: &str, kind: u32) -> Option<String> {
    let name = match (context, kind) {
        (BASE_ALLOCATION, 0) => "data",
        (BASE_ALLOCATION, 1) => "hole",
        (BASE_ALLOCATION, 2) => "zero",
        (BASE_ALLOCATION, 3) => "hole,zero",
        ("qemu:allocation-depth", 0) => "absent",
        ("qemu:allocation-depth", 1) => "local",
        ("qemu:allocation-depth", depth) => return Some(format!("backing depth {depth}")),
        (bitmap, 0) if bitmap.starts_with("qemu:dirty-bitmap:") => "clean",
        (bitmap, 1) if bitmap.starts_with("qemu:dirty-bitmap:") => "dirty",
        _ => return None,
    };
    Some(name.to_owned())
}
