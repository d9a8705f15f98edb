//! The descriptors that the supervisor keeps, by the rules of systemd's store (FDSTORE=1 in sd_notify(3)).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::sys::scm;

/// Maximum number of descriptors that are kept. A listener is one. A VM has a record, a connection, some regions of memory
/// and two descriptors for each of three queues, about 14: room for about 70 VMs.
pub(super) const MOST: usize = 1024;
/// Maximum length of all names together in bytes. They are one variable, and the kernel takes at most 128 KiB for that
/// (`MAX_ARG_STRLEN`).
const NAMES: usize = 120 * 1024;
/// Maximum length of a name in bytes.
const NAME: usize = 255;
/// The name of a descriptor that has none, or none that is allowed.
const STORED: &str = "stored";

#[derive(Debug)]
struct Entry {
    name: String,
    file: OwnedFd,
    /// Whether it is dropped when it reports a hangup or an error.
    polled: bool,
}

/// In the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Store(Vec<Entry>);

/// The store has no room.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Store {
    /// Keeps a descriptor. One that is kept already, whatever its name, is not kept twice.
    pub(super) fn add(&mut self, name: &str, file: OwnedFd, polled: bool) -> Result<(), Full> {
        let allowed = name.len() <= NAME
            && name.bytes().all(|byte| (byte.is_ascii_graphic() || byte == b' ') && byte != b':');
        let name = if allowed && !name.is_empty() { name } else { STORED };
        if self.0.iter().any(|it| scm::is_one_open_file(it.file.as_fd(), file.as_fd())) {
            return Ok(());
        }
        if self.0.len() >= MOST || self.names().len() + name.len() + 1 > NAMES {
            return Err(Full);
        }
        self.0.push(Entry { name: name.to_owned(), file, polled });
        Ok(())
    }

    /// Closes all descriptors of this name.
    pub(super) fn remove(&mut self, name: &str) {
        self.0.retain(|entry| entry.name != name);
    }

    /// Keeps only the polled descriptors for which `stays` returns true, in their order.
    pub(super) fn retain_polled(&mut self, mut stays: impl FnMut() -> bool) {
        self.0.retain(|entry| !entry.polled || stays());
    }

    pub(super) fn polled(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.iter().filter(|entry| entry.polled).map(|entry| entry.file.as_fd())
    }

    pub(super) fn files(&self) -> Vec<BorrowedFd<'_>> {
        self.0.iter().map(|entry| entry.file.as_fd()).collect()
    }

    /// The names of `files`, as in LISTEN_FDNAMES.
    pub(super) fn names(&self) -> String {
        let names: Vec<_> = self.0.iter().map(|entry| entry.name.as_str()).collect();
        names.join(":")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn names_are_those_of_systemd() {
        let mut store = Store::default();
        let first = file();
        store.add("a", first.try_clone().unwrap(), false).unwrap();
        store.add("again", first, false).unwrap();
        for name in ["b", "", "a:b", "a\n", "a"] {
            store.add(name, file(), false).unwrap();
        }
        assert_eq!(store.names(), "a:b:stored:stored:stored:a");
        store.remove("a");
        store.remove("none");
        assert_eq!(store.names(), "b:stored:stored:stored");
        assert_eq!(store.files().len(), 4);
    }

    #[test]
    fn a_full_store_takes_no_more_until_one_is_removed() {
        let mut store = Store::default();
        let long = "x".repeat(NAME);
        let taken = (0..MOST).take_while(|_| store.add(&long, file(), false).is_ok()).count();
        assert_eq!(taken, NAMES / (NAME + 1));
        assert_eq!(store.add("x", file(), false), Err(Full));
        store.remove(&long);
        for _ in 0..MOST {
            store.add("x", file(), false).unwrap();
        }
        assert_eq!(store.add("x", file(), false), Err(Full));
    }
}
