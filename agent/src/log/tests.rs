use std::{fs, os::unix::net::UnixDatagram, path::Path, time::Duration};

use super::*;

/// What a peer would like to do to a log.
const EVIL: &str = "x\ny\r\x1b[2J\u{9b}31m\u{202e}\u{7f}\0\u{fffd}\"\\";

fn with(outlet: Outlet, wanted: LevelFilter, most: LevelFilter, say: impl FnOnce()) {
    let outlets = Mutex::new(vec![Branch { outlet, most: wanted }]);
    tracing::subscriber::with_default(Shared(Arc::new(Logger { most, outlets })), say);
}

fn say_all(outlet: Outlet) {
    with(outlet, LevelFilter::TRACE, LevelFilter::TRACE, || {
        tracing::info!(peer = %EVIL, export = EVIL, debug = ?EVIL, count = 3, on = true, "told {EVIL}");
    });
}

/// No character that ends a line, rings a bell, begins an escape sequence or turns the line round.
fn is_harmless(text: &str) -> bool {
    !text.chars().any(|c| c.is_control() || c == '\u{202e}')
}

fn check(line: &str) {
    assert!(is_harmless(line), "{line:?}");
    assert!(line.contains("\\n") && line.contains("\\u{1b}") && line.contains("\\u{9b}"), "{line}");
}

fn datagram(outlet: fn(Datagrams) -> Outlet) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let daemon = UnixDatagram::bind(&path).unwrap();
    daemon.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let socket = Datagrams::to(&path).unwrap();
    socket.reach().unwrap();
    say_all(outlet(socket));
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
fn a_line_stays_a_line() {
    let text = in_a_file(|path| say_all(Outlet::File(LogFile::open(path).unwrap())));
    let line = text.strip_suffix('\n').unwrap();
    check(line);
    assert!(line.contains("  INFO told x\\ny\\r") && line.ends_with(" count=3 on=true"), "{line}");
    assert!(line.contains(r#" export="x\ny\r\u{1b}[2J"#), "{line}");
}

#[test]
fn to_syslog_it_is_one_datagram_of_one_line() {
    let got = datagram(Outlet::Syslog);
    check(&got);
    let head = format!("<30>agent[{}]: told x\\ny", std::process::id());
    assert!(got.starts_with(&head), "{got}");
}

#[test]
fn to_the_journal_each_field_is_a_line() {
    let got = datagram(Outlet::Journal);
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
        *self.0.lock().unwrap() = Line::of(event).json();
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
fn in_json_a_value_is_what_it_was() {
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
fn a_daemon_that_does_not_read_holds_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let _hung = UnixDatagram::bind(&path).unwrap();
    let outlet = Outlet::Syslog(Datagrams::to(&path).unwrap());
    let started = std::time::Instant::now();
    with(outlet, LevelFilter::INFO, LevelFilter::INFO, || {
        for n in 0..1000 {
            tracing::info!(n, "x");
        }
    });
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[test]
fn what_is_not_asked_for_is_not_said() {
    let text = in_a_file(|path| {
        let file = Outlet::File(LogFile::open(path).unwrap());
        with(file, LevelFilter::INFO, LevelFilter::DEBUG, || {
            tracing::trace!("no outlet wants it");
            tracing::debug!("this outlet does not want it");
            tracing::info!("said");
        });
    });
    assert!(text.ends_with(" INFO said\n") && text.lines().count() == 1, "{text}");
}
