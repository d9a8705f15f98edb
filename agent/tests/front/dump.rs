//! The options that print and exit, compared with nbdkit's: the same keys and lines, unless the
//! difference is named here.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
};

use support::{
    agent::NBDKIT,
    process::{assert_refuses, fails_with},
};

use crate::BINARY;

fn answer(program: &str, words: &str) -> String {
    let output = Command::new(program).args(words.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "{program} {words}: {output:?}");
    assert!(output.stderr.is_empty(), "{program} {words}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn fields(program: &str, words: &str) -> BTreeMap<String, String> {
    let text = answer(program, words);
    let line = |line: &str| line.split_once('=').map(|(key, value)| (key.into(), value.into()));
    text.lines().map(|text| line(text).unwrap_or_else(|| panic!("{text}"))).collect()
}

fn lines(text: &str) -> BTreeSet<&str> {
    text.lines().collect()
}

#[test]
fn the_configuration_has_nbdkits_keys() {
    let (ours, theirs) = (fields(BINARY, "--dump-config"), fields(NBDKIT, "--dump-config"));
    // Plugins and filters are built in, and there is no installation prefix.
    let left_out = ["filterdir", "libdir", "mandir", "plugindir", "sbindir", "sysconfdir"];
    for key in theirs.keys().filter(|key| !left_out.contains(&key.as_str())) {
        assert!(ours.contains_key(key), "{key} is missing in {ours:#?}");
    }
    for key in
        ["exit_with_parent", "host_cpu", "host_os", "root_tls_certificates_dir", "selinux", "tls"]
    {
        assert_eq!(ours[key], theirs[key], "{key}");
    }
    assert_eq!(ours["name"], "agent");
    assert_eq!(fs::canonicalize(BINARY).unwrap().to_str(), Some(&*ours["binary"]));
    let (major, minor) = (&ours["version_major"], &ours["version_minor"]);
    assert!(ours["version"].starts_with(&format!("{major}.{minor}.")), "{ours:#?}");
    for (key, name) in [("plugins", "memory"), ("filters", "delay")] {
        assert!(ours[key].split(',').any(|it| it == name), "{ours:#?}");
    }
    // It is printed at once, without regard to the other words.
    assert_eq!(fields(BINARY, "--dump-config no-such-plugin"), ours);
}

#[test]
fn a_plugin_says_of_itself_what_nbdkits_does() {
    for plugin in ["file", "memory", "null", "pattern", "full"] {
        let words = format!("{plugin} --dump-plugin");
        let (ours, theirs) = (fields(BINARY, &words), fields(NBDKIT, &words));
        for (key, value) in &ours {
            let Some(other) = theirs.get(key) else { panic!("{plugin}: nbdkit has no {key}") };
            // The keys about the build differ.
            let differs = ["path", "version", "zstd", "mlock"].contains(&key.as_str());
            assert!(differs || value == other, "{plugin}: {key}={value}, nbdkit has {other}");
        }
        for key in ["name", "thread_model", "max_thread_model", "errno_is_preserved"] {
            assert!(ours.contains_key(key), "{plugin}: {key}");
        }
        assert_eq!(ours.get("magic_config_key"), theirs.get("magic_config_key"), "{plugin}");
    }
    // Words are checked, and need not be complete.
    fields(BINARY, "--filter=delay memory --dump-plugin rdelay=1");
    for (words, part) in [
        ("--dump-plugin", "no plugin is given"),
        ("no-such-plugin --dump-plugin", "'no-such-plugin'"),
        ("memory --dump-plugin wrong=1", "'wrong'"),
        ("--filter=no-such-filter memory --dump-plugin", "'no-such-filter'"),
        ("-s memory --dump-plugin", "-s/--single"),
    ] {
        assert_refuses(BINARY, words, part);
    }
}

#[test]
fn versions_are_a_line_each() {
    for words in ["--version", "-V", "memory --version", "--filter=delay --filter=ip null -V"] {
        let names = |program| -> Vec<String> {
            let text = answer(program, words);
            let line = |line: &str| line.split_once(' ').map(|(name, _)| name.to_owned());
            text.lines().map(|text| line(text).unwrap()).collect()
        };
        assert_eq!(names(BINARY)[1..], names(NBDKIT)[1..], "{words}");
        assert_eq!(names(BINARY)[0], "agent");
    }
    for words in ["no-such-plugin --version", "--version --filter=no-such-filter null"] {
        assert_eq!(fails_with(BINARY, words).0, 1, "{words}");
    }
}

#[test]
fn help_is_also_about_the_plugin_and_the_filters() {
    let help = answer(BINARY, "--help");
    assert!(help.contains("--shutdown-timeout") && help.contains("Examples:"), "{help}");
    assert_eq!(answer(BINARY, "-h"), help);
    for words in ["--filter=delay memory --help", "--help --filter=delay memory"] {
        let text = answer(BINARY, words);
        let rest = text.strip_prefix(&help).expect("the same help comes first");
        let filter = rest.find("\nfilter: delay (").expect("the filter");
        let plugin = rest.find("\nplugin: memory (").expect("the plugin");
        assert!(filter < plugin, "{rest}");
        assert!(rest.contains("\nrdelay=<") && rest.contains("\n[size=]<SIZE> "), "{rest}");
    }
    let text = answer(BINARY, "file --help");
    assert!(text.contains("\ncache=default|none "), "{text}");
    assert_eq!(fails_with(BINARY, "no-such-plugin --help").0, 1);
}

#[test]
fn the_options_of_nbdkit_are_listed_but_those_that_are_refused() {
    let refused = ["-D", "-o", "--debug", "--old-style", "--oldstyle"];
    for words in ["--long-options", "--short-options"] {
        let (ours, theirs) = (answer(BINARY, words), answer(NBDKIT, words));
        let ours = lines(&ours);
        for option in lines(&theirs) {
            let tls = option.starts_with("--tls");
            let built = ours.contains(option);
            assert_eq!(built, !refused.contains(&option) && (!tls || built), "{option}");
        }
        assert!(!ours.contains(words), "{ours:?}");
    }
}
