use std::{fs, os::unix::net::UnixDatagram, path::Path, time::Duration};

use tracing::{
    Event, Metadata, Subscriber,
    span::{Attributes, Id, Record},
};

use super::*;
use std::sync::Mutex;

const PLAIN: Format = Format::Human { colours: false };

/// A text with which a peer might try to manipulate the log.
const EVIL: &str = "x\ny\r\x1b[2J\u{9b}31m\u{202e}\u{7f}\0\u{fffd}\"\\";

fn with(outlet: Outlet, format: Format, wanted: LevelFilter, say: impl FnOnce()) {
    let queue = Arc::new(Queue::new(outlet, format));
    let logger = Logger::new(LevelFilter::TRACE, vec![Branch { queue, most: wanted }]);
    tracing::subscriber::with_default(Shared(Arc::new(logger)), say);
}

fn say_all(outlet: Outlet, format: Format) {
    with(outlet, format, LevelFilter::TRACE, || {
        tracing::info!(peer = %EVIL, export = EVIL, debug = ?EVIL, count = 3, on = true, "told {EVIL}");
    });
}

/// No character ends a line, rings a bell, begins an escape sequence or reverses the text direction.
fn is_harmless(text: &str) -> bool {
    !text.chars().any(|c| c.is_control() || c == '\u{202e}')
}

fn check(line: &str) {
    assert!(is_harmless(line), "{line:?}");
    assert!(line.contains("\\n") && line.contains("\\u{1b}") && line.contains("\\u{9b}"), "{line}");
}

fn datagram(format: Format) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let daemon = UnixDatagram::bind(&path).unwrap();
    daemon.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let socket = Datagrams::to(&path).unwrap();
    socket.reach().unwrap();
    say_all(Outlet::Datagrams(socket), format);
    let mut bytes = vec![0; 1 << 16];
    let len = daemon.recv(&mut bytes).unwrap();
    String::from_utf8(bytes[..len].to_vec()).unwrap()
}

fn in_a_file(say: impl FnOnce(&Path)) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    fs::write(&path, "older\n").unwrap();
    say(&path);
    let text = fs::read_to_string(&path).unwrap();
    text.strip_prefix("older\n").expect("appended").to_owned()
}

