//! The command line: what was said, checked for form. Nothing is opened here.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use nbd::{
    Uri,
    uri::{HOST_CID, Place},
    wire::DEFAULT_PORT,
};

use crate::size::parse_size;

/// Uses a disk that the host serves over AF_VSOCK.
#[derive(Debug, Parser)]
#[command(name = "guest-tools", version, about, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Tell what an export is and what it can do
    Info(Info),
    /// Copy bytes of an export to standard output or a file
    Read(Read),
    /// Copy standard input, a file or a pattern to an export, and flush
    Write(Write),
}

#[derive(Debug, Args)]
pub(crate) struct Info {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

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

#[derive(Debug, Args)]
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
}

/// Which disk.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// nbd+vsock://[CID][:PORT]/NAME, nbd+unix:///NAME?socket=PATH or nbd://ADDRESS[:PORT]/NAME
    #[arg(value_name = "URI", default_value_t = host())]
    pub(crate) uri: Uri,
}

/// The default export of this guest's host.
fn host() -> Uri {
    Uri::plain(Place::Vsock { cid: HOST_CID, port: DEFAULT_PORT.into() }, String::new())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definitions_agree_with_each_other() {
        Cli::command().debug_assert();
    }

    #[test]
    fn without_a_uri_the_host_is_meant() {
        let said = Cli::parse_from(["guest-tools", "read", "--offset", "1k"]);
        let Command::Read(read) = said.command else { panic!("{said:?}") };
        assert_eq!(read.target.uri.to_string(), "nbd+vsock://2/");
        assert_eq!((read.offset, read.length), (1024, None));
    }
}
