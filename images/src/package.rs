//! The agent's Debian package, made by `cargo deb` from the metadata in agent/Cargo.toml. It is made each time, which
//! takes one or two seconds.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    Error,
    binaries::{Binaries, PROFILE, TARGET},
    run,
};

/// Packages binaries that were built before, and returns the path of the package.
pub(crate) fn build(workspace: &Path, binaries: &Binaries, to: &Path) -> Result<PathBuf, Error> {
    let package = to.join("nbd-agent.deb");
    run::output(
        Command::new("cargo-deb")
            .args(["--quiet", "--locked", "--package", "agent", "--no-build", "--no-strip"])
            .args(["--target", TARGET, "--profile", PROFILE, "--output"])
            .arg(&package)
            .current_dir(workspace)
            .env("CARGO_TARGET_DIR", &binaries.folder),
    )?;
    Ok(package)
}
