//! lab: a shell in the VM host, for writing a test or examining a failure.
//!
//! Boots it and runs each line of the standard input there, until the input ends.

use std::{
    io::{BufRead, stdin},
    process::ExitCode,
};

use tests::{Outcome, guest::Guest, need};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("lab: error: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Outcome<()> {
    need::guest_programs()?;
    let mut guest = Guest::boot("lab")?;
    for line in stdin().lock().lines().map_while(Result::ok) {
        let ended = guest.run(&line)?;
        println!("{}\n[exit {}]", ended.output, ended.status);
    }
    Ok(())
}
