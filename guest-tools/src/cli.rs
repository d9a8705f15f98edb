//! The command line, parsed and checked for form. Nothing is opened here.

use std::time::Duration;

use clap::{Parser, Subcommand, error::ErrorKind};

use crate::cmd::{
    attach::Attach, bench::Bench, cache::Cache, connect::Connect, copy::Copy, detach::Detach,
    dump::Dump, info::Info, list::List, map::Map, probe::Probe, read::Read, status::Status,
    test::Test, trim::Trim, write::Write, zero::Zero,
};

use human::parse_duration;

const EXAMPLES: &str = "\
An address is libnbd's NBD URI; what is special in a name is percent-encoded. Without one it is the
default export of this guest's host, nbd+vsock://2/ (port 10809).

  nbd+vsock://[CID][:PORT]/NAME     nbd+unix:///NAME?socket=PATH     nbd://HOST[:PORT]/NAME

nbds, nbds+vsock and nbds+unix are the same with TLS. The parameter tls-certificates=DIR says where
ca-cert.pem is and, if the server wants to know this end, client-cert.pem and client-key.pem; else
they are in ~/.pki/libnbd, ~/.config/pki/libnbd or /etc/pki/libnbd. tls-hostname=NAME is the name
that the server's certificate must have; a HOST is checked by itself, a CID or path has none. HOST
is an address or a name, which is looked up; localhost is 127.0.0.1 or ::1.

Examples:
  guest-tools info                             is there a disk, and what can it do?
  guest-tools read --length 4k | od -c | head
  guest-tools list nbd+vsock://2:10810/
  guest-tools info nbds+vsock://2/disk?tls-certificates=/etc/pki/disk

A server counts as gone when it owes an answer and --timeout passes without one, and with fewer than
4096 bytes either way. An answer before an export is entered must be whole by then. Only the flush at
the end of copy, write, zero and trim takes as long as it takes, while the server answers reads, and
attach has --dead-timeout for a disk in use.

Exit codes: 0 when it is done; 1 when not, with one line on standard error; 2 for a question whose
answer is no.";

/// Uses a disk that the host serves over AF_VSOCK.
#[derive(Debug, Parser)]
#[command(name = "guest-tools", version, max_term_width = 100, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// How long a server may owe an answer and say next to nothing before it counts as gone, such as
    /// 500ms or 5m; 0s: for ever
    #[arg(long, global = true, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Find out why vsock does not work here, and how to fix it
    Probe(Probe),
    /// Connect standard input and output to a vsock port
    Connect(Connect),
    /// Tell what an export is and what it can do
    Info(Info),
    /// List the exports of a server, each as `info` tells it
    List(List),
    /// Show which parts of an export are data and which are holes
    Map(Map),
    /// Copy bytes of an export to standard output or a file
    Read(Read),
    /// Copy standard input, a file or a pattern to an export, and flush
    Write(Write),
    /// Make a range read as zeroes
    Zero(Zero),
    /// Tell the server that a range is not needed any more
    Trim(Trim),
    /// Ask the server to have a range at hand
    Cache(Cache),
    /// Print what an export holds in hexadecimal
    Dump(Dump),
    /// Find out whether the disk keeps what it is given
    Test(Test),
    /// Measure how fast the disk is from here
    Bench(Bench),
    /// Copy a disk between addresses, files, block devices and pipes, with its holes
    Copy(Copy),
    /// Make a block device of an export, which survives its server
    Attach(Attach),
    /// Flush a block device and let it go
    Detach(Detach),
    /// Tell which block devices are attached, and how they are
    Status(Status),
}

/// clap's error message, without its prefix and the usage after it.
pub(crate) fn one_line(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "no command is given: 'guest-tools --help' lists them".to_owned();
    }
    let text = error.to_string();
    let said = text.trim_start_matches("error: ").lines().map(str::trim);
    let said = said.take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    let lines: Vec<_> = said.filter(|line| !line.is_empty()).collect();
    lines.join("; ").replace(":; ", ": ")
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
        assert_eq!((read.range.offset, read.range.length), (1024, None));
    }
}
