//! Checks the layout: no file over the limit, and no import against the order of ARCHITECTURE.md.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The most lines of a source file. A longer file has two subjects.
const MOST_LINES: usize = 400;

/// Modules of the agent from the bottom up. A module may import only modules of lower rank.
const RANKS: &[(&str, u8)] = &[
    ("sys", 0),
    ("text", 0),
    ("units", 0),
    ("primitives", 0),
    ("peer", 1),
    ("child", 1),
    ("lifecycle", 1),
    ("tls", 1),
    ("event_loop", 1),
    ("fd_store", 1),
    ("log", 2),
    ("access", 2),
    ("tenant", 3),
    ("lease", 3),
    ("diagnosis", 3),
    ("shell", 4),
    ("exports", 4),
    ("params", 4),
    ("listen", 4),
    ("transport", 5),
    ("remote", 5),
    ("stack", 5),
    ("session", 6),
    ("layer", 6),
    ("gate", 6),
    ("filter", 7),
    ("plugin", 6),
    ("machines", 6),
    ("serve", 7),
    ("process", 8),
    ("plan", 9),
    ("startup", 10),
    ("cli", 10),
    ("command", 11),
    ("program", 12),
    ("lib", 13),
    ("main", 13),
];

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in a workspace").into()
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a readable directory") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                sources(&path, found);
            }
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn no_source_file_is_longer_than_a_thought() {
    let mut files = Vec::new();
    sources(&workspace(), &mut files);
    assert!(files.len() > 20, "the walk found the sources");
    let long: Vec<_> = files
        .iter()
        .map(|file| (file, fs::read_to_string(file).expect("UTF-8").lines().count()))
        .filter(|(_, lines)| *lines > MOST_LINES)
        .collect();
    assert!(long.is_empty(), "over {MOST_LINES} lines: {long:#?}");
}

