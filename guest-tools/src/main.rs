//! guest-tools: the guest's side of a disk served over AF_VSOCK.

mod cli;
mod cmd;
mod dial;
mod session;
mod size;

use std::{error::Error, process::ExitCode};

use clap::Parser;

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    let done = match &Cli::parse().command {
        Command::Info(words) => cmd::info::run(words),
        Command::Read(words) => cmd::read::run(words),
        Command::Write(words) => cmd::write::run(words),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("guest-tools: error: {}", chain(&error));
            ExitCode::FAILURE
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
