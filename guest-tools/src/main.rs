//! guest-tools: the guest's side of a disk served over AF_VSOCK.

mod attach;
mod cli;
mod cmd;
mod copy;
#[cfg(test)]
mod generated;
mod init;
mod stamp;
mod sys;
mod target;

use std::process::ExitCode;

use clap::Parser;
use human::chain;
use nbd_client::{Connector, Timeout};

use crate::{
    cli::{Cli, Command},
    cmd::CommandError,
};

fn main() -> ExitCode {
    if init::is_first_process() {
        init::run(std::env::args_os().skip(1), |words| match Cli::try_parse_from(words) {
            Ok(cli) => perform(&cli) == 0,
            Err(error) => without_command(&error) == 0,
        });
    }
    match Cli::try_parse() {
        Ok(cli) => perform(&cli).into(),
        Err(error) => without_command(&error).into(),
    }
}

/// Handles --help, --version and a wrong command line, which is reported in one line. Returns the
/// exit code.
fn without_command(error: &clap::Error) -> u8 {
    if error.use_stderr() {
        eprintln!("guest-tools: error: {}", cli::one_line(error));
        return 1;
    }
    // If standard output is closed, there is nowhere to report it.
    error.print().ok();
    0
}

/// Runs the command, reports its error, and returns the exit code.
fn perform(cli: &Cli) -> u8 {
    let connector = Connector::new(Timeout::new(cli.timeout).set_by("--timeout"));
    let done = match &cli.command {
        Command::Probe(words) => cmd::probe::run(words, &connector),
        Command::Connect(words) => cmd::connect::run(words, &connector),
        Command::Info(words) => cmd::info::run(words, &connector),
        Command::List(words) => cmd::list::run(words, &connector),
        Command::Map(words) => cmd::map::run(words, &connector),
        Command::Read(words) => cmd::read::run(words, &connector),
        Command::Write(words) => cmd::write::run(words, &connector),
        Command::Zero(words) => cmd::zero::run(words, &connector),
        Command::Trim(words) => cmd::trim::run(words, &connector),
        Command::Cache(words) => cmd::cache::run(words, &connector),
        Command::Dump(words) => cmd::dump::run(words, &connector),
        Command::Bench(words) => cmd::bench::run(words, &connector),
        Command::Test(words) => cmd::test::run(words, &connector),
        Command::Copy(words) => cmd::copy::run(words, &connector),
        Command::Attach(words) => cmd::attach::run(words, &connector),
        Command::Detach(words) => cmd::detach::run(words),
        Command::Status(words) => cmd::status::run(words),
    };
    match done {
        Ok(()) => 0,
        Err(error @ (CommandError::No | CommandError::Told)) => error.exit_code(),
        Err(error) => {
            eprintln!("guest-tools: error: {}", chain(&error));
            error.exit_code()
        }
    }
}
