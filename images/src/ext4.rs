//! ext4 images: the VM host's root filesystem, and the small disk with the files that change often.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    Error, Tool,
    kernel::Kernel,
    recipe::{Key, Store},
    run,
};

const ROOT_SCRIPT: &str = include_str!("../debian-host/root.sh");

/// The root filesystem of the VM host.
pub(crate) fn root(store: &Store, userland: &Path, kernel: &Kernel) -> Result<PathBuf, Error> {
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("debian-host");
    let made_of = userland.to_string_lossy();
    let mut key = Key::new("host-root 1").text(&made_of).text(&kernel.release).text(ROOT_SCRIPT);
    for file in ["lab-shell", "lab-shell.service", "lab-init"] {
        key = key.file(&recipe.join(file))?;
    }
    let modules = kernel.modules_root()?;
    let folder = store.get("host-root", &key, |folder| {
        run::output(
            as_root("sh")
                .args(["-e", "-c", ROOT_SCRIPT, "root.sh"])
                .arg(userland)
                .arg(modules)
                .arg(&recipe)
                .arg(folder.join("root.ext4")),
        )?;
        Ok(())
    })?;
    Ok(folder.join("root.ext4"))
}

/// A disk with these files.
pub(crate) fn tools(store: &Store, tools: &[Tool]) -> Result<PathBuf, Error> {
    let mut key = Key::new("tools 1");
    for tool in tools {
        key = key.text(&tool.name).file(&tool.source)?;
    }
    let folder = store.get("tools", &key, |folder| {
        let tree = folder.join("tree");
        let mut bytes = 0;
        for tool in tools {
            let to = tree.join(&tool.name);
            run::make_folder(to.parent().unwrap_or(&tree))?;
            bytes += fs::copy(&tool.source, &to).map_err(Error::file("copy", &tool.source))?;
        }
        let megabytes = bytes / (1 << 20) * 11 / 10 + 8;
        run::output(
            as_root("mke2fs")
                .args(["-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-L", "tools", "-d"])
                .arg(&tree)
                .arg(folder.join("tools.ext4"))
                .arg(format!("{megabytes}M")),
        )?;
        fs::remove_dir_all(&tree).map_err(Error::file("remove", &tree))
    })?;
    Ok(folder.join("tools.ext4"))
}

/// Runs a program as root, or under fakeroot: the files of the images belong to root.
fn as_root(program: &str) -> Command {
    if nix::unistd::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("fakeroot");
    command.arg(program);
    command
}
