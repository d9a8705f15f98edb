//! The store, in a temporary folder.

use std::{cell::Cell, fs};

use super::{Key, Store};

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::at(folder.path().join("images")).unwrap();
    (folder, store)
}

#[test]
fn an_image_is_built_once_and_again_when_its_input_changes() {
    let (_folder, store) = store();
    let builds = Cell::new(0);
    let get = |input: &str| {
        store.get("tiny", &Key::new("test").text(input), |folder| {
            builds.set(builds.get() + 1);
            fs::write(folder.join("image"), input).unwrap();
            Ok(())
        })
    };
    let first = get("a").unwrap();
    assert_eq!(get("a").unwrap(), first);
    assert_eq!(builds.get(), 1);
    let second = get("b").unwrap();
    assert_eq!(builds.get(), 2);
    assert_eq!(fs::read_to_string(second.join("image")).unwrap(), "b");
    assert!(!first.exists(), "the image of the old input is removed");
}

#[test]
fn an_interrupted_build_leaves_no_image() {
    let (_folder, store) = store();
    let key = Key::new("test");
    let interrupted = store.get("tiny", &key, |folder| {
        fs::write(folder.join("half"), "").unwrap();
        crate::run::read(&folder.join("missing")).map(drop)
    });
    assert!(interrupted.is_err());
    let folder = store.get("tiny", &key, |_| Ok(())).unwrap();
    assert!(!folder.join("half").exists());
}

#[test]
fn an_image_whose_name_begins_with_anothers_is_kept() {
    let (_folder, store) = store();
    let long = store.get("host-root", &Key::new("test"), |_| Ok(())).unwrap();
    store.get("host", &Key::new("test"), |_| Ok(())).unwrap();
    assert!(long.exists());
}
