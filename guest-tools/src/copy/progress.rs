//! The progress of a copy: a bar on a terminal, a line every few seconds elsewhere, or numbers for
//! a program. They go to standard error, or to a descriptor.

use std::{
    fs::File,
    io::{self, IsTerminal, Write},
    os::fd::{AsFd, BorrowedFd},
    str::FromStr,
    time::{Duration, Instant},
};

use super::error::CopyError;
use crate::sys;

/// How it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// A bar on a terminal, lines elsewhere.
    Auto,
    Bar,
    Lines,
    None,
    /// `N/100` and a line end, to a descriptor, as nbdcopy does.
    To(i32),
}

impl FromStr for How {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "auto" => Self::Auto,
            "bar" => Self::Bar,
            "lines" => Self::Lines,
            "none" => Self::None,
            _ => Self::To(text.parse().ok().filter(|fd| *fd >= 0).ok_or_else(|| {
                "it is auto, bar, lines, none or the number of an open descriptor".to_owned()
            })?),
        })
    }
}

/// The time between two lines, and between two states of a bar.
const LINES: Duration = Duration::from_secs(5);
const BAR: Duration = Duration::from_millis(200);
/// The width of the bar, in characters.
const WIDTH: u64 = 30;

/// The progress that was shown.
#[derive(Debug)]
pub(super) struct Progress {
    how: How,
    to: Option<File>,
    verb: &'static str,
    begun: Instant,
    shown: Instant,
    percent: Option<u64>,
    any: bool,
}

impl Progress {
    pub(super) fn new(how: How) -> Result<Self, CopyError> {
        let terminal = io::stderr().is_terminal();
        let how = match how {
            How::Auto if terminal => How::Bar,
            How::Auto => How::Lines,
            other => other,
        };
        let to = match how {
            How::To(fd) => {
                let opened = sys::duplicate(fd);
                let name = format!("descriptor {fd} of --progress");
                Some(opened.map_err(|source| CopyError::Open { name, hint: "", source })?)
            }
            _ => None,
        };
        let now = Instant::now();
        Ok(Self { how, to, verb: "copied", begun: now, shown: now, percent: None, any: false })
    }

    /// The descriptor that receives numbers for a program.
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.to.as_ref().map(AsFd::as_fd)
    }

    /// Starts again, with another word for what is done.
    pub(super) fn begin(&mut self, verb: &'static str) {
        self.end();
        (self.verb, self.begun, self.shown) = (verb, Instant::now(), Instant::now());
    }

    /// How long until the progress is due again.
    pub(super) fn pause(&self) -> Option<Duration> {
        match self.how {
            How::Lines => Some(LINES.saturating_sub(self.shown.elapsed())),
            How::None | How::Auto => None,
            How::Bar | How::To(_) => Some(BAR.saturating_sub(self.shown.elapsed())),
        }
    }

    /// Shows the progress if it is due. Errors are ignored.
    pub(super) fn tick(&mut self, done: u64, size: Option<u64>) {
        if self.pause().is_none_or(|pause| pause > Duration::ZERO) {
            return;
        }
        self.shown = Instant::now();
        self.any = true;
        let line = told(self.verb, done, size, self.begun.elapsed());
        match (&self.how, &mut self.to) {
            (How::Bar, _) => {
                let bar = size.map_or_else(String::new, |size| bar(done, size));
                write!(io::stderr(), "\r{bar}{line}\x1b[K").ok();
            }
            (How::Lines, _) => {
                writeln!(io::stderr(), "guest-tools: {line}").ok();
            }
            (How::To(_), Some(_)) => self.number(done, size),
            _ => {}
        }
    }

    /// Writes a number for a program, if it has changed.
    fn number(&mut self, done: u64, size: Option<u64>) {
        let (Some(to), Some(size)) = (&mut self.to, size) else { return };
        let percent = percent(done, size);
        if self.percent != Some(percent) {
            self.percent = Some(percent);
            writeln!(to, "{percent}/100").ok();
        }
    }

    /// Reports that everything is done.
    pub(super) fn full(&mut self) {
        self.number(1, Some(1));
    }

    /// Ends the line so that other output can follow.
    pub(super) fn end(&mut self) {
        if self.any && self.how == How::Bar {
            write!(io::stderr(), "\r\x1b[K").ok();
        }
        self.any = false;
    }
}

fn percent(done: u64, size: u64) -> u64 {
    let percent = u128::from(done.min(size)) * 100 / u128::from(size.max(1));
    u64::try_from(percent).unwrap_or(100)
}

fn bar(done: u64, size: u64) -> String {
    let full = usize::try_from(percent(done, size) * WIDTH / 100).unwrap_or(0);
    let width = usize::try_from(WIDTH).unwrap_or(0);
    format!("[{:<width$}] ", "#".repeat(full))
}

/// For example "512.0 MiB of 1.0 GiB copied (50 %), 256.0 MiB/s, 2 s left".
fn told(verb: &str, done: u64, size: Option<u64>, time: Duration) -> String {
    let speed = per_second(done, time);
    let rate = format!("{}/s", short(speed));
    let Some(size) = size else { return format!("{} {verb}, {rate}", short(done)) };
    let left = size.saturating_sub(done).checked_div(speed).map(|left| format!(", {left} s left"));
    let (percent, left) = (percent(done, size), left.unwrap_or_default());
    format!("{} of {} {verb} ({percent} %), {rate}{left}", short(done), short(size))
}

/// The rate in bytes per second.
pub(crate) fn per_second(bytes: u64, time: Duration) -> u64 {
    u64::try_from(u128::from(bytes) * 1_000_000 / time.as_micros().max(1)).unwrap_or(u64::MAX)
}

/// The size rounded to at most four digits.
pub(crate) fn short(size: u64) -> String {
    let power = size.checked_ilog2().unwrap_or(0) / 10;
    let letter = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].get(power as usize).unwrap_or(&"");
    if power == 0 {
        return format!("{size} B");
    }
    let tenths = (u128::from(size) * 10) >> (10 * power);
    format!("{}.{} {letter}B", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_readable() {
        let second = Duration::from_secs(2);
        assert_eq!(
            told("copied", 512 << 20, Some(1 << 30), second),
            "512.0 MiB of 1.0 GiB copied (50 %), 256.0 MiB/s, 2 s left"
        );
        assert_eq!(told("copied", 0, Some(0), second), "0 B of 0 B copied (0 %), 0 B/s");
        assert_eq!(told("read", 1536, None, second), "1.5 KiB read, 768 B/s");
        assert_eq!(bar(1, 2), "[###############               ] ");
        assert_eq!(short(u64::MAX), "15.9 EiB");
    }
}
