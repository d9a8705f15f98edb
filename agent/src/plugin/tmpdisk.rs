//! A fresh disk for each connection, removed at its end: nbdkit-tmpdisk-plugin(1).

use std::{
    env, fs,
    future::ready,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Entry, SIZE,
    made::{COMMAND, LABEL, MAX_TOTAL, Made, Maker, Place, TYPE, VARIABLE, failed},
};
use crate::{
    exports::{Exports, Listed, Listing, OpenError, Opened, Permit},
    shell,
    stack::Stack,
    sys,
};
use disk::{Disk, FileDisk, Payer, file::Options};

pub(super) const ENTRY: Entry = Entry {
    name: "tmpdisk",
    about: "A fresh filesystem per client, removed at its end; in TMPDIR or /var/tmp",
    keys: &[SIZE, TYPE, LABEL, COMMAND, MAX_TOTAL, VARIABLE],
    main: Some("size"),
    build: |params, _| Ok(Stack::new(Fresh { maker: Maker::parse(params)? })),
};

#[derive(Debug)]
struct Fresh {
    maker: Maker,
}

/// A directory for a disk that is being made. It is removed with its contents on drop.
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
            tracing::warn!("cannot remove the directory {}: {error}", self.0.display());
        }
    }
}

impl Fresh {
    async fn make(&self, permit: &Permit) -> Result<Arc<dyn Disk>, OpenError> {
        let permission = shell::turn(permit.tenant()).await;
        let place = self.maker.reserve(0)?;
        let workshop = permit.blocking(Workshop::new).await?.map_err(failed)?;
        let path = workshop.0.join("disk");
        let held = self.maker.make(&permission, &path, (workshop, place)).await?;
        let options = Options { read_only: permit.opening().read_only, ..Options::default() };
        let payer = permit.tenant().number();
        let take = move || {
            let _permission = permission;
            let (workshop, place) = held;
            take(workshop, place, options, payer)
        };
        permit.blocking(take).await?
    }
}

/// Opens the new disk and removes its name.
fn take(
    workshop: Workshop,
    mut place: Place,
    options: Options,
    payer: Payer,
) -> Result<Arc<dyn Disk>, OpenError> {
    let disk = FileDisk::open(&workshop.0.join("disk"), options);
    let disk = disk.map_err(|error| OpenError::because(&error))?.charged_to(payer);
    place.resize(disk.info().size, 0)?;
    // The file has no name from here on, so that it ends with the agent in any case.
    drop(workshop);
    Ok(Arc::new(Made::for_once(disk, place)))
}

impl Exports for Fresh {
    fn list<'a>(&'a self, _: &'a Permit) -> Listing<'a> {
        Box::pin(ready(Ok(vec![Listed { name: String::new(), description: None }])))
    }

    fn open<'a>(&'a self, _: &'a str, permit: &'a Permit) -> Opened<'a> {
        Box::pin(self.make(permit))
    }

    fn canonical<'a>(&'a self, name: &'a str) -> &'a str {
        name
    }
}
