//! Runs the programs that build images, and reads and writes files, with errors that say what was tried.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::Error;

/// Programs that may be missing, and their Debian packages. A program that is not listed has the name of its
/// package.
const PACKAGES: &[(&str, &str)] = &[
    ("mke2fs", "e2fsprogs"),
    ("depmod", "kmod"),
    ("xz", "xz-utils"),
    ("apt-get", "apt"),
    ("apt-cache", "apt"),
    ("dpkg-deb", "dpkg"),
    ("cargo-deb", "cargo-deb (cargo install --locked cargo-deb)"),
];

/// Runs `command` and returns its standard output.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>, Error> {
    let program = command.get_program().to_string_lossy().into_owned();
    let done = command.stdin(Stdio::null()).output().map_err(|source| {
        let package = PACKAGES.iter().find(|(name, _)| *name == program).map_or(&*program, |p| p.1);
        Error::Missing { package: package.to_owned(), program: program.clone(), source }
    })?;
    if done.status.success() {
        return Ok(done.stdout);
    }
    let mut said = String::from_utf8_lossy(&done.stdout).into_owned();
    said.push_str(&String::from_utf8_lossy(&done.stderr));
    Err(Error::Failed { command: shown(command), status: done.status, output: said })
}

/// Runs `command` and returns its standard output as text.
pub(crate) fn text(command: &mut Command) -> Result<String, Error> {
    Ok(String::from_utf8_lossy(&output(command)?).into_owned())
}

/// Unpacks `file`, which `program` (xz, zstd or lz4) has packed.
pub(crate) fn unpack(program: &str, file: &Path) -> Result<Vec<u8>, Error> {
    output(Command::new(program).args(["--quiet", "--decompress", "--stdout"]).arg(file))
}

fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy()];
    words.extend(command.get_args().map(|word| word.to_string_lossy()));
    words.join(" ")
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(Error::file("read", path))
}

pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    fs::write(path, bytes).map_err(Error::file("write", path))
}

pub(crate) fn make_folder(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(Error::file("create the folder", path))
}

pub(crate) fn remove_file(path: &Path) -> Result<(), Error> {
    fs::remove_file(path).map_err(Error::file("remove", path))
}

/// The paths in a folder, sorted by name.
pub(crate) fn list(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = fs::read_dir(folder).map_err(Error::file("list", folder))?;
    let mut paths = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(Error::file("list", folder))?;
    paths.sort();
    Ok(paths)
}

/// The first file named `name` in `folder` or its subfolders.
pub(crate) fn find(folder: &Path, name: &str) -> Result<Option<PathBuf>, Error> {
    for path in list(folder)? {
        if path.is_dir() {
            if let Some(found) = find(&path, name)? {
                return Ok(Some(found));
            }
        } else if path.file_name().is_some_and(|file| file == name) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}
