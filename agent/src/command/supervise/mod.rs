//! `agent supervise -- WORDS...`: runs `agent WORDS...`, keeps its descriptors and starts it again when it dies.
//!
//! The supervisor speaks the protocol of systemd's store of descriptors, so that the agent knows one protocol. It is one
//! poll loop without threads, and it parses nothing but the notifications of its child.

mod back_off;
mod message;
mod store;
mod supervisor;

use std::{env, ffi::OsString};

use clap::{Arg, ArgMatches, value_parser};

use self::supervisor::Supervisor;
use super::{Entry, Outcome};
use crate::log::{Log, Target};

pub(super) const ENTRY: Entry = Entry { word: "supervise", command, run };

const EXAMPLES: &str = "\
Examples:
  agent supervise -- --listen vhost-user:/run/vm.sock file /srv/disk.img
  agent supervise -- -U /run/disk.sock memory 1G

The exit status is that of the agent when it ends with status 0, when it ends after TERM or INT, and
when its first start fails. It is 128 plus the number of the signal that ended it.";

fn command() -> clap::Command {
    clap::Command::new(ENTRY.word)
        .about("Runs the agent and starts it again when it dies, without closing its sockets")
        .long_about(
            "Runs 'agent WORDS...' as a child process and keeps its listening sockets and the vsock \
             devices of its VMs. When the agent dies or fails, it is started again and gets them back: \
             no client is refused, and no VM loses its device. TERM, INT, QUIT, HUP and USR1 are passed \
             on. The next start uses the program that is then at the path of this one. Under systemd \
             this is not needed: FileDescriptorStoreMax= in the unit does the same.",
        )
        .after_help(EXAMPLES)
        .arg(
            Arg::new("words")
                .value_name("WORDS")
                .last(true)
                .required(true)
                .num_args(1..)
                .value_parser(value_parser!(OsString))
                .help("The command line of the agent"),
        )
}

fn run(matches: &ArgMatches) -> Outcome {
    let words: Vec<OsString> = matches.get_many("words").into_iter().flatten().cloned().collect();
    if words.iter().take_while(|word| *word != "--").any(is_background) {
        return Err(
            "supervise: --background would take the agent away from its supervisor; leave it \
                    out, and let the caller put the supervisor into the background"
                .into(),
        );
    }
    if env::var_os("LISTEN_FDS").is_some() {
        return Err(
            "supervise: sockets are handed over already (LISTEN_FDS), and their opener keeps \
                    them; run 'agent' without 'supervise', or unset LISTEN_FDS"
                .into(),
        );
    }
    Log { target: Target::Default, verbose: false }.start(false)?;
    let supervisor = Supervisor::new(&words).map_err(|error| format!("supervise: {error}"))?;
    Ok(supervisor.run()?)
}

/// Whether the word is `--background`, of which the agent takes every beginning that is unique.
fn is_background(word: &OsString) -> bool {
    let word = word.as_encoded_bytes();
    word.starts_with(b"--b") && b"--background".starts_with(word)
}
