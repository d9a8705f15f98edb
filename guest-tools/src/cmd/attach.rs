//! `attach`: makes a block device of an export and runs the process that serves it.
//!
//! That process begins with '@' in `argv[0]`: at shutdown systemd leaves such processes alone until the
//! filesystems that depend on them are unmounted. So the program executes itself again under that name,
//! or, with --background, starts a second process.

use std::{
    env,
    ffi::OsString,
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd, OwnedFd, RawFd},
        unix::{ffi::OsStrExt, net::UnixStream, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use clap::Args;
use nbd_client::Connector;
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, setsid};

use super::{
    CommandError,
    print::{print, print_json},
};
use crate::{
    attach::{AttachError, Device, Ready, Wish, hand_over, serve},
    init, sys,
    target::Target,
};
use human::{parse_duration, parse_size};

const EXAMPLES: &str = "\
Examples:
  guest-tools attach                               the host's default export, until it is detached
  guest-tools attach --background nbd+vsock://2/data
  guest-tools attach --device /dev/nbd3 --dead-timeout 10m nbd+vsock://2/data
  guest-tools attach --device /dev/ublkb0          ... and again, if the process behind it was killed

The device survives its server: while that is away the kernel's requests wait, and what was not
answered is asked for again. What was answered and not flushed is kept here and done again too, so a
server that dies with its cache loses nothing. The server must come back with the same disk.

By the ublk driver (Linux 6.5 or newer) the device survives this process as well: its requests wait until
it is attached again, while the server stays. By nbd it ends with errors.

Keys of --json: device, uri, size, block_size, connections, read_only, relay.";

/// The name of the process that serves the device.
const NAME: &str = "@guest-tools";

/// What was said.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Attach {
    #[command(flatten)]
    target: Target,
    /// The device, /dev/ublkbN or /dev/nbdN, which says the driver; default: the first that is free
    #[arg(long, value_name = "DEVICE", value_parser = Device::parse)]
    device: Option<Device>,
    /// Only by the kernel's ublk driver; default: by it where it is there, and else by nbd
    #[arg(long)]
    ublk: bool,
    /// How long requests wait for a server that is gone before they fail; or 'never'
    #[arg(long, value_name = "DURATION", default_value = "never", value_parser = dead_timeout)]
    dead_timeout: DeadTimeout,
    /// Connections; default: one a processor, up to 4, where the server allows more than one
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    connections: Option<u16>,
    /// Make a device that cannot be written to
    #[arg(long)]
    read_only: bool,
    /// Return when the device is there
    #[arg(long)]
    background: bool,
    /// How long to wait for the server at the start
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = parse_duration)]
    wait: Duration,
    /// How much of what is acknowledged and not flushed is kept before a flush is asked for
    #[arg(long, value_name = "SIZE", default_value = "16M", value_parser = keep)]
    keep: u64,
    /// Give the kernel the connection itself: less work, but the device ends with its server; kernels
    /// since late 2025 refuse this for vsock, and then there is a relay all the same
    #[arg(long)]
    direct: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Sockets that this process has open, in place of the kernel
    #[arg(long, hide = true, value_name = "FD")]
    kernel_fd: Vec<RawFd>,
    /// Where a relay for those sockets keeps what the next one has to know
    #[arg(long, hide = true, value_name = "PATH", requires = "kernel_fd")]
    kernel_facts: Option<PathBuf>,
}

/// `None`: never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct DeadTimeout(Option<Duration>);

fn dead_timeout(text: &str) -> Result<DeadTimeout, String> {
    if text == "never" {
        return Ok(DeadTimeout(None));
    }
    parse_duration(text).map(Some).map(DeadTimeout).map_err(|why| format!("{why}, or 'never'"))
}

fn keep(text: &str) -> Result<u64, String> {
    let size = parse_size(text).map_err(|error| error.to_string())?;
    let fits = (64 << 10..=1 << 30).contains(&size);
    fits.then_some(size).ok_or_else(|| "from 64k to 1G".to_owned())
}

pub(crate) fn run(words: &Attach, connector: &Connector) -> Result<(), CommandError> {
    let name = env::args_os().next().unwrap_or_default();
    let is_relay = name.as_bytes().first() == Some(&b'@');
    // Process 1 stays the same process, whatever its name.
    let stays = if init::is_first_process() { !words.background } else { is_relay };
    if stays && !words.direct || !words.kernel_fd.is_empty() {
        return stay(words, connector);
    }
    if words.direct {
        match hand_over(&words.wish(connector)?) {
            Ok(ready) => return said(words, &ready),
            Err(error @ AttachError::Connect { .. }) if error.is_refused_socket() => {}
            Err(error) => return Err(error.into()),
        }
        if stays {
            return stay(words, connector);
        }
    }
    let program = env::current_exe().map_err(AttachError::system("find this program"))?;
    let mut command = Command::new(&program);
    command.arg0(NAME).arg("attach").args(words.words(connector));
    if words.background {
        return begin(command);
    }
    // exec(3) returns only on failure.
    let source = command.exec();
    Err(AttachError::System { what: "start this program again as the relay", source }.into())
}

