//! syslog by its socket: a datagram a line (RFC 3164, as syslog(3) of glibc writes it).

use std::{
    io::{self, Write},
    os::unix::net::UnixDatagram,
    sync::{Mutex, PoisonError},
};

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

const SOCKET: &str = "/dev/log";
/// LOG_DAEMON, syslog(3).
const DAEMON: u8 = 3 << 3;

/// The socket, opened when it is needed. Where nobody listens a line is lost, as with syslog(3).
#[derive(Debug, Default)]
pub(super) struct Syslog(Mutex<Option<UnixDatagram>>);

impl Syslog {
    fn send(&self, line: &[u8]) {
        let mut socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Twice: syslogd may have been started anew since.
        for _ in 0..2 {
            if socket.is_none() {
                *socket = connect().ok();
            }
            match socket.as_ref().map(|socket| socket.send(line)) {
                Some(Ok(_)) | None => return,
                Some(Err(_)) => *socket = None,
            }
        }
    }
}

fn connect() -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    // A syslogd that hangs does not hold the agent.
    socket.set_nonblocking(true)?;
    socket.connect(SOCKET)?;
    Ok(socket)
}

/// One line under way; sent when it is dropped.
#[derive(Debug)]
pub(super) struct Line<'a> {
    to: &'a Syslog,
    text: Vec<u8>,
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        self.to.send(self.text.trim_ascii_end());
    }
}

impl<'a> MakeWriter<'a> for Syslog {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        line(self, Level::INFO)
    }

    fn make_writer_for(&'a self, about: &Metadata<'_>) -> Line<'a> {
        line(self, *about.level())
    }
}

fn line(to: &Syslog, level: Level) -> Line<'_> {
    let severity = match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    };
    let text = format!("<{}>agent[{}]: ", DAEMON | severity, std::process::id());
    Line { to, text: text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_its_facility_severity_and_process() {
        let syslog = Syslog::default();
        let mut line = line(&syslog, Level::WARN);
        line.write_all(b"text\n").unwrap();
        let expected = format!("<28>agent[{}]: text\n", std::process::id());
        assert_eq!(String::from_utf8(line.text.clone()).unwrap(), expected);
    }
}
