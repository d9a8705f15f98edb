use human::chain;

use super::*;
use crate::{
    exports::{Exports, list_now, open_now},
    lifecycle::Lifecycle,
};

/// The exports that the words make.
fn build(plugin: &str, words: &[Word], read_only: bool) -> Result<Arc<dyn Exports>, BuildError> {
    let mut lifecycle = Lifecycle::default();
    let mut context = Context {
        read_only,
        changes_user: false,
        lifecycle: &mut lifecycle,
        memory: Context::unlimited(),
    };
    let words: Vec<&Word> = words.iter().collect();
    Ok(find(plugin)?.build(&words, &mut context)?.exports)
}

/// Words as they stand on the command line.
fn words(words: &[&str]) -> Vec<Word> {
    words
        .iter()
        .map(|word| match word.split_once('=') {
            Some((key, value)) => (Some(key.to_owned()), value.to_owned()),
            None => (None, (*word).to_owned()),
        })
        .collect()
}

/// The size of the disk that the words make.
fn size(plugin: &str, params: &[&str]) -> u64 {
    let exports = build(plugin, &words(params), false).unwrap();
    open_now(&*exports, "any").unwrap().info().size
}

/// The error with its causes, as the command line prints it.
fn refusal(plugin: &str, params: &[&str]) -> String {
    let error = build(plugin, &words(params), false).unwrap_err();
    chain(&error).to_string()
}

#[test]
fn words_become_disks() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(12345).unwrap();
    let path = file.path().to_str().unwrap();
    assert_eq!(size("memory", &["1G"]), 1 << 30);
    assert_eq!(size("memory", &["size=9223372036854775807"]), i64::MAX as u64);
    assert_eq!(size("memory", &["allocator=sparse", "2s"]), 1024);
    assert_eq!(size("null", &[]), 0);
    assert_eq!(size("null", &["10M"]), 10 << 20);
    assert_eq!(size("pattern", &["1k"]), 1024);
    assert_eq!(size("full", &["1k"]), 1024);
    assert_eq!(size("file", &[path]), 12345);
    let more = [&format!("file={path}"), "cache=default", "fadvise=sequential"];
    assert_eq!(size("file", &more), 12345);
    assert!(
        open_now(&*build("file", &words(&[path]), true).unwrap(), "").unwrap().info().read_only
    );
}

#[test]
fn a_directory_is_many_exports() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("one"), "1").unwrap();
    let dir = format!("dir={}", directory.path().display());
    let exports = build("file", &words(&[&dir]), false).unwrap();
    assert_eq!(list_now(&*exports).unwrap().len(), 1);
    assert_eq!(open_now(&*exports, "one").unwrap().info().size, 1);
    assert!(open_now(&*exports, "").is_err());
}

#[test]
fn errors_name_the_wrong_word_and_the_known_words() {
    let table: [(&str, &[&str], &str); 16] = [
        ("curl", &[], "the plugin 'curl' is not built into agent; built in are: ALL"),
        ("memroy", &["1G"], "there is no plugin 'memroy'; built in are: ALL"),
        ("memory", &[], "plugin memory: parameter 'size' is missing; known are: size, allocator"),
        (
            "memory",
            &["1G", "colour=red"],
            "plugin memory: unknown parameter 'colour'; known are: size, allocator",
        ),
        ("memory", &["1G", "size=2G"], "plugin memory: parameter 'size' is given twice"),
        ("memory", &["1G", "2G"], "plugin memory: parameter 'size' is given twice"),
        (
            "memory",
            &["1G", "allocator=zstd"],
            "plugin memory: allocator=zstd is not known; known are: sparse",
        ),
        (
            "memory",
            &["8E"],
            "plugin memory: size=8E is not a size: it is more than the largest size, \
             9223372036854775807 bytes (2^63 - 1)",
        ),
        (
            "pattern",
            &["big"],
            "plugin pattern: size=big is not a size: it does not start with a whole number; \
             write a size such as 512M or 10G",
        ),
        ("full", &[], "plugin full: parameter 'size' is missing; known are: size"),
        (
            "file",
            &[],
            "plugin file: parameter 'file' is missing; known are: file, dir, cache, fadvise",
        ),
        ("file", &["a", "dir=b"], "plugin file: give one of 'file' and 'dir', not both"),
        (
            "file",
            &["a", "cache=writeback"],
            "plugin file: cache=writeback is not known; known are: default, none",
        ),
        (
            "file",
            &["a", "fadvise=willneed"],
            "plugin file: fadvise=willneed is not known; known are: normal, random, sequential",
        ),
        (
            "file",
            &["/no/such"],
            "cannot open /no/such (create it first, for example with \
             truncate -s SIZE): No such file or directory (os error 2)",
        ),
        (
            "file",
            &["dir=/no/such"],
            "cannot serve the directory /no/such: No such file or directory (os error 2)",
        ),
    ];
    let all: Vec<_> = BUILT_IN.iter().map(|entry| entry.name).collect();
    for (plugin, params, text) in table {
        assert_eq!(refusal(plugin, params), text.replace("ALL", &all.join(", ")));
    }
}
