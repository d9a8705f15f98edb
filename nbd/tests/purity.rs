//! The crate does no I/O, reads no clock, starts no thread and depends on three small crates. This test
//! reads the sources and Cargo.toml, and fails when that changes.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Every dependency besides those of tests.
const DEPENDENCIES: [&str; 3] = ["bitflags", "thiserror", "vsock-cid"];

/// What the sources may use of std: types and traits without an operating system behind them.
/// `io::IoSlice` is a slice; its owner makes the system call.
const ALLOWED: [&str; 9] =
    ["collections", "error", "fmt", "io::IoSlice", "mem", "num", "ops", "str", "cmp"];

/// Macros that print.
const PRINTING: [&str; 5] = ["println!", "print!", "eprintln!", "eprint!", "dbg!"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The keys of all tables of dependencies that a user of the crate builds.
fn dependencies(manifest: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut is_inside = false;
    for line in manifest.lines().map(str::trim) {
        if let Some(table) = line.strip_prefix('[') {
            let table = table.trim_end_matches(']');
            is_inside = table.ends_with("dependencies") && table != "dev-dependencies";
            if let Some((head, name)) = table.rsplit_once('.')
                && head.ends_with("dependencies")
                && head != "dev-dependencies"
            {
                found.push(name.to_owned());
            }
        } else if is_inside && !line.is_empty() && !line.starts_with('#') {
            found.extend(line.split(['.', ' ', '=']).next().map(str::to_owned));
        }
    }
    found
}

/// The code of a source file: without comments and without the text of literals.
fn code(source: &str) -> String {
    let without_comments = source.lines().map(|line| line.split("//").next().unwrap_or_default());
    let lines: Vec<&str> = without_comments.collect();
    // Quotes in character literals would open a text that never ends.
    let text = lines.join("\n").replace("'\"'", "' '").replace("\\\"", "");
    text.split('"').step_by(2).collect()
}

/// The paths below `std`, `core` and `alloc` that the code names, as far as their second part.
fn std_paths(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for krate in ["std::", "core::", "alloc::"] {
        for (at, _) in code.match_indices(krate) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
                continue;
            }
            expand("", &code[at + krate.len()..], &mut found);
        }
    }
    found
}

/// Reads a path or a list of paths off the front of `code`.
fn expand(prefix: &str, code: &str, found: &mut Vec<String>) {
    let Some(list) = code.strip_prefix('{') else {
        let end = |c: char| !(c.is_alphanumeric() || c == '_' || c == ':');
        let path = code.split(end).next().unwrap_or_default();
        // A list below: each of its parts is looked at on its own.
        match code[path.len()..].chars().next() {
            Some('{') if prefix.is_empty() => expand(path, &code[path.len()..], found),
            _ => found.push(format!("{prefix}{path}")),
        }
        return;
    };
    let (mut depth, mut start) = (1, 0);
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 || (c == ',' && depth == 1) {
            let part = list[start..at].trim();
            if !part.is_empty() {
                expand(prefix, part, found);
            }
            start = at + 1;
        }
        if depth == 0 {
            return;
        }
    }
}

fn is_allowed(path: &str) -> bool {
    ALLOWED.iter().any(|allowed| {
        path.strip_prefix(allowed).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    })
}

/// What a source file has that the crate must not have.
fn impurities(source: &str) -> Vec<String> {
    let code = code(source);
    let mut found: Vec<String> =
        std_paths(&code).into_iter().filter(|path| !is_allowed(path)).collect();
    let words = PRINTING.iter().chain(&["unsafe ", "extern ", "async ", "thread_local!"]);
    found.extend(words.filter(|word| code.contains(**word)).map(|word| (*word).to_owned()));
    found
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn the_sources_use_nothing_of_the_operating_system() {
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    assert!(files.len() > 20, "the walk found the sources");
    for file in files {
        let found = impurities(&fs::read_to_string(&file).expect("UTF-8"));
        assert!(found.is_empty(), "{} uses {found:?}", file.display());
    }
}

#[test]
fn the_crate_depends_on_two_small_crates_and_runs_no_build_script() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("a manifest");
    assert_eq!(dependencies(&manifest), DEPENDENCIES);
    assert!(!root().join("build.rs").exists());
}

#[test]
fn impurities_are_found_wherever_they_stand() {
    for (source, found) in [
        ("use std::net::TcpStream;", &["net::TcpStream"][..]),
        ("use std::{fmt, fs::File, io::{self, Read}};", &["fs::File", "io::self", "io::Read"]),
        ("let now = std::time::Instant::now();", &["time::Instant::now"]),
        ("use std::{\n    io::IoSlice,\n    thread,\n};", &["thread"]),
        ("use std::io::{IoSlice, Write};", &["io::Write"]),
        ("use core::{fmt::Write, time::Duration};", &["time::Duration"]),
        ("println!(\"std::fmt\");", &["println!"]),
        ("// std::fs and \"unsafe \"\nuse std::io::IoSlice;", &[]),
        ("let mine = mystd::fs::File; let text = \"std::fs\";", &[]),
    ] {
        let all = impurities(source);
        assert_eq!(
            all.iter().filter(|one| found.contains(&&***one)).count(),
            found.len(),
            "{all:?}"
        );
        assert_eq!(all.is_empty(), found.is_empty(), "{source}: {all:?}");
    }
}

#[test]
fn dependencies_are_found_in_every_table() {
    let manifest = "[package]\nname = \"x\"\n[dependencies]\na.workspace = true\n# b\nc = \"1\"\n\
                    [dev-dependencies]\nd = \"1\"\n[build-dependencies]\ne = \"1\"\n\
                    [target.'cfg(unix)'.dependencies]\nf = \"1\"\n[dependencies.g]\nversion = \"1\"\n";
    assert_eq!(dependencies(manifest), ["a", "c", "e", "f", "g"]);
}
