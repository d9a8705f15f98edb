//! The medium without any server: fio(1) with io_uring on the same file. It is the limit for all servers.
//!
//! fio writes to another file of the same size and content, because it does not write the expected content of
//! the disk.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::sys::resource::{UsageWho, getrusage};
use serde_json::Value;

use crate::{
    Failure,
    case::Media,
    content::Content,
    load::{Load, Verb},
    make_file,
    measure::{Sample, machine_busy_now},
    server::Kind,
};

/// fio on a file.
#[derive(Debug)]
pub(crate) struct Fio {
    reads: PathBuf,
    writes: PathBuf,
    media: Media,
}

impl Fio {
    pub(crate) fn new(reads: &Path, writes: &Path, media: Media) -> Self {
        Self { reads: reads.to_owned(), writes: writes.to_owned(), media }
    }

    /// Runs as many jobs as there would be connections, for `span`.
    pub(crate) fn load(&self, load: &Load, jobs: usize, span: Duration) -> Result<Sample, Failure> {
        let file = match load.verb {
            Verb::Read => &self.reads,
            Verb::Write => {
                make_file(&self.writes, self.media)?;
                &self.writes
            }
        };
        let (at, busy, ours) = (Instant::now(), machine_busy_now()?, children()?);
        let output = Command::new("fio")
            .args(self.words(file, load, jobs, span))
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("starting fio: {error}; {}", Kind::Fio.how_to_get()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("fio: {}: {}", output.status, said.trim()).into());
        }
        let others = machine_busy_now()?
            .saturating_sub(busy)
            .saturating_sub(children()?.saturating_sub(ours));
        let others = others.as_secs_f64() / at.elapsed().as_secs_f64();
        if load.verb == Verb::Write {
            // Otherwise it would be written back while the next server is measured.
            Content::forget_file(file)?;
        }
        sample(&output.stdout, load.verb, others)
            .ok_or_else(|| "fio: its JSON has not what fio 3 says".into())
    }

    fn words(&self, file: &Path, load: &Load, jobs: usize, span: Duration) -> Vec<String> {
        let verb = match (load.verb, load.random) {
            (Verb::Read, true) => "randread",
            (Verb::Read, false) => "read",
            (Verb::Write, true) => "randwrite",
            (Verb::Write, false) => "write",
        };
        let mut words: Vec<String> = [
            "--name=limit",
            "--ioengine=io_uring",
            "--output-format=json",
            "--group_reporting",
            "--time_based",
            // An offset may occur twice, as with the client.
            "--norandommap",
            "--randrepeat=0",
            "--allow_file_create=0",
        ]
        .map(String::from)
        .into();
        words.extend([
            format!("--filename={}", file.display()),
            format!("--rw={verb}"),
            format!("--bs={}", load.block),
            format!("--iodepth={}", load.depth),
            format!("--numjobs={jobs}"),
            format!("--direct={}", u8::from(self.media == Media::Direct)),
            format!("--fdatasync={}", load.flush_every),
            format!("--runtime={}ms", span.as_millis()),
            format!("--ramp_time={}ms", (span / 10).as_millis()),
        ]);
        words
    }
}

/// Processor time of all children that have ended.
fn children() -> Result<Duration, Failure> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let of = |time: nix::sys::time::TimeVal| {
        let micros = time.tv_sec() * 1_000_000 + time.tv_usec();
        Duration::from_micros(micros.try_into().unwrap_or(0))
    };
    Ok(of(usage.user_time()) + of(usage.system_time()))
}

/// Converts fio's output. Its processor time counts as the server's, because there is no client.
fn sample(json: &[u8], verb: Verb, others: f64) -> Option<Sample> {
    let all: Value = serde_json::from_slice(json).ok()?;
    let job = &all["jobs"][0];
    let done = &job[if verb == Verb::Read { "read" } else { "write" }];
    let requests = done["total_ios"].as_f64()?.max(1.0);
    let percent = job["usr_cpu"].as_f64()? + job["sys_cpu"].as_f64()?;
    let micros = |percentile: &str| {
        done["clat_ns"]["percentile"][percentile].as_f64().map(|nanos| nanos / 1e3)
    };
    Some(Sample {
        rate: done["iops"].as_f64()?,
        server_us: percent / 100.0 * job["job_runtime"].as_f64()? * 1e3 / requests,
        client_us: 0.0,
        p50: micros("50.000000")?,
        p99: micros("99.000000")?,
        others,
        idle: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_of_fio_becomes_a_sample() {
        let json = br#"{"jobs": [{"job_runtime": 4000, "usr_cpu": 1.5, "sys_cpu": 3.5, "write": {"iops": 0.0},
            "read": {"iops": 1000.5, "total_ios": 2000,
                     "clat_ns": {"percentile": {"50.000000": 250000, "99.000000": 1000000}}}}]}"#;
        let found = sample(json, Verb::Read, 0.0).unwrap();
        let figures = [found.rate, found.server_us, found.p50, found.p99];
        assert_eq!(
            figures.map(|figure| format!("{figure:.1}")),
            ["1000.5", "100.0", "250.0", "1000.0"]
        );
        assert!(
            sample(json, Verb::Write, 0.0).is_none()
                && sample(b"fio: no", Verb::Read, 0.0).is_none()
        );
    }
}
