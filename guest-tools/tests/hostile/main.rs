//! Every command against servers that are hostile or broken, each in one way: tables of what a server
//! does and what the command's one line of error must say. No command may give out wrong data, take
//! much memory or time, or let a server's text reach the terminal as more than text.
//!
//! `server` is the server, `channel` what it speaks through, `death` cuts whole sessions at each byte, all others are tables.

mod attach;
mod channel;
mod death;
mod exports;
mod extents;
mod failures;
mod memory;
mod negotiation;
mod reads;
mod replies;
mod server;
mod texts;
mod time;

use std::process::{Command, Output, Stdio};

use server::{Framing, Manner, Script, Server, pattern};

const TOOL: &str = env!("CARGO_BIN_EXE_guest-tools");

/// Address space of the tool, KiB: its code and libraries are 40 MiB of it.
const SPACE: u32 = 192 << 10;
/// Time, seconds: it takes milliseconds where nothing is wrong.
const TIME: u32 = 30;

/// A command line; `URI` and `DIR` are put in.
type Words = &'static [&'static str];

pub(crate) const INFO: Words = &["info", "URI"];
pub(crate) const CAN: Words = &["info", "--can", "write", "URI"];
pub(crate) const LIST: Words = &["list", "URI"];
pub(crate) const PROBE: Words = &["probe", "URI"];
pub(crate) const MAP: Words = &["map", "URI"];
pub(crate) const READ: Words = &["read", "URI"];
pub(crate) const WRITE: Words = &["write", "URI", "--pattern", "--length", "48k"];
pub(crate) const ZERO: Words = &["zero", "URI", "--all"];
pub(crate) const TRIM: Words = &["trim", "URI", "--all"];
pub(crate) const COPY_FROM: Words = &["copy", "--quiet", "URI", "DIR/copied"];
pub(crate) const COPY_TO: Words = &["copy", "--quiet", "DIR/given", "URI"];
pub(crate) const TEST: Words = &["test", "URI", "--destroy"];
pub(crate) const BENCH: Words =
    &["bench", "URI", "--size", "4k", "--depth", "4", "--time", "50ms", "--warm-up", "0s"];

/// What begins with a negotiation, which is everything.
pub(crate) const ALL: &[Words] =
    &[INFO, CAN, LIST, PROBE, MAP, READ, WRITE, ZERO, TRIM, COPY_FROM, COPY_TO, TEST, BENCH];
/// What enters the export.
pub(crate) const ENTERING: &[Words] =
    &[MAP, READ, WRITE, ZERO, TRIM, COPY_FROM, COPY_TO, TEST, BENCH];
/// What reads bytes.
pub(crate) const READING: &[Words] = &[READ, COPY_FROM, BENCH];
/// What asks for extents.
pub(crate) const ASKING: &[Words] = &[MAP, COPY_FROM];

/// One wrong server.
pub(crate) struct Case {
    /// What it does.
    pub(crate) name: &'static str,
    pub(crate) manner: Manner,
    pub(crate) commands: &'static [Words],
    /// What the line of error says of it.
    pub(crate) says: &'static str,
}

impl Case {
    /// All that is not as it must be.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let server = Server::start(self.manner);
        let judged = self.commands.iter().filter_map(|words| {
            let output = run(&server, words);
            let framing = self.manner.framing;
            let told = format!("{words:?} of a server with {} ({framing:?})", self.name);
            let judged = judge(words, &output).and_then(|line| {
                let says = line.contains(self.says);
                if says { Ok(()) } else { Err(format!("{:?} is not in {line}", self.says)) }
            });
            judged.err().map(|why| format!("{told}: {why}"))
        });
        let mut all: Vec<_> = judged.collect();
        // What reads or writes by requests does not do so for the kernel.
        if self.commands.contains(&READ) || self.commands.contains(&WRITE) {
            let attached = attach::against(&server, self.says);
            let name = self.name;
            all.extend(attached.err().map(|why| format!("attach of a server with {name}: {why}")));
        }
        all
    }

    pub(crate) fn fails(&self) {
        no_complaints(&self.complaints());
    }
}

pub(crate) fn no_complaints(all: &[String]) {
    assert!(all.is_empty(), "{} wrong:\n{}", all.len(), all.join("\n"));
}

/// The one line of error; nothing wrong was given out before it.
pub(crate) fn judge(words: &[&str], output: &Output) -> Result<String, String> {
    if words[0] != "read" {
        is_text(&output.stdout)?;
    } else if output.stdout != pattern(0, output.stdout.len() as u64) {
        return Err(format!("{} bytes came out, and not all right", output.stdout.len()));
    }
    let said = String::from_utf8_lossy(&output.stderr);
    is_text(&output.stderr)?;
    if output.status.code() != Some(1) {
        return Err(format!("{}: {said}", output.status));
    }
    match said.lines().collect::<Vec<_>>()[..] {
        [line] if line.starts_with("guest-tools: error: ") && line.len() < 1024 => {
            Ok(line.to_owned())
        }
        _ => Err(format!("no short line of error, {} bytes: {said:.2000}", said.len())),
    }
}

/// What a server does, as a row: its name, with which framings, to which commands, and what is said.
pub(crate) struct Wrong(
    pub(crate) &'static str,
    pub(crate) &'static [Framing],
    pub(crate) Script,
    pub(crate) &'static [Words],
    pub(crate) &'static str,
);

pub(crate) fn fail(all: &[Wrong]) {
    let mut wrong = Vec::new();
    for Wrong(name, framings, script, commands, says) in all {
        for framing in *framings {
            let manner = Manner::new(*framing, *script);
            wrong.extend(Case { name, manner, commands, says }.complaints());
        }
    }
    no_complaints(&wrong);
}

pub(crate) const EACH: &[Framing] = &[Framing::Simple, Framing::Structured, Framing::Extended];
pub(crate) const CHUNKED: &[Framing] = &[Framing::Structured, Framing::Extended];

/// Runs the tool with little memory and time.
pub(crate) fn run(server: &Server, words: &[&str]) -> Output {
    let dir = server.dir.path().to_str().expect("UTF-8");
    std::fs::write(server.dir.path().join("given"), pattern(0, 48 << 10)).expect("a file");
    let words = words.iter().map(|word| match *word {
        "URI" => server.uri.clone(),
        word => word.replace("DIR", dir),
    });
    let script =
        format!("ulimit -c 0; ulimit -v {SPACE}; exec timeout -s KILL {TIME} \"$0\" \"$@\"");
    Command::new("sh")
        .args(["-c", &script, TOOL])
        .args(words)
        // Arenas take address space that is never used.
        .env("MALLOC_ARENA_MAX", "1")
        .stdin(Stdio::null())
        .output()
        .expect("sh starts")
}

/// Nothing in it moves the cursor, colours, rings, hides or turns text around.
pub(crate) fn is_text(bytes: &[u8]) -> Result<(), String> {
    let text = str::from_utf8(bytes).map_err(|error| error.to_string())?;
    let hides = |c: char| {
        matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    match text.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t') || hides(*c)) {
        Some(wrong) => Err(format!("{wrong:?} is printed: {text:.2000?}")),
        None => Ok(()),
    }
}
