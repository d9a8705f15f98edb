//! The store: one folder per image, named after a hash of its inputs, built once.
//!
//! Every recipe uses [`Store::get`]. When two processes need the same image, one waits for the other. A build that
//! fails or is interrupted leaves nothing that looks like an image.

use std::{
    fs::{self, File},
    hash::{DefaultHasher, Hasher},
    path::{Path, PathBuf},
    time::Instant,
};

use crate::{Error, run};

/// A hash of an image's inputs. Different keys name different images.
#[derive(Debug, Clone)]
pub(crate) struct Key(DefaultHasher);

impl Key {
    /// `recipe` is the name and the version of the recipe. Change the version when the recipe changes.
    pub(crate) fn new(recipe: &str) -> Self {
        Self(DefaultHasher::new()).text(recipe)
    }

    /// Adds a text.
    pub(crate) fn text(mut self, text: &str) -> Self {
        self.0.write_usize(text.len());
        self.0.write(text.as_bytes());
        self
    }

    /// Adds the content of a file.
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

/// The end of a folder's name until its image is complete.
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

    /// The folder of the image `name` with the inputs `key`. If there is none yet, `build` fills it, and older images
    /// of the same name are removed.
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

    /// The image `name` with any inputs, if there is one.
    pub(crate) fn existing(&self, name: &str) -> Option<PathBuf> {
        let folders = fs::read_dir(&self.folder).ok()?;
        folders.filter_map(|entry| Some(entry.ok()?.path())).find(|path| {
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            path.is_dir() && image_of(&file) == Some(name) && !file.ends_with(UNFINISHED)
        })
    }

    /// Waits until no other process builds `name`. No other process can build it until the returned file is dropped.
    pub(crate) fn lock(&self, name: &str) -> Result<File, Error> {
        let path = self.folder.join(format!("{name}.lock"));
        let file = File::create(&path).map_err(Error::file("create", &path))?;
        file.lock().map_err(Error::file("lock", &path))?;
        Ok(file)
    }

    /// Removes images of other inputs, and what an interrupted build left.
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

/// The image that a folder belongs to: the part of its name before the last dash.
fn image_of(folder: &str) -> Option<&str> {
    folder.rsplit_once('-').map(|(name, _key)| name)
}

/// Prints progress to stderr; stdout belongs to the program.
pub(crate) fn say(what: &str) {
    eprintln!("images: {what}");
}

#[cfg(test)]
mod tests;
