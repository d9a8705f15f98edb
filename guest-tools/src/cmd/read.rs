//! `read`: copies bytes of an export to standard output or a file, or compares them with the
//! pattern.

use std::{fs::File, io, os::fd::AsFd, path::PathBuf};

use clap::Args;
use nbd_client::{Connector, transfer};
use serde_json::json;

use super::{CommandError, pattern::Verifier, print::print_json, range::Range};
use crate::{
    copy::{sync, sync_name},
    sys,
    target::Target,
};

const EXAMPLES: &str = "\
Examples:
  guest-tools read --length 512 | od -c        the first sector of the default export
  guest-tools read nbd+vsock://2/disk --output disk.img
  guest-tools read --verify-pattern --length 1G --json

Keys of --json: offset, length (bytes), verified (with --verify-pattern: true).";

/// What was said.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Read {
    #[command(flatten)]
    pub(crate) target: Target,
    #[command(flatten)]
    pub(crate) range: Range,
    /// Where to put them; default: standard output
    #[arg(long, short, visible_alias = "out", value_name = "FILE", group = "kept")]
    pub(crate) output: Option<PathBuf>,
    /// Put them nowhere; fail unless each is what `write --pattern` writes there
    #[arg(long, group = "kept")]
    pub(crate) verify_pattern: bool,
    /// Print JSON on standard output, which the bytes must not use
    #[arg(long, requires = "kept")]
    json: bool,
}

pub(crate) fn run(words: &Read, connector: &Connector) -> Result<(), CommandError> {
    let mut client = connector.open(&words.target.uri)?;
    let (at, len) = match words.range.inside(client.described().size) {
        Ok(range) => range,
        Err(error) => {
            client.close();
            return Err(error);
        }
    };
    if words.verify_pattern {
        let mut verifier = Verifier::new(at);
        transfer::read(&mut client, at, len, &mut verifier)?;
        client.close();
        if let Some((first, count)) = verifier.verdict() {
            return Err(CommandError::Pattern { first, count, len });
        }
        if words.json {
            return print_json(&json!({ "offset": at, "length": len, "verified": true }));
        }
        eprintln!("guest-tools: {len} bytes at {at} are the pattern");
        return Ok(());
    }
    if let Some(path) = &words.output {
        let opened = File::create(path);
        let mut file =
            opened.map_err(|source| CommandError::Open { path: path.clone(), source })?;
        transfer::read(&mut client, at, len, &mut file)?;
        sync(&file).and_then(|_| sync_name(path)).map_err(CommandError::Kept)?;
    } else {
        let output = io::stdout();
        sys::was_open(output.as_fd()).map_err(CommandError::Print)?;
        transfer::read(&mut client, at, len, &mut output.lock())?;
        let output = output.as_fd().try_clone_to_owned().map_err(CommandError::Print)?;
        sync(&File::from(output)).map_err(CommandError::Kept)?;
    }
    client.close();
    if words.json {
        return print_json(&json!({ "offset": at, "length": len }));
    }
    Ok(())
}
