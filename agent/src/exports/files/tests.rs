use std::fs;

use super::*;
use crate::exports::open_now;
use disk::{
    file::Cache,
    testing::{bytes_of, read, write},
};

fn files(paths: &[&Path], layout: Layout) -> Files {
    Files::check(paths, layout, Options::default(), false).unwrap()
}

#[test]
fn the_next_client_sees_a_file_that_was_resized_or_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, [1; 4096]).unwrap();
    for cache in [Cache::Default, Cache::None] {
        let options = Options { cache, ..Options::default() };
        let Ok(exports) = Files::check(&[&path], Layout::Whole, options, false) else { continue };
        let open = || open_now(&exports, "any").unwrap();
        let (first, other) = (open(), open());
        write(&*first, 0, b"x");
        assert_eq!(bytes_of(&read(&*other, 0, 1)), b"x");
        write(&*other, 0, &[1]);
        fs::File::options().write(true).open(&path).unwrap().set_len(9999).unwrap();
        assert_eq!((first.info().size, open().info().size), (4096, 9999));
        fs::write(dir.path().join("new"), [2; 4096]).unwrap();
        fs::rename(dir.path().join("new"), &path).unwrap();
        let replaced = open();
        assert_eq!(bytes_of(&read(&*replaced, 0, 1)), [2]);
        assert_eq!(bytes_of(&read(&*first, 0, 1)), [1]);
        assert_ne!(replaced.info().identity, first.info().identity);
        fs::remove_file(&path).unwrap();
        assert!(matches!(open_now(&exports, ""), Err(OpenError::Failed(_))));
        fs::write(&path, [1; 4096]).unwrap();
    }
}

#[test]
fn of_joined_files_each_is_opened_anew() {
    let dir = tempfile::tempdir().unwrap();
    let paths = ["a", "b"].map(|name| dir.path().join(name));
    for path in &paths {
        fs::write(path, [1; 1000]).unwrap();
    }
    let exports = files(&[&paths[0], &paths[1]], Layout::Joined);
    let first = open_now(&exports, "").unwrap();
    fs::File::options().write(true).open(&paths[0]).unwrap().set_len(1500).unwrap();
    let second = open_now(&exports, "").unwrap();
    assert_eq!((first.info().size, second.info().size), (2000, 2500));
    write(&*first, 1000, b"b");
    assert_eq!(bytes_of(&read(&*second, 1500, 1)), b"b");
}

#[test]
fn a_file_that_cannot_be_opened_is_named_with_its_cause() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    assert!(Files::check(&[&path], Layout::Whole, Options::default(), false).is_err());
    fs::write(&path, "").unwrap();
    let exports = files(&[&path], Layout::Whole);
    fs::remove_file(&path).unwrap();
    let Err(OpenError::Failed(error)) = open_now(&exports, "") else { panic!("it was opened") };
    let why = error.source.unwrap().to_string();
    assert!(why.contains(path.to_str().unwrap()) && why.contains("No such file"), "{why}");
}

#[test]
fn a_file_that_is_kept_is_the_same_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, [1; 4096]).unwrap();
    let exports = Files::check(&[&path], Layout::Whole, Options::default(), true).unwrap();
    // Another user would be refused like this.
    let source = &exports.0.sources[0];
    let kept: Vec<_> = source.kept.iter().map(|(flags, _)| *flags).collect();
    assert!(kept.contains(&(OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NOCTTY)), "{kept:?}");
    assert_eq!(open_now(&exports, "").unwrap().info().size, 4096);
}
