//! Resource limits that affect a server of disks.

use crate::{Finding, Verdict, hint::Hint, machine::Machine};

/// Fewer open files than this are too few: each connection needs one, a file disk some more. The agent
/// raises the soft limit itself.
const FEW_FILES: u64 = 4096;

pub(super) fn check(machine: &Machine) -> Vec<Finding> {
    let Some(text) = machine.read("/proc/self/limits") else { return Vec::new() };
    let mut evidence = Vec::new();
    let mut meanings = Vec::new();
    let mut hints = Vec::new();
    if let Some(hard) = hard(&text, "Max open files") {
        evidence.push(format!("open files: {}", words(hard)));
        if hard < FEW_FILES {
            meanings.push("few guests at once: each connection is an open file");
            hints.push("LimitNOFILE=65536 ('ulimit -Hn' in a shell)");
        }
    }
    for (row, what, meaning, hint) in [
        (
            "Max file size",
            "file size",
            "no file disk can be written beyond that size",
            "LimitFSIZE=infinity ('ulimit -f')",
        ),
        (
            "Max address space",
            "address space",
            "memory disks, and threads, are cut off there",
            "LimitAS=infinity ('ulimit -v')",
        ),
    ] {
        if let Some(hard) = hard(&text, row) {
            evidence.push(format!("{what}: {}", words(hard)));
            if hard != UNLIMITED {
                meanings.push(meaning);
                hints.push(hint);
            }
        }
    }
    if let Some(hard) = hard(&text, "Max locked memory") {
        // Only `--swap` locks memory, and fails with its own message.
        evidence.push(format!("locked memory: {}", words(hard)));
    }
    let verdict = if hints.is_empty() { Verdict::Ok } else { Verdict::Warning };
    let finding = Finding::new("limits", verdict, "the hard limits here", evidence.join(", "));
    vec![if hints.is_empty() {
        finding.meaning("they leave room for many guests")
    } else {
        finding.meaning(meanings.join("; ")).hint(Hint::advice(format!(
            "raise them where the agent is started, in its systemd unit: {}",
            hints.join(", ")
        )))
    }]
}

/// No limit (RLIM_INFINITY).
const UNLIMITED: u64 = u64::MAX;

/// The hard limit in a row of /proc/self/limits.
fn hard(text: &str, row: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(row))?;
    match line.split_whitespace().nth(1)? {
        "unlimited" => Some(UNLIMITED),
        number => number.parse().ok(),
    }
}

fn words(limit: u64) -> String {
    if limit == UNLIMITED { "unlimited".into() } else { limit.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Tree;

    #[test]
    fn a_low_limit_is_a_warning_with_its_setting() {
        let limits = |files: &str, size: &str| {
            let text = format!(
                "Limit                     Soft Limit           Hard Limit           Units\n\
                 Max file size             {size}            {size}            bytes\n\
                 Max open files            1024                 {files}               files\n\
                 Max locked memory         8388608              8388608              bytes\n\
                 Max address space         unlimited            unlimited            bytes\n"
            );
            Tree::new("6.1.0").file("/proc/self/limits", &text).finding(check, "limits")
        };
        let found = limits("524288", "unlimited");
        assert_eq!(found.verdict, Verdict::Ok);
        assert!(found.evidence.contains("open files: 524288"), "{found:?}");
        let found = limits("1024", "1048576");
        assert_eq!(found.verdict, Verdict::Warning);
        let hint = found.hint.unwrap().to_string();
        assert!(hint.contains("LimitNOFILE") && hint.contains("LimitFSIZE"), "{hint}");
        assert!(check(&Tree::new("6.1.0").machine()).is_empty());
    }
}
