//! guest-tools: the guest's side of a disk served over AF_VSOCK.

mod cli;
mod cmd;
mod dial;
mod error;
mod greet;
mod init;
mod link;
mod session;
mod size;

use std::{error::Error, process::ExitCode};

use clap::Parser;

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    if init::is_first_process() {
        init::run(std::env::args_os().skip(1), |words| match Cli::try_parse_from(words) {
            Ok(cli) => perform(&cli),
            Err(error) => {
                eprint!("{error}");
                false
            }
        });
    }
    if perform(&Cli::parse()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Does what was said; whether it succeeded. What went wrong has been told.
fn perform(cli: &Cli) -> bool {
    let done = match &cli.command {
        Command::Info(words) => cmd::info::run(words),
        Command::Read(words) => cmd::read::run(words),
        Command::Write(words) => cmd::write::run(words),
    };
    match done {
        Ok(()) => true,
        Err(error) => {
            eprintln!("guest-tools: error: {}", chain(&error));
            false
        }
    }
}

/// An error and what it came from, in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
