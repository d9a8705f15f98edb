//! Counts requests and reports their number, speed and sizes: nbdkit-stats-filter(1).
//!
//! The report is written at the agent's end, as by nbdkit, and at USR1.

mod count;
mod report;

use std::{
    fs::File,
    io::{self, Seek, Write},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use thiserror::Error;

use self::{count::Counts, report::report};
use super::{Entry, absolute};
use crate::{
    params::{Key, Params},
    stack::BuildError,
};
use disk::{Answer, Disk, DiskError, Layer, Op, Progress, Turn};

pub(super) const ENTRY: Entry = Entry {
    name: "stats",
    about: "Count requests; report at the end and at USR1",
    keys: &[
        Key::once("statsfile", "PATH", "The file for the statistics"),
        Key::once("statsappend", "BOOL", "Append to the file [default: no, replace it]"),
        Key::once("statsthreshold", "N", "Report the sizes of N % of the requests [default: 95]"),
    ],
    build: |params, stack, context| {
        let stats = Arc::new(Stats::parse(params)?);
        let (at_report, at_exit) = (Arc::clone(&stats), Arc::clone(&stats));
        context.lifecycle.at_report(move || at_report.write());
        context.lifecycle.at_exit(move || at_exit.write());
        Ok(stack.each(move |below, _| Ok(Arc::new(Counted { below, stats: Arc::clone(&stats) }))))
    },
};

#[derive(Debug, Error)]
#[error("filter stats: cannot open statsfile={}", .path.display())]
struct OpenError {
    path: PathBuf,
    source: io::Error,
}

#[derive(Debug)]
struct Stats {
    counts: Counts,
    started: Instant,
    /// Percent; 0: sizes are not reported.
    threshold: u8,
    file: Mutex<File>,
    path: PathBuf,
    append: bool,
}

impl Stats {
    fn parse(params: &Params<'_>) -> Result<Self, BuildError> {
        let path = absolute(params.needed("statsfile")?);
        let append = params.switch("statsappend")?.unwrap_or(false);
        let threshold = params.parsed("statsthreshold", "a percentage", |text| {
            text.parse().ok().filter(|&number: &u8| number <= 100).ok_or("write 0 to 100")
        })?;
        let file = File::options()
            .create(true)
            .write(true)
            .append(append)
            .truncate(!append)
            .open(&path)
            .map_err(|source| {
                BuildError::Own(Box::new(OpenError { path: path.clone(), source }))
            })?;
        let threshold = threshold.unwrap_or(95);
        Ok(Self {
            counts: Counts::new(threshold > 0),
            started: Instant::now(),
            threshold,
            file: Mutex::new(file),
            path,
            append,
        })
    }

    fn write(&self) {
        let text = report(&self.counts, self.started.elapsed(), self.threshold);
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = self.write_to(&mut file, &text) {
            tracing::error!("filter stats: cannot write to {}: {error}", self.path.display());
        }
    }

    fn write_to(&self, file: &mut File, text: &str) -> io::Result<()> {
        if !self.append && file.metadata()?.is_file() {
            // This report replaces the last one.
            file.set_len(0)?;
            file.rewind()?;
        }
        file.write_all(text.as_bytes())
    }
}

#[derive(Debug)]
struct Counted {
    below: Arc<dyn Disk>,
    stats: Arc<Stats>,
}

impl Layer for Counted {
    fn below(&self) -> &dyn Disk {
        &*self.below
    }

    fn try_execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Turn, DiskError> {
        // Asked before, because the disk takes the payload of a large write out of the request.
        let (verb, range, started) = (op.verb(), op.range(), Instant::now());
        let turn = self.below.try_execute(op, answer)?;
        if turn == Turn::Done {
            self.stats.counts.add(verb, range, started.elapsed());
        }
        Ok(turn)
    }

    fn execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Progress, DiskError> {
        let (verb, range, started) = (op.verb(), op.range(), Instant::now());
        let progress = self.below.execute(op, answer)?;
        match progress {
            Progress::Done => self.stats.counts.add(verb, range, started.elapsed()),
            Progress::Until(bytes) => self.stats.counts.add_part(verb, bytes, started.elapsed()),
        }
        Ok(progress)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use disk::{FullDisk, MemoryDisk, testing};

    fn stats(words: &[(&str, &str)]) -> Result<Stats, String> {
        let words: Vec<_> =
            words.iter().map(|(key, value)| (Some((*key).into()), (*value).into())).collect();
        let params = Params::of_filter("stats", ENTRY.keys, &mut words.iter().collect()).unwrap();
        Stats::parse(&params).map_err(|error| error.to_string())
    }

    #[test]
    fn successful_requests_are_counted_and_each_report_replaces_the_last() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stats");
        fs::write(&path, "old").unwrap();
        let stats = Arc::new(stats(&[("statsfile", path.to_str().unwrap())]).unwrap());
        let disk = Counted { below: Arc::new(MemoryDisk::new(1 << 20)), stats: Arc::clone(&stats) };
        testing::write(&disk, 4096, &[1; 4096]);
        testing::read(&disk, 0, 512);
        stats.write();
        let full = Counted { below: Arc::new(FullDisk::new(1 << 20)), stats: Arc::clone(&stats) };
        testing::try_write(&full, 0, b"x", false).unwrap_err();
        testing::read(&full, 0, 512);
        stats.write();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("total: 3 ops, "), "{text}");
        assert!(text.contains("\nread: 2 ops, ") && text.contains("\nwrite: 1 ops, "), "{text}");
    }

    #[test]
    fn appended_reports_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stats");
        fs::write(&path, "old\n").unwrap();
        let words = [("statsfile", path.to_str().unwrap()), ("statsappend", "true")];
        let stats = stats(&words).unwrap();
        stats.write();
        stats.write();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("old\ntotal: 0 ops, "), "{text}");
        assert_eq!(text.lines().count(), 3, "{text}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (words, part) in [
            (&[][..], "'statsfile' is missing"),
            (&[("statsfile", "/nonexistent/s")], "statsfile=/nonexistent/s"),
            (&[("statsfile", "s"), ("statsthreshold", "101")], "statsthreshold=101"),
            (&[("statsfile", "s"), ("statsappend", "2")], "statsappend=2"),
        ] {
            let error = stats(words).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
