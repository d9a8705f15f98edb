use std::{
    fs::{self, File},
    os::unix::fs::symlink,
};

use nix::sys::stat::Mode;
use tempfile::TempDir;

use super::*;
use crate::exports::{list_now, open_now};
use disk::{
    file::Cache,
    testing::{bytes_of, read, write},
};

/// The directory `served/` with a few files, and a file beside it that must stay out of reach.
fn directory() -> (TempDir, Directory) {
    let top = tempfile::tempdir_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap();
    let served = top.path().join("served");
    fs::create_dir_all(served.join("sub")).unwrap();
    fs::write(top.path().join("secret"), "secret").unwrap();
    for name in ["b", "a", ".hidden", "with space"] {
        fs::write(served.join(name), [b'x'; 4096]).unwrap();
    }
    fs::write(served.join("sub/inner"), "inner").unwrap();
    nix::unistd::mkfifo(&served.join("fifo"), Mode::S_IRWXU).unwrap();
    symlink("a", served.join("link-to-a")).unwrap();
    symlink("sub/inner", served.join("link-below")).unwrap();
    symlink("../secret", served.join("link-out")).unwrap();
    symlink(top.path().join("secret"), served.join("link-absolute")).unwrap();
    symlink("/proc/self/exe", served.join("link-magic")).unwrap();
    symlink("missing", served.join("link-dangling")).unwrap();
    symlink("link-loop", served.join("link-loop")).unwrap();
    symlink("fifo", served.join("link-fifo")).unwrap();
    let exports = Directory::open(&served, Options::default()).unwrap();
    (top, exports)
}

#[test]
fn the_files_are_listed_in_order() {
    let (_top, exports) = directory();
    let names: Vec<_> = list_now(&exports).unwrap().into_iter().map(|listed| listed.name).collect();
    assert_eq!(names, [".hidden", "a", "b", "link-below", "link-to-a", "with space"]);
    for name in names {
        open_now(&exports, &name).unwrap();
    }
}

#[test]
fn nothing_else_is_an_export() {
    let (_top, exports) = directory();
    for name in [
        "",
        ".",
        "..",
        "/",
        "missing",
        "sub",
        "sub/inner",
        "./a",
        "../secret",
        "a/",
        "a\0",
        "a/../a",
        "/etc/passwd",
        "fifo",
        "link-out",
        "link-absolute",
        "link-magic",
        "link-dangling",
        "link-loop",
        "link-fifo",
    ] {
        assert!(matches!(open_now(&exports, name), Err(OpenError::Unknown)), "{name:?}");
    }
    assert!(matches!(open_now(&exports, &"x".repeat(4096)), Err(OpenError::Unknown)));
}

#[test]
fn clients_that_open_a_file_by_different_names_share_its_writes() {
    let (_top, exports) = directory();
    let first = open_now(&exports, "a").unwrap();
    let second = open_now(&exports, "link-to-a").unwrap();
    write(&*first, 0, b"one");
    assert_eq!(bytes_of(&read(&*second, 0, 3)), b"one");
    assert_eq!(first.info().identity, second.info().identity);
}

#[test]
fn a_client_sees_a_file_that_grew_or_was_replaced_before_it_came() {
    let (top, _) = directory();
    let served = top.path().join("served");
    for cache in [Cache::Default, Cache::None] {
        fs::write(served.join("a"), [b'x'; 4096]).unwrap();
        let options = Options { cache, ..Options::default() };
        let exports = Directory::open(&served, options).unwrap();
        let before = open_now(&exports, "a").unwrap();
        File::options().write(true).open(served.join("a")).unwrap().set_len(9999).unwrap();
        let after = open_now(&exports, "a").unwrap();
        assert_eq!((before.info().size, after.info().size), (4096, 9999));
        fs::rename(served.join("b"), served.join("a")).unwrap();
        let other = open_now(&exports, "a").unwrap();
        assert_ne!(other.info().identity, after.info().identity);
        assert_eq!(bytes_of(&read(&*other, 0, 1)), b"x");
        fs::write(served.join("b"), [b'x'; 4096]).unwrap();
    }
}

#[test]
fn a_new_file_is_an_export_and_a_directory_that_moved_is_still_served() {
    let (top, exports) = directory();
    fs::rename(top.path().join("served"), top.path().join("moved")).unwrap();
    fs::write(top.path().join("moved/new"), "new").unwrap();
    assert!(list_now(&exports).unwrap().iter().any(|listed| listed.name == "new"));
    open_now(&exports, "new").unwrap();
}

#[test]
fn a_file_is_no_directory() {
    let (top, _) = directory();
    let error = Directory::open(&top.path().join("secret"), Options::default()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOTDIR));
}
