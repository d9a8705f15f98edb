//! `dump`: prints the content of an export in hexadecimal, as nbddump and `hexdump -C` do. Rows that
//! repeat the one before are printed as `*`, and the last row is always printed. Holes are not read.

use std::{
    fmt::Write as _,
    io::{self, BufWriter, Write},
};

use clap::Args;
use nbd::wire::{BASE_ALLOCATION, ExtentFlags};
use nbd_client::{Client, ClientError, Connector, extents::Extents, transfer};
use serde_json::json;

use super::{CommandError, range::Range};
use crate::target::Target;

const EXAMPLES: &str = "\
Examples:
  guest-tools dump --length 512                the first sector
  guest-tools dump --offset 1M nbd+vsock://2/disk | less
  guest-tools dump --length 16 --json

With --json there is an object a line for every row: offset (bytes), hex (its bytes), text, and for
rows that are like the one before, repeats (how many) instead of these two.";

/// Bytes per row.
const ROW: usize = 16;

/// What was said.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Dump {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    range: Range,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(words: &Dump, connector: &Connector) -> Result<(), CommandError> {
    let mut client = connector.open(&words.target.uri)?;
    let (at, len) = match words.range.inside(client.described().size) {
        Ok(range) => range,
        Err(error) => {
            client.close();
            return Err(error);
        }
    };
    let out = BufWriter::new(io::stdout().lock());
    let mut rows = Rows::new(out, words.json, at, len);
    let done = dump(&mut client, at, len, &mut rows);
    match done.and_then(|()| rows.finish().map_err(ClientError::Output)) {
        // The reader, for example `head`, has closed the pipe.
        Err(ClientError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(error.into()),
        Ok(()) => {
            client.close();
            Ok(())
        }
    }
}

fn dump(
    client: &mut Client,
    at: u64,
    len: u64,
    rows: &mut Rows<impl Write>,
) -> Result<(), ClientError> {
    // Requests must cover whole blocks, so the range is extended to them.
    let unit = u64::from(client.terms().blocks.minimum.max(1));
    let (end, size) = (at + len, client.described().size);
    let whole = |at: u64, end: u64| {
        let from = at - at % unit;
        (from, end.next_multiple_of(unit).min(size) - from)
    };
    let read = |client: &mut Client, rows: &mut Rows<_>, at: u64, end: u64| {
        let (from, len) = whole(at, end);
        transfer::read(client, from, len, &mut Cut { to: rows, skip: at - from, take: end - at })
    };
    if len == 0 || client.terms().context(BASE_ALLOCATION).is_none() {
        return read(client, rows, at, end);
    }
    let mut walk = Extents::new(client, whole(at, end), 1);
    while let Some(extent) = walk.next(client)? {
        let (from, to) = (extent.at.max(at), (extent.at + extent.len).min(end));
        if from >= to {
            continue;
        }
        if extent.flags.contains(ExtentFlags::ZERO) {
            rows.zeroes(to - from).map_err(ClientError::Output)?;
        } else {
            read(client, rows, from, to)?;
        }
    }
    Ok(())
}

/// Passes on the bytes of the range, without the rest of the blocks at its ends.
struct Cut<'a, W> {
    to: &'a mut W,
    skip: u64,
    take: u64,
}

impl<W: Write> Write for Cut<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let cut = |len: u64| usize::try_from(len).unwrap_or(usize::MAX);
        let skip = cut(self.skip).min(bytes.len());
        let rest = &bytes[skip..];
        let part = &rest[..cut(self.take).min(rest.len())];
        self.skip -= skip as u64;
        self.take -= part.len() as u64;
        self.to.write_all(part)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Formats the bytes that are written to it as rows.
struct Rows<W> {
    out: W,
    json: bool,
    /// The offset of the current row, and the end of the dump.
    at: u64,
    end: u64,
    row: Vec<u8>,
    /// The last full row, and how many equal rows followed it.
    before: Option<[u8; ROW]>,
    repeats: u64,
}

impl<W: Write> Rows<W> {
    fn new(out: W, json: bool, at: u64, len: u64) -> Self {
        let row = Vec::with_capacity(ROW);
        Self { out, json, at, end: at + len, row, before: None, repeats: 0 }
    }

