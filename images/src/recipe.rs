//! The store: one folder an image, named by what went into it, built once.
//!
//! Every recipe goes through [`Store::get`]. Two processes that want the same image wait for one
//! another; a build that fails or is interrupted leaves nothing that looks like an image.

use std::{
    fs::{self, File},
    hash::{DefaultHasher, Hasher},
    path::{Path, PathBuf},
    time::Instant,
};

use crate::{Error, run};

/// What an image is made of, boiled down. Two keys that differ name different images.
#[derive(Debug, Clone)]
pub(crate) struct Key(DefaultHasher);

impl Key {
    /// `recipe` names the recipe and its version: a recipe that changes changes it.
    pub(crate) fn new(recipe: &str) -> Self {
        Self(DefaultHasher::new()).text(recipe)
    }

    pub(crate) fn text(mut self, text: &str) -> Self {
        self.0.write_usize(text.len());
        self.0.write(text.as_bytes());
        self
    }

    /// The content of a file.
    pub(crate) fn file(mut self, path: &Path) -> Result<Self, Error> {
        let bytes = run::read(path)?;
        self.0.write_usize(bytes.len());
        self.0.write(&bytes);
        Ok(self)
    }

    fn name(&self) -> String {
        format!("{:016x}", self.0.finish())
    }
}

/// How the name of a folder ends until its image is whole.
const UNFINISHED: &str = ".part";

/// The folder of all images.
#[derive(Debug)]
pub(crate) struct Store {
    folder: PathBuf,
}

impl Store {
    pub(crate) fn at(folder: PathBuf) -> Result<Self, Error> {
        run::make_folder(&folder)?;
        Ok(Self { folder })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder of the image `name` made of `key`; `build` fills it if there is none yet.
    /// Older images of the same name go away.
    pub(crate) fn get(
        &self,
        name: &str,
        key: &Key,
        build: impl FnOnce(&Path) -> Result<(), Error>,
    ) -> Result<PathBuf, Error> {
        let full = format!("{name}-{}", key.name());
        let done = self.folder.join(&full);
        let _lock = self.lock(name)?;
        if done.is_dir() {
            return Ok(done);
        }
        self.forget(name)?;
        let (started, unfinished) =
            (Instant::now(), self.folder.join(format!("{full}{UNFINISHED}")));
        say(&format!("building {name} ..."));
        run::make_folder(&unfinished)?;
        build(&unfinished)?;
        fs::rename(&unfinished, &done).map_err(Error::file("rename", &unfinished))?;
        say(&format!("built {name} in {:.1} s", started.elapsed().as_secs_f32()));
        Ok(done)
    }

    /// The image `name` that is there, whatever it was made of.
    pub(crate) fn existing(&self, name: &str) -> Option<PathBuf> {
        let folders = fs::read_dir(&self.folder).ok()?;
        folders.filter_map(|entry| Some(entry.ok()?.path())).find(|path| {
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            path.is_dir() && image_of(&file) == Some(name) && !file.ends_with(UNFINISHED)
        })
    }

    /// Waits until no other process builds `name`; until the file is dropped none can.
    pub(crate) fn lock(&self, name: &str) -> Result<File, Error> {
        let path = self.folder.join(format!("{name}.lock"));
        let file = File::create(&path).map_err(Error::file("create", &path))?;
        file.lock().map_err(Error::file("lock", &path))?;
        Ok(file)
    }

    /// Removes what other inputs, or an interrupted build, left behind.
    fn forget(&self, name: &str) -> Result<(), Error> {
        let entries = fs::read_dir(&self.folder).map_err(Error::file("list", &self.folder))?;
        for entry in entries {
            let path = entry.map_err(Error::file("list", &self.folder))?.path();
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_dir() && image_of(&file) == Some(name) {
                fs::remove_dir_all(&path).map_err(Error::file("remove", &path))?;
            }
        }
        Ok(())
    }
}

/// The image that a folder's name belongs to: what stands before the last dash.
fn image_of(folder: &str) -> Option<&str> {
    folder.rsplit_once('-').map(|(name, _key)| name)
}

/// Progress, for whoever waits: to stderr, because stdout belongs to the program.
pub(crate) fn say(what: &str) {
    eprintln!("images: {what}");
}

#[cfg(test)]
mod tests;
