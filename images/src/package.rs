//! The agent's Debian package, by `cargo deb`: what is in it stands in agent/Cargo.toml. Made anew
//! each time, which takes a second or two.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    Error,
    binaries::{Binaries, PROFILE, TARGET},
    run,
};

/// Builds it around binaries that are there already.
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
