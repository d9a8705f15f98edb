//! The shipped manual pages and shell completions are the ones that the program prints.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

const BINARY: &str = env!("CARGO_BIN_EXE_agent");

fn files(dir: &Path) -> BTreeMap<String, String> {
    let files = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    files.map(|path| (name(&path), fs::read_to_string(&path).unwrap())).collect()
}

#[test]
fn the_shipped_files_are_the_printed_ones() {
    for (command, place) in [("man", "man"), ("completions", "completions")] {
        let dir = tempfile::tempdir().unwrap();
        let status = Command::new(BINARY).args([command, "--dir"]).arg(dir.path()).status();
        assert!(status.unwrap().success());
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join(place);
        assert!(
            files(dir.path()) == files(&shipped),
            "the command line has changed: empty agent/{place}, and run \
             'cargo run -p agent -- {command} --dir agent/{place}'"
        );
    }
}

#[test]
fn the_pages_are_whole_manual_pages() {
    for word in ["", "man", "completions"] {
        let page = Command::new(BINARY).arg("man").args(word.split_whitespace()).output().unwrap();
        let page = String::from_utf8(page.stdout).unwrap();
        for part in [".TH agent", ".SH NAME", ".SH SYNOPSIS", ".SH OPTIONS", ".SH \"SEE ALSO\""] {
            assert!(page.contains(part), "{part} in {word}: {page}");
        }
    }
    let page = Command::new(BINARY).arg("man").output().unwrap();
    let page = String::from_utf8(page.stdout).unwrap();
    assert_eq!(
        page.lines().next().unwrap(),
        concat!(".TH agent 1 \"\" \"agent ", env!("CARGO_PKG_VERSION"), "\" \"\"")
    );
    for part in ["cow\\-block\\-size", ".SS memory", "LISTEN_FDS", "\\-\\-allow\\-cid"] {
        assert!(page.contains(part), "{part}");
    }
}

#[test]
fn bash_completes_options_filters_plugins_parameters_and_commands() {
    let completions = Command::new(BINARY).args(["completions", "bash"]).output().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("agent.bash");
    fs::write(&script, completions.stdout).unwrap();
    fs::write(dir.path().join("dinner"), "").unwrap();
    // Split as readline does: '=' is a word. A '.' at the end is an empty word.
    for (words, expected) in [
        ("--vs", "--vsock"),
        ("--filter exitl", "exitlast"),
        ("--filter = exitl", "exitlast"),
        ("--tls = r", "require"),
        ("--log = sys", "syslog"),
        ("--vsock mem", "memory"),
        ("-e memory mem", "memory"),
        ("memory .", "size= allocator=sparse"),
        ("memory 1G --ru", "--run"),
        ("memory allocator = .", "sparse"),
        ("--filter = cow memory cow-bl", "cow-block-size="),
        ("memory 1G --filter cow cow-bl", "cow-block-size="),
        ("memory cow-bl", ""),
        ("file di", "dir= dinner"),
        ("file file = di", ""),
        ("file cache = n", "none"),
        ("compl", "completions"),
        ("completions f", "fish"),
        ("man compl", "completions"),
        ("man memory", ""),
    ] {
        let complete = r#"source "$0"
            COMP_WORDS=(agent ${1%.}); [[ $1 == *. ]] && COMP_WORDS+=("")
            COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
            compopt() { :; }
            [[ $(complete -p agent) =~ -F\ ([a-z_]+) ]]
            "${BASH_REMATCH[1]}" agent "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
            echo "${COMPREPLY[@]}""#;
        let mut bash = Command::new("bash");
        bash.args(["-uc", complete]).arg(&script).arg(words).current_dir(dir.path());
        let said = bash.output().unwrap();
        assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), expected, "{words}: {said:?}");
        assert!(said.stderr.is_empty(), "{words}: {said:?}");
    }
}

#[test]
fn a_wrong_word_is_one_line() {
    for (words, part) in [
        (&["man", "nothing"][..], "there is no page agent-nothing; there are agent, "),
        (&["completions"], "<SHELL>"),
        (&["completions", "--dir", "/nonexistent"], "--dir: cannot write /nonexistent/"),
        (&["man", "--wrong"], "'--wrong'"),
    ] {
        let said = Command::new(BINARY).args(words).output().unwrap();
        let stderr = String::from_utf8(said.stderr).unwrap();
        assert_eq!((said.status.code(), stderr.lines().count()), (Some(1), 1), "{stderr}");
        assert!(stderr.starts_with("agent: error: ") && stderr.contains(part), "{stderr}");
        assert!(said.stdout.is_empty());
    }
}

#[test]
fn a_full_disk_is_told_and_a_reader_that_leaves_is_not() {
    for words in [&["man"][..], &["completions", "bash"], &["man", "--help"]] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let said = Command::new(BINARY).args(words).stdout(full).output().unwrap();
        let stderr = String::from_utf8(said.stderr).unwrap();
        assert_eq!((said.status.code(), stderr.lines().count()), (Some(1), 1), "{stderr}");
        assert!(stderr.contains("cannot write to stdout: No space left"), "{stderr}");

        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let said = Command::new(BINARY).args(words).stdout(writer).output().unwrap();
        assert!(said.status.success() && said.stderr.is_empty(), "{words:?}: {said:?}");
    }
}
