//! `write`: standard input, a file or the pattern to an export, and a flush.

use std::{
    fs::File,
    io::{self, Read},
};

use super::{CommandError, pattern::Source};
use crate::{
    cli,
    link::Link,
    session::{self, Durability},
};

pub(crate) fn run(words: &cli::Write) -> Result<(), CommandError> {
    let mut link = Link::open(&words.target.uri)?;
    let (at, size) = (words.offset, link.described().size);
    // What is known not to fit is not begun. A pipe tells its length at its end.
    let fits = |len: u64| {
        if size.checked_sub(at).is_some_and(|room| len <= room) {
            return Ok(());
        }
        let what = format!("{len} bytes at {at}");
        Err(CommandError::PastEnd { what, size })
    };
    let durability = Durability { fua: words.fua, flush: !words.no_flush };
    let mut copy = |source: &mut dyn Read| session::write(&mut link, at, source, durability);
    let written = match (&words.input, words.pattern.then_some(words.length).flatten()) {
        (Some(path), _) => {
            let wrong = |source| CommandError::Open { path: path.clone(), source };
            let mut file = File::open(path).map_err(wrong)?;
            let facts = file.metadata().map_err(wrong)?;
            fits(if facts.is_file() { facts.len() } else { 0 })?;
            copy(&mut file)?
        }
        (None, Some(len)) => {
            fits(len)?;
            copy(&mut Source::new(at, len))?
        }
        (None, None) => {
            fits(0)?;
            copy(&mut io::stdin().lock())?
        }
    };
    link.close();
    let settled = if words.no_flush { ", not flushed" } else { "" };
    eprintln!("guest-tools: {written} bytes written at {at}{settled}");
    Ok(())
}