    /// Adds zeroes, in constant time for any length.
    fn zeroes(&mut self, mut len: u64) -> io::Result<()> {
        while len > 0 {
            // Repeated rows are only counted, except for the last one.
            let rows = (len / ROW as u64).min(self.last().saturating_sub(self.at) / ROW as u64);
            if self.row.is_empty() && self.before == Some([0; ROW]) && rows > 0 {
                self.repeats += rows;
                self.at += rows * ROW as u64;
                len -= rows * ROW as u64;
                continue;
            }
            let room = ROW - self.row.len();
            let n = usize::try_from(len).unwrap_or(usize::MAX).min(room);
            self.write_all(&[0; ROW][..n])?;
            len -= n as u64;
        }
        Ok(())
    }

    /// The offset of the last row.
    const fn last(&self) -> u64 {
        let len = self.end - self.at;
        self.at + len.saturating_sub(1) / ROW as u64 * ROW as u64
    }

    fn row_is_full(&mut self) -> io::Result<()> {
        let whole = <[u8; ROW]>::try_from(self.row.as_slice()).ok();
        if whole.is_some() && whole == self.before && self.at != self.last() {
            self.repeats += 1;
        } else {
            self.put_repeats()?;
            let line = if self.json { self.json_line() } else { self.line() };
            self.out.write_all(line.as_bytes())?;
        }
        self.before = whole;
        self.at += self.row.len() as u64;
        self.row.clear();
        Ok(())
    }

    fn put_repeats(&mut self) -> io::Result<()> {
        let repeats = std::mem::take(&mut self.repeats);
        if repeats == 0 {
            return Ok(());
        }
        if !self.json {
            return self.out.write_all(b"*\n");
        }
        let at = self.at - repeats * ROW as u64;
        let line = json!({ "offset": at, "repeats": repeats });
        self.out.write_all(format!("{line}\n").as_bytes())
    }

    fn line(&self) -> String {
        let mut line = format!("{:010x}: ", self.at);
        for i in 0..ROW {
            if i == ROW / 2 {
                line.push(' ');
            }
            match self.row.get(i) {
                // Writing to a string cannot fail.
                Some(byte) => write!(line, "{byte:02x} ").unwrap_or_default(),
                None => line.push_str("   "),
            }
        }
        let text = self.text();
        line + &format!("|{text:<ROW$}|\n")
    }

    fn json_line(&self) -> String {
        let mut hex = String::new();
        for byte in &self.row {
            // Writing to a string cannot fail.
            write!(hex, "{byte:02x}").unwrap_or_default();
        }
        format!("{}\n", json!({ "offset": self.at, "hex": hex, "text": self.text() }))
    }

    fn text(&self) -> String {
        let shown = |&byte: &u8| if (b' '..=b'~').contains(&byte) { byte.into() } else { '.' };
        self.row.iter().map(shown).collect()
    }

    fn finish(&mut self) -> io::Result<()> {
        if !self.row.is_empty() {
            self.row_is_full()?;
        }
        self.out.flush()
    }
}

impl<W: Write> Write for Rows<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for &byte in bytes {
            self.row.push(byte);
            if self.row.len() == ROW {
                self.row_is_full()?;
            }
        }
        Ok(bytes.len())
    }

    /// Does nothing, because a read ends here and the dump continues. `finish` flushes.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dumped(at: u64, parts: &[(u64, &[u8])]) -> String {
        let len = parts.iter().map(|(zeroes, bytes)| zeroes + bytes.len() as u64).sum();
        let mut rows = Rows::new(Vec::new(), false, at, len);
        for (zeroes, bytes) in parts {
            rows.zeroes(*zeroes).unwrap();
            rows.write_all(bytes).unwrap();
        }
        rows.finish().unwrap();
        String::from_utf8(rows.out).unwrap()
    }

    #[test]
    fn rows_that_repeat_are_a_star_and_the_last_one_is_not() {
        let zero = "00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00 |................|";
        assert_eq!(dumped(0, &[]), "");
        assert_eq!(dumped(0, &[(16, b"")]), format!("0000000000: {zero}\n"));
        let two = format!("0000000000: {zero}\n0000000010: {zero}\n");
        assert_eq!(dumped(0, &[(32, b"")]), two);
        let many = format!("0000000003: {zero}\n*\n1000000003: {zero}\n");
        assert_eq!(dumped(3, &[(0x10_0000_0010, b"")]), many);
        assert_eq!(dumped(3, &[(100, &[0; 1000]), (0x10_0000_0010 - 1100, b"")]), many);
        let tail =
            "0000000020: 00 61 7f 20                                      |.a.             |";
        let mixed = format!("0000000000: {zero}\n*\n{tail}\n");
        assert_eq!(dumped(0, &[(33, b"a\x7f ")]), mixed);
    }
}