impl Attach {
    fn wish(&self, connector: &Connector) -> Result<Wish, AttachError> {
        let ends = self.kernel_fd.iter().map(|&number| {
            sys::duplicate(number).map(|file| UnixStream::from(OwnedFd::from(file)))
        });
        let ends: Result<_, _> = ends.collect();
        Ok(Wish {
            connector: connector.clone(),
            uri: self.target.uri.clone(),
            device: self.device,
            ublk: self.ublk,
            connections: self.connections.map(usize::from),
            read_only: self.read_only,
            dead_timeout: self.dead_timeout.0,
            wait: self.wait,
            keep: usize::try_from(self.keep).unwrap_or(usize::MAX),
            ends: ends.map_err(AttachError::system("take the sockets of --kernel-fd"))?,
            facts: self.kernel_facts.clone(),
        })
    }

    /// The command line for the process that serves the device. Its own arguments cannot be passed on,
    /// because in process 1 they may be another program's.
    fn words(&self, connector: &Connector) -> Vec<OsString> {
        let mut words = vec![self.target.uri.to_string(), format!("--keep={}", self.keep)];
        words.push(format!("--wait={}ms", self.wait.as_millis()));
        words.extend(self.device.map(|device| format!("--device={device}")));
        let patience = connector.timeout().limit().map_or(0, |limit| limit.as_millis().max(1));
        words.push(format!("--timeout={patience}ms"));
        let timeout = self.dead_timeout.0;
        words.extend(timeout.map(|timeout| format!("--dead-timeout={}ms", timeout.as_millis())));
        words.extend(self.connections.map(|count| format!("--connections={count}")));
        for (flag, said) in [
            ("--ublk", self.ublk),
            ("--read-only", self.read_only),
            ("--background", self.background),
            ("--json", self.json),
        ] {
            words.extend(said.then(|| flag.to_owned()));
        }
        words.into_iter().map(OsString::from).collect()
    }
}

/// Starts the process that serves the device, and waits until it reports that the device exists.
fn begin(mut command: Command) -> Result<(), CommandError> {
    let started = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut child = started.map_err(AttachError::system("start this program as the relay"))?;
    let mut text = String::new();
    let heard = child.stdout.take().map_or(Ok(0), |mut said| said.read_to_string(&mut text));
    heard.map_err(AttachError::system("hear the relay"))?;
    if text.is_empty() {
        // The process has printed the reason itself.
        child.wait().map_err(AttachError::system("wait for the relay"))?;
        return Err(CommandError::Told);
    }
    print(&text)
}

/// Serves the device.
fn stay(words: &Attach, connector: &Connector) -> Result<(), CommandError> {
    let background = words.background && words.kernel_fd.is_empty();
    if background {
        // Fails only for a process that leads a session already.
        setsid().ok();
        env::set_current_dir(Path::new("/")).ok();
    }
    serve(words.wish(connector)?, |ready| {
        // The device is wanted even if the reader of standard output has gone.
        said(words, ready).ok();
        if background {
            // Without a /dev/null the standard streams stay as they are.
            leave().ok();
        }
    })?;
    Ok(())
}

fn said(words: &Attach, ready: &Ready) -> Result<(), CommandError> {
    if words.json { print_json(&ready.to_json()) } else { print(&format!("{}\n", ready.device)) }
}

/// Detaches from the terminal. Messages go to the kernel's log from now on, which never blocks.
fn leave() -> io::Result<()> {
    let log = File::options().write(true).open("/dev/kmsg");
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(log.as_ref().unwrap_or(&null).as_fd())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use nbd_client::Timeout;

    use super::*;
    use crate::cli::{Cli, Command};

    fn parsed(words: &[OsString]) -> Attach {
        let line = ["guest-tools", "attach"].map(OsString::from).into_iter();
        match Cli::try_parse_from(line.chain(words.iter().cloned())).unwrap().command {
            Command::Attach(words) => words,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_serving_process_gets_all_words() {
        for line in [
            "",
            "--device nbd7 --dead-timeout 90s --connections 3 nbd+vsock://2:7/a%20b",
            "--ublk --read-only --background --json --wait 2m --keep 1M nbd+unix:///x?socket=/y",
        ] {
            let words: Vec<_> = line.split_whitespace().map(OsString::from).collect();
            let said = parsed(&words);
            assert_eq!(
                format!("{:?}", parsed(&said.words(&Connector::new(Timeout::default())))),
                format!("{said:?}")
            );
        }
    }
}
