//! A fresh disk for each connection, gone with it: nbdkit-tmpdisk-plugin(1).

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Entry, SIZE,
    made::{COMMAND, LABEL, MAX_TOTAL, Made, Maker, TYPE, VARIABLE, failed},
};
use crate::{
    exports::{Exports, Listed, OpenError, Permit},
    recipe::Stack,
    sys,
};
use disk::{Disk, FileDisk, file::Options};

pub(super) const ENTRY: Entry = Entry {
    name: "tmpdisk",
    about: "A fresh filesystem for each client, gone with it; in TMPDIR or /var/tmp",
    keys: &[SIZE, TYPE, LABEL, COMMAND, MAX_TOTAL, VARIABLE],
    main: Some("size"),
    build: |params, _| Ok(Stack::new(Fresh { maker: Maker::parse(params)? })),
};

#[derive(Debug)]
struct Fresh {
    maker: Maker,
}

/// A directory for one disk while it is made: what is in it goes with it.
struct Workshop(PathBuf);

impl Workshop {
    fn new() -> io::Result<Self> {
        let folder = env::var_os("TMPDIR").unwrap_or_else(|| "/var/tmp".into());
        let made = sys::process::private_directory(&Path::new(&folder).join("agentXXXXXX"));
        made.map(Self).map_err(|error| {
            let folder = Path::new(&folder).display();
            io::Error::new(
                error.kind(),
                format!("no disk can be made in {folder} (TMPDIR): {error}"),
            )
        })
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!("the directory {} stays behind: {error}", self.0.display());
        }
    }
}

impl Exports for Fresh {
    fn list(&self, _: &Permit) -> io::Result<Vec<Listed>> {
        Ok(vec![Listed { name: String::new(), description: None }])
    }

    fn open(&self, _: &str, permit: &Permit) -> Result<Arc<dyn Disk>, OpenError> {
        let mut place = self.maker.reserve(0)?;
        let workshop = Workshop::new().map_err(failed)?;
        let path = workshop.0.join("disk");
        self.maker.make(&path).map_err(failed)?;
        let options = Options { read_only: permit.opening().read_only, ..Options::default() };
        let disk = FileDisk::open(&path, options).map_err(|error| failed(error.into()))?;
        place.resize(disk.facts().size, 0)?;
        // From here on it has no name: whatever becomes of the agent, nothing stays behind.
        drop(workshop);
        Ok(Arc::new(Made::for_once(disk, place)))
    }

    fn canonical<'a>(&'a self, name: &'a str) -> &'a str {
        name
    }

    fn blocking(&self) -> bool {
        true
    }
}
