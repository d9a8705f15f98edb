//! The program: parses the words to a plan, starts the log, runs the plan, and prints an error in one line.

use std::{
    error::Error,
    io::{self, Write},
    process::ExitCode,
};

use crate::{
    cli::{self, Stop},
    command,
    listen::{Given, activation, stdio},
    log, startup, text,
};
use human::chain;

/// The whole program. Returns its exit status.
pub fn main() -> ExitCode {
    // Before anything is printed, opened or started.
    let spared = stdio::spare_client(false);
    let words: Vec<_> = std::env::args_os().collect();
    if let Some(command) = command::find(&words) {
        return command.run(words).map_or_else(|error| failed(&*error), ExitCode::from);
    }
    let (handed, kept) = match activation::take() {
        Ok(handed) => handed,
        Err(error) => {
            report(&error, error.hint().map(str::to_owned));
            return ExitCode::FAILURE;
        }
    };
    let plan = match cli::plan(words, handed) {
        Ok(plan) => plan,
        Err(stop) => return without_plan(&stop),
    };
    let spared = plan.given == Given::Client && stdio::spare_client(true) || spared;
    let started = match plan.log.start(spared) {
        Ok(started) => started,
        Err(error) => {
            report(&error, error.hint());
            return ExitCode::FAILURE;
        }
    };
    match startup::run(plan, started, kept) {
        Ok(status) => status.into(),
        Err(failure) => {
            report(&failure, failure.hint());
            ExitCode::FAILURE
        }
    }
}

/// Prints an answer (such as the help) to stdout. All else is a wrong command line, reported in one line.
fn without_plan(stop: &Stop) -> ExitCode {
    if let Some(answer) = stop.answer() {
        // If stdout is closed, nobody can be told.
        io::stdout().lock().write_all(answer.as_bytes()).ok();
        return ExitCode::SUCCESS;
    }
    match stop {
        Stop::Clap(error) => failed(error),
        _ => failed(stop),
    }
}

fn failed(error: &(dyn Error + 'static)) -> ExitCode {
    match error.downcast_ref() {
        Some(error) => say(&one_line(error)),
        None => report(error, None),
    }
    ExitCode::FAILURE
}

/// The message of clap, without the leading `error:` and without the usage.
fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let said = text.trim_start_matches("error: ").lines().map(str::trim);
    let said = said.take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    let lines: Vec<_> = said.filter(|line| !line.is_empty()).collect();
    lines.join("; ").replace(":; ", ": ")
}

/// Prints one line: what was tried, why it failed down to the first cause, and the hint.
fn report(error: &(dyn Error + 'static), hint: Option<String>) {
    let error = chain(error);
    match hint {
        Some(hint) => say(&format!("{error}; {hint}")),
        None => say(&error.to_string()),
    }
}

/// Prints the error on one line. Text of other programs may be in it, so control characters are escaped. If nobody
/// reads stderr, the agent ends without the message.
fn say(error: &str) {
    log::last_words(&format!("agent: error: {}\n", text::escaped(error)));
}