#[test]
fn modules_import_downwards_only() {
    let src = workspace().join("agent/src");
    let rank = |module: &str| RANKS.iter().find(|(name, _)| *name == module).map(|found| found.1);
    let mut files = Vec::new();
    sources(&src, &mut files);
    let mut wrong = Vec::new();
    for file in files {
        let inside = file.strip_prefix(&src).expect("below src").to_string_lossy().into_owned();
        let module = inside.split(['/', '.']).next().expect("a first part");
        let Some(own) = rank(module) else {
            wrong.push(format!("{inside}: module `{module}` has no rank"));
            continue;
        };
        let text = fs::read_to_string(&file).expect("UTF-8");
        for &(used, theirs) in RANKS {
            let names = text.contains(&format!("crate::{used}::"))
                || text.contains(&format!("crate::{used};"))
                || crate_list(&text).any(|name| name == used);
            if names && used != module && theirs >= own {
                wrong.push(format!("{inside} (rank {own}) uses crate::{used} (rank {theirs})"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Folders of code that handles requests of clients.
const REQUESTS: [&str; 8] = [
    "agent/disk/src",
    "agent/src/exports",
    "agent/src/gate",
    "agent/src/layer",
    "agent/src/plugin",
    "agent/src/remote",
    "agent/src/session",
    "agent/src/tenant",
];

/// Allocations whose length no client chooses: the end of a file's path, and the call.
const NOT_A_CLIENTS: &[(&str, &str)] = &[
    // A text from the command line.
    ("plugin/data/content.rs", "vec![0; usize::try_from(self.len).unwrap_or(0)]"),
    ("plugin/data/content.rs", "bytes.repeat(CHUNK / bytes.len())"),
    ("plugin/data/parse.rs", "word.to_vec()"),
    ("remote/endpoint.rs", "path.as_os_str().as_bytes().to_vec()"),
    // As many as the command line names.
    ("disk/src/split.rs", "Vec::with_capacity(disks.len())"),
    ("session/authorize.rs", "Vec::with_capacity(rules.gates.len())"),
    // At most the negotiation's buffer.
    ("session/negotiate.rs", "buffer.filled().to_vec()"),
];

/// Whether a line calls something that aborts the agent when there is no memory, with a length that
/// is not a constant.
fn allocates(line: &str) -> bool {
    let sized = |call: &str, end: char| {
        line.match_indices(call).any(|(at, _)| {
            let len = line[at + call.len()..].split(end).next().unwrap_or_default();
            let name = len.rsplit("::").next().unwrap_or_default();
            name.chars()
                .any(|c| !(c.is_ascii_uppercase() || c.is_ascii_digit() || "_ *".contains(c)))
        })
    };
    sized("vec![0; ", ']')
        || sized("vec![0u8; ", ']')
        || sized("vec![0_u8; ", ']')
        || sized("with_capacity(", ')')
        || [".concat()", ".to_vec()", ".repeat("].iter().any(|call| line.contains(call))
}

#[test]
fn what_a_client_asks_for_is_allocated_so_that_it_may_fail() {
    let bad = [
        "let a = vec![0; len];",
        "vec![0; usize::try_from(len)?]",
        "Vec::with_capacity(len as usize)",
        "data.slices().concat()",
        "bytes.to_vec()",
    ];
    assert!(bad.iter().all(|line| allocates(line)), "the test sees them");
    assert!(
        !["vec![0; 4096]", "vec![0; buffer_pool::SMALL].into()", "Vec::with_capacity(32)"]
            .iter()
            .any(|line| allocates(line))
    );
    let mut files = Vec::new();
    for part in REQUESTS {
        sources(&workspace().join(part), &mut files);
    }
    let (mut wrong, mut allowed) = (Vec::new(), 0);
    for file in files {
        let path = file.to_string_lossy();
        if ["tests.rs", "/tests/", "/testing", "model.rs"].iter().any(|part| path.contains(part)) {
            continue;
        }
        let text = fs::read_to_string(&file).expect("UTF-8");
        let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
            let exempt = |(end, call): &(&str, &str)| path.ends_with(end) && line.contains(call);
            if NOT_A_CLIENTS.iter().any(exempt) {
                allowed += 1;
            } else if allocates(line) {
                wrong.push(format!("{path}: {}", line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "use disk::{{room, zeroed, joined}}: {wrong:#?}");
    assert_eq!(
        allowed,
        NOT_A_CLIENTS.len(),
        "an exception that nothing needs, or that is needed twice"
    );
}

/// The text of every call of `tracing`'s macros, from the parenthesis on.
fn log_calls(text: &str) -> impl Iterator<Item = &str> {
    ["error", "warn", "info", "debug", "trace"].iter().flat_map(|level| {
        text.split("tracing::")
            .filter_map(|rest| rest.strip_prefix(*level)?.strip_prefix("!("))
            .map(|rest| {
                let (mut depth, mut inside, mut escaped) = (1, false, false);
                let end = rest.find(|c| {
                    match c {
                        '"' if !escaped => inside = !inside,
                        '(' if !inside => depth += 1,
                        ')' if !inside => depth -= 1,
                        _ => {}
                    }
                    escaped = c == '\\' && !escaped;
                    depth == 0
                });
                &rest[..end.unwrap_or(rest.len())]
            })
    })
}

/// Whether it prints a value with `Debug`: `?value`, `name = ?value`, `{value:?}`.
fn prints_debug(call: &str) -> bool {
    let field = call.split(',').any(|field| {
        let value = field.split_once(" = ").map_or(field, |(_, value)| value);
        value.trim_start().starts_with('?')
    });
    field || call.contains(":?") || call.contains(":#?") || call.contains("field::debug")
}

#[test]
fn no_line_of_the_log_has_rusts_form_of_a_value() {
    let bad =
        ["?error, \"x\"", "a = 1, source = ?e, \"x\"", "\"{e:?}\"", "\n    ?range,\n    \"x\""];
    assert!(bad.iter().all(|call| prints_debug(call)), "the test sees them");
    let mut files = Vec::new();
    for part in ["agent/src", "agent/disk/src", "agent/vsock-device/src", "qemu", "libvirt", "nbd"]
    {
        sources(&workspace().join(part), &mut files);
    }
    let (mut calls, mut wrong) = (0, Vec::new());
    for file in files.iter().filter(|file| !file.ends_with("log/tests.rs")) {
        let text = fs::read_to_string(file).expect("UTF-8");
        for call in log_calls(&text) {
            calls += 1;
            if prints_debug(call) {
                wrong.push(format!("{}: {call}", file.display()));
            }
        }
    }
    assert!(calls > 60, "the walk found the calls: {calls}");
    assert!(
        wrong.is_empty(),
        "an error is printed by human::chain, a text by its name: {wrong:#?}"
    );
}

/// The modules named in `use crate::{a, b::c}`.
fn crate_list(text: &str) -> impl Iterator<Item = &str> {
    text.split("use crate::{").skip(1).flat_map(|rest| {
        let mut depth = 1;
        let end = rest.find(|c| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            depth == 0
        });
        let list = &rest[..end.unwrap_or(rest.len())];
        let mut depth = 0;
        list.split(move |c| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            depth == 0 && c == ','
        })
        .map(|item| item.trim().split([':', ' ']).next().unwrap_or_default())
    })
}