#[test]
fn escaped_text_stays_on_one_line() {
    let text = in_a_file(|path| say_all(Outlet::File(LogFile::open(path).unwrap()), PLAIN));
    let line = text.strip_suffix('\n').unwrap();
    check(line);
    assert!(line.contains("  INFO told x\\ny\\r") && line.ends_with(" count=3 on=true"), "{line}");
    assert!(line.contains(r#" export="x\ny\r\u{1b}[2J"#), "{line}");
}

#[test]
fn to_syslog_it_is_one_datagram_of_one_line() {
    let got = datagram(Format::Syslog);
    check(&got);
    let head = format!("<30>agent[{}]: told x\\ny", std::process::id());
    assert!(got.starts_with(&head), "{got}");
}

#[test]
fn to_the_journal_each_field_is_a_line() {
    let got = datagram(Format::Journal);
    let lines: Vec<&str> = got.lines().collect();
    let names: Vec<&str> = lines.iter().map(|line| line.split('=').next().unwrap()).collect();
    let all =
        ["PRIORITY", "SYSLOG_IDENTIFIER", "MESSAGE", "PEER", "EXPORT", "DEBUG", "COUNT", "ON"];
    assert_eq!(names, all, "{got}");
    assert_eq!((lines[0], lines[6]), ("PRIORITY=6", "COUNT=3"));
    lines[2..6].iter().for_each(|line| check(line));
    assert!(lines[4].starts_with(r"EXPORT=x\ny\r\u{1b}[2J"), "no quotes: {got}");
}

/// Keeps the last line as JSON.
struct Keep(Arc<Mutex<String>>);

impl Subscriber for Keep {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn event(&self, event: &Event<'_>) {
        *self.0.lock().unwrap() = Format::Json.text(&line::Line::of(event));
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[test]
fn json_keeps_values_unchanged() {
    let kept = Arc::new(Mutex::new(String::new()));
    tracing::subscriber::with_default(Keep(Arc::clone(&kept)), || {
        tracing::warn!(export = EVIL, wide = "\u{e0001}\u{e9}'", n = 7, is = false, "m");
    });
    let json = kept.lock().unwrap().clone();
    let line = json.strip_suffix('\n').unwrap();
    assert!(is_harmless(line), "{line:?}");
    assert!(line.starts_with(r#"{"timestamp":"20"#), "{line}");
    let rest = [
        r#"","level":"WARN","message":"m","export":"x\ny\r\u001b[2J\u009b31m\u202e\u007f\u0000"#,
        "\u{fffd}",
        r#"\"\\","wide":"\udb40\udc01"#,
        "\u{e9}",
        r#"'","n":7,"is":false}"#,
    ];
    assert!(line.ends_with(&rest.concat()), "{line}");
}

#[test]
fn lines_above_the_wanted_level_are_left_out() {
    let text = in_a_file(|path| {
        let file = Outlet::File(LogFile::open(path).unwrap());
        with(file, PLAIN, LevelFilter::INFO, || {
            tracing::debug!("this outlet does not want it");
            tracing::info!("said");
        });
    });
    assert!(text.ends_with(" INFO said\n") && text.lines().count() == 1, "{text}");
}

#[test]
fn names_are_cut_as_they_are_printed() {
    let long = "\u{1}".repeat(4096);
    for format in [PLAIN, Format::Json, Format::Syslog] {
        let mut lens = Vec::new();
        for name in ["short", &long, &"n".repeat(4096), &EVIL.repeat(1000)] {
            let text = in_a_file(|path| {
                with(Outlet::File(LogFile::open(path).unwrap()), format, LevelFilter::INFO, || {
                    tracing::info!(export = name, "x");
                });
            });
            lens.push(text.len());
        }
        assert!(lens[1..].iter().all(|len| *len < lens[0] + 400), "{format:?}: {lens:?}");
    }
    let text = in_a_file(|path| {
        with(Outlet::File(LogFile::open(path).unwrap()), PLAIN, LevelFilter::INFO, || {
            tracing::info!(end = %long, "{long}");
        });
    });
    assert!(text.len() < 2048 + 512 + 100, "{}", text.len());
}

/// The lines of a file after `say` and after the suppressed lines were reported.
fn flood(say: impl FnOnce()) -> Vec<String> {
    let text = in_a_file(|path| {
        let file = Outlet::File(LogFile::open(path).unwrap());
        let queue = Arc::new(Queue::new(file, PLAIN));
        let branches = vec![Branch { queue, most: LevelFilter::TRACE }];
        let logger = Arc::new(Logger::new(LevelFilter::TRACE, branches));
        tracing::subscriber::with_default(Shared(Arc::clone(&logger)), say);
        logger.tell();
    });
    text.lines().map(str::to_owned).collect()
}

fn count(lines: &[String], part: &str) -> usize {
    lines.iter().filter(|line| line.contains(part)).count()
}

#[test]
fn a_party_that_floods_the_log_is_counted_and_another_is_not_disturbed() {
    let [loud, quiet] = ["loud", "quiet"].map(|name| Arc::new(Allowance::new(name)));
    let lines = flood(|| {
        loud.scope(|| (0..10_000).for_each(|n| tracing::info!(n, "noise")));
        quiet.scope(|| tracing::warn!("a word"));
        loud.scope(|| tracing::debug!("of -v"));
        tracing::info!("of the agent itself");
    });
    let noise = count(&lines, "noise");
    assert!((200..300).contains(&noise), "{noise}");
    assert_eq!(count(&lines, "a word tenant=\"quiet\""), 1, "{lines:#?}");
    assert_eq!(count(&lines, "of -v") + count(&lines, "of the agent itself"), 2, "{lines:#?}");
    let told = format!("more than a client may cause lines={} tenant=\"loud\"", 10_000 - noise);
    assert_eq!(count(&lines, &told), 1, "{told}: {lines:#?}");
}

#[test]
fn a_panic_waits_for_its_line_but_not_again_and_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let hung = dir.path().join("hung");
    let _daemon = UnixDatagram::bind(&hung).unwrap();
    let logger = |outlet| {
        let branch = Branch { queue: Arc::new(Queue::new(outlet, PLAIN)), most: LevelFilter::INFO };
        let logger = Arc::new(Logger::new(LevelFilter::INFO, vec![branch]));
        logger.start_threads().unwrap();
        logger
    };
    let good = logger(Outlet::File(LogFile::open(&path).unwrap()));
    tracing::subscriber::with_default(Shared(Arc::clone(&good)), || tracing::error!("a bug"));
    good.hasten();
    assert!(fs::read_to_string(&path).unwrap().ends_with("a bug\n"));

    let stuck = logger(Outlet::Datagrams(Datagrams::to(&hung).unwrap()));
    let started = Instant::now();
    tracing::subscriber::with_default(Shared(Arc::clone(&stuck)), || {
        for _ in 0..1000 {
            tracing::error!("a bug");
            stuck.hasten();
        }
    });
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[test]
fn parties_that_are_many_are_bounded_together() {
    let lines = flood(|| {
        for n in 0..1000 {
            Arc::new(Allowance::new(format!("net-{n}")))
                .scope(|| (0..50).for_each(|_| tracing::info!("noise")));
        }
    });
    let noise = count(&lines, "noise");
    assert!((2500..3000).contains(&noise), "{noise}");
    let told = lines.iter().filter(|line| line.contains("left out")).count();
    assert!(told <= 33, "{told} lines about lines");
    let sum = |line: &String| {
        let rest = line.split_once("lines=")?.1;
        rest.split(' ').next()?.parse::<usize>().ok()
    };
    assert_eq!(noise + lines.iter().filter_map(sum).sum::<usize>(), 50_000);
}

#[test]
fn a_party_that_floods_the_log_cannot_hide_that_data_was_lost() {
    let loud = Arc::new(Allowance::new("loud"));
    let losses = |lines| (0..lines).for_each(|_| tracing::error!(target: disk::LOSS, "data lost"));
    let lines = flood(|| {
        loud.scope(|| {
            (0..5000).for_each(|n| tracing::info!(n, "noise"));
            losses(1);
        });
        // Lines about lost data are limited too. A party that has logged nothing has its own allowance.
        loud.scope(|| losses(5000));
        Arc::new(Allowance::new("quiet")).scope(|| losses(1));
    });
    assert!((200..300).contains(&count(&lines, "noise n=")), "{}", lines.len());
    let lost = count(&lines, "data lost tenant=\"loud\"");
    assert!((1000..1200).contains(&lost), "{lost}");
    assert_eq!(count(&lines, "data lost tenant=\"quiet\""), 1);
}

#[test]
fn a_quiet_party_has_some_lines_when_others_have_used_up_the_common_allowance() {
    let lines = flood(|| {
        for n in 0..20 {
            let loud = Arc::new(Allowance::new(format!("loud-{n}")));
            loud.scope(|| (0..500).for_each(|_| tracing::info!("noise")));
        }
        let quiet = Arc::new(Allowance::new("quiet"));
        quiet.scope(|| (0..3).for_each(|_| tracing::info!("a word")));
    });
    assert_eq!(count(&lines, "a word tenant=\"quiet\""), 3, "{}", lines.len());
}

#[test]
fn a_line_charged_to_no_party_is_limited_by_its_place() {
    let lines = flood(|| {
        for n in 0..5000 {
            tracing::warn!(n, "from a thread of a crate below: {n}");
        }
        tracing::warn!("another");
    });
    assert!((1000..1200).contains(&count(&lines, "crate below: ")), "{}", lines.len());
    assert_eq!(count(&lines, "WARN another"), 1);
    assert_eq!(count(&lines, "too many of one kind lines="), 1);
    assert_eq!(count(&lines, r#"first="from a thread of a crate below: 1"#), 1, "{lines:#?}");
}

#[test]
fn lines_of_tasks_and_scopes_are_charged() {
    let party = Arc::new(Allowance::new("one"));
    let lines = flood(|| {
        party.scope(|| tracing::info!("there"));
        let polled = Arc::clone(&party).charge(async { tracing::info!("polled") });
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(polled);
        let panics = std::panic::catch_unwind(|| party.scope(|| panic!("for the test")));
        panics.unwrap_err();
        tracing::info!("alone");
    });
    assert_eq!(count(&lines, "there tenant=\"one\""), 1, "{lines:#?}");
    assert_eq!(count(&lines, "polled tenant=\"one\""), 1, "{lines:#?}");
    assert!(lines.iter().any(|line| line.ends_with("INFO alone")), "{lines:#?}");
}
