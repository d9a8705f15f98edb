use std::fs;

use tokio::{task::JoinSet, time::Instant};

use super::*;
use crate::exports::Permit;
use disk::MemoryDisk;

fn limits(words: &[(&str, &str)]) -> Result<Limits, String> {
    let words: Vec<_> =
        words.iter().map(|(key, value)| (Some((*key).into()), (*value).into())).collect();
    let params = Params::of_filter("rate", ENTRY.keys, &mut words.iter().collect()).unwrap();
    Limits::parse(&params).map_err(|error| error.to_string())
}

/// Connections to one disk.
fn connections(words: &[(&str, &str)]) -> impl FnMut() -> Arc<Rate> + use<> {
    let limits = limits(words).unwrap();
    let below = Arc::new(MemoryDisk::new(1 << 30));
    let all = Arc::new(Both::new(&limits.all, limits.burst));
    move || {
        let own = [(); 2].map(|()| Mutex::new(Bucket::new(&limits.each, limits.burst)));
        let tenant = Permit::any().opening().tenant.clone();
        Arc::new(Rate { below: Arc::clone(&below) as _, all: Arc::clone(&all), own, tenant })
    }
}

/// Seconds that a request of `bytes` bytes waits.
async fn seconds(disk: &Rate, verb: Verb, bytes: u64) -> f64 {
    let start = Instant::now();
    Disk::throttle(disk, asked(verb, bytes)).await;
    start.elapsed().as_secs_f64()
}

fn about(seconds: f64, expected: f64) {
    assert!((seconds - expected).abs() < 0.02, "{seconds} s, not {expected} s");
}

fn asked(verb: Verb, bytes: u64) -> Asked {
    Asked { verb, range: (0, bytes), fast: false, durable: false }
}

#[tokio::test(start_paused = true)]
async fn saved_tokens_are_spent_at_once_and_the_rest_waits() {
    tokio::time::advance(Duration::from_hours(1)).await;
    for key in ["rate", "connection-rate"] {
        let disk = connections(&[(key, "8K")])();
        about(seconds(&disk, Verb::Read, 2048).await, 0.0);
        about(seconds(&disk, Verb::Read, 1024).await, 1.0);
        // Each direction has a bucket, and requests without data are free.
        about(seconds(&disk, Verb::Write, 2048).await, 0.0);
        about(seconds(&disk, Verb::Zero, 1 << 30).await, 0.0);
        about(seconds(&disk, Verb::Read, 10 * 1024).await, 10.0);
    }
    let disk = connections(&[("rate", "8K"), ("burstiness", "0")])();
    about(seconds(&disk, Verb::Read, 1024).await, 1.0);
    let disk = connections(&[("rate", "8M"), ("connection-rate", "8K"), ("burstiness", "0.5")])();
    about(seconds(&disk, Verb::Read, 1024).await, 0.5);
}

#[tokio::test(start_paused = true)]
async fn connections_share_one_rate_and_have_a_rate_each() {
    for (key, expected) in [("rate", 2.0), ("connection-rate", 1.0)] {
        let mut connect = connections(&[(key, "8M"), ("burstiness", "0")]);
        let start = Instant::now();
        let (one, other) = (connect(), connect());
        tokio::join!(
            Disk::throttle(&*one, asked(Verb::Read, 1 << 20)),
            Disk::throttle(&*other, asked(Verb::Read, 1 << 20))
        );
        about(start.elapsed().as_secs_f64(), expected);
    }
}

/// Reads with `depth` requests in flight. Returns the bytes that are read in ten seconds.
async fn greedy(disk: Arc<Rate>, depth: usize, len: u64) -> u64 {
    let mut tasks = JoinSet::new();
    for _ in 0..depth {
        let disk = Arc::clone(&disk);
        tasks.spawn(async move {
            let end = Instant::now() + Duration::from_secs(10);
            let mut bytes = 0;
            loop {
                Disk::throttle(&*disk, asked(Verb::Read, len)).await;
                if Instant::now() > end {
                    break;
                }
                bytes += len;
                // The reply is sent, and the next request arrives.
                tokio::time::sleep(Duration::from_micros(100)).await;
            }
            bytes
        });
    }
    tasks.join_all().await.iter().sum()
}

#[tokio::test(start_paused = true)]
async fn many_large_requests_get_no_more_than_one_small_request() {
    let mut connect = connections(&[("rate", "16M")]);
    let (large, small) =
        tokio::join!(greedy(connect(), 32, 256 << 10), greedy(connect(), 1, 4 << 10));
    let share =
        f64::from(u32::try_from(small).unwrap()) / f64::from(u32::try_from(small + large).unwrap());
    assert!((0.4..0.6).contains(&share), "{small} of {}", small + large);
}

#[tokio::test]
async fn a_file_changes_the_rate_and_its_removal_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rate");
    let source = Source { rate: 1000, file: Some(path.clone()) };
    let mut bucket = Bucket::new(&source, Duration::ZERO);
    let mut rate_after = async |text: Option<&str>| {
        match text {
            Some(text) => fs::write(&path, text).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let mut rate = bucket.rate();
        let deadline = Instant::now() + Duration::from_secs(1);
        while Instant::now() < deadline {
            bucket.refresh(&Permit::any().opening().tenant.clone()).await;
            if bucket.rate() != rate {
                rate = bucket.rate();
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        rate
    };
    assert_eq!(rate_after(Some("1M\n")).await, 1 << 20);
    assert_eq!(rate_after(Some("nonsense")).await, 1 << 20);
    assert_eq!(rate_after(Some("0\nmore")).await, 0);
    assert_eq!(rate_after(Some("5K")).await, 5 << 10);
    assert_eq!(rate_after(None).await, 5 << 10);
}

#[test]
fn rates_are_parsed_as_nbdkit_parses_them() {
    let all = limits(&[("rate", "1M"), ("burstiness", "20")]).unwrap();
    assert_eq!((all.all.rate, all.each.limits()), (1 << 20, false));
    assert_eq!(all.burst, Duration::from_secs(20));
    let none = limits(&[]).unwrap();
    assert!(!none.all.limits() && !none.each.limits());
    assert!(limits(&[("rate-file", "missing")]).unwrap().all.limits());
    for (key, value) in [
        ("rate", "0"),
        ("rate", "-1"),
        ("connection-rate", "x"),
        ("connection-rate", "0"),
        ("burstiness", "x"),
        ("burstiness", "-1"),
        ("burstiness", "nan"),
        ("burstiness", "1e300"),
    ] {
        let error = limits(&[(key, value)]).unwrap_err();
        assert!(error.contains(&format!("{key}={value}")), "{error}");
    }
}
