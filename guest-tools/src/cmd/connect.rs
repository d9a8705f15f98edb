//! `connect`: copies standard input to a port and the answer to standard output, byte for byte, for
//! debugging. The end of the input closes that direction only; the command ends when the other end
//! closes.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::AsRawFd,
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::Duration,
};

use clap::Args;
use nbd::Uri;
use nbd_client::{ClientError, Connector};
use nix::sys::socket;
use serde_json::json;
use vsock_cid::Cid;

use super::CommandError;

const EXAMPLES: &str = "\
Examples:
  guest-tools connect 10809 | head -c 16       what does the host's port 10809 say?
  guest-tools connect 2:22                     CID 2, port 22
  guest-tools connect nbd+unix:///?socket=/run/nbd.sock < request > reply

With --json one line on standard error at the end: sent and received (bytes).";

/// How long input may still arrive after the other end has closed, as in socat.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What was said.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Connect {
    /// A vsock port of the host, CID:PORT, or a URI; what it has of an export does not count
    #[arg(value_name = "PORT|CID:PORT|URI", value_parser = place)]
    uri: Uri,
    /// At the end, print on standard error how much went either way
    #[arg(long)]
    json: bool,
}

fn place(text: &str) -> Result<Uri, String> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (cid, port) = text.split_once(':').unwrap_or(("", text));
    let text = match (cid, port) {
        ("", port) if digits(port) && !text.contains(':') => {
            format!("nbd+vsock://{}:{port}/", Cid::HOST)
        }
        (cid, port) if digits(cid) && digits(port) => format!("nbd+vsock://{cid}:{port}/"),
        _ => text.to_owned(),
    };
    text.parse().map_err(|error: nbd::uri::UriError| error.to_string())
}

pub(crate) fn run(words: &Connect, connector: &Connector) -> Result<(), CommandError> {
    let uri = &words.uri;
    if uri.tls {
        return Err(CommandError::Raw(uri.to_string()));
    }
    let socket = connector.dial(uri).map_err(ClientError::from)?;
    let lost = |doing: &str, source| ClientError::lost(&uri.to_string(), doing, source);
    let up = socket.try_clone().map_err(|source| lost("preparing", source))?;
    let (ended, upward) = channel();
    // This thread may wait for input without limit. It ends with the process then.
    thread::spawn(move || {
        let done = carry(&mut io::stdin().lock(), &mut &up, |n| {
            // Fails if the command has ended already.
            ended.send(Up::Sent(n)).ok();
        });
        // Pass the end of the input on to the other end.
        let closed = close_writing(&up);
        ended.send(Up::End(done.and(closed))).ok();
    });
    let mut received = 0;
    let downward = carry(&mut &socket, &mut io::stdout().lock(), |n| received += n);
    let mut sent = 0;
    let end = loop {
        match upward.recv_timeout(LAST_WORDS) {
            Ok(Up::Sent(n)) => sent += n,
            Ok(Up::End(done)) => break done,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break Ok(()),
        }
    };
    if words.json {
        eprintln!("{}", json!({ "sent": sent, "received": received }));
    }
    match downward {
        Err(Broken::To(error)) if error.kind() == io::ErrorKind::BrokenPipe => {}
        Err(Broken::To(error)) => return Err(ClientError::Output(error).into()),
        Err(Broken::From(error)) => return Err(lost("receiving", error).into()),
        Ok(()) => {}
    }
    match end {
        Err(Broken::From(error)) => Err(ClientError::Input(error).into()),
        Err(Broken::To(error)) => Err(lost("sending", error).into()),
        Ok(()) => Ok(()),
    }
}

/// Progress of the thread that sends.
enum Up {
    Sent(u64),
    End(Result<(), Broken>),
}

/// Which side of a copy failed.
enum Broken {
    From(io::Error),
    To(io::Error),
}

/// Copies until the end, each piece as soon as it arrives.
fn carry(
    from: &mut impl Read,
    to: &mut impl Write,
    mut passed: impl FnMut(u64),
) -> Result<(), Broken> {
    let mut piece = vec![0; 64 << 10];
    loop {
        let n = match from.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Broken::From(error)),
        };
        let bytes = piece.get(..n).unwrap_or_default();
        to.write_all(bytes).and_then(|()| to.flush()).map_err(Broken::To)?;
        passed(n as u64);
    }
}

/// Closes one direction. It is no error if the other end has closed it already.
fn close_writing(socket: &File) -> Result<(), Broken> {
    match socket::shutdown(socket.as_raw_fd(), socket::Shutdown::Write) {
        Err(nix::errno::Errno::ENOTCONN) | Ok(()) => Ok(()),
        Err(errno) => Err(Broken::To(errno.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_a_cid_and_a_uri_are_told_apart() {
        for (text, uri) in [
            ("10810", Some("nbd+vsock://2:10810/")),
            ("4294967295", Some("nbd+vsock://2:4294967295/")),
            ("7:22", Some("nbd+vsock://7:22/")),
            ("nbd://127.0.0.1:7", Some("nbd://127.0.0.1:7/")),
            ("4294967296", None),
            ("4294967296:1", None),
            (":1", None),
            ("1:", None),
            ("x", None),
        ] {
            assert_eq!(place(text).ok().map(|uri| uri.to_string()).as_deref(), uri, "{text}");
        }
    }
}
