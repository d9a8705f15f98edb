//! The workspace's binaries for the guests: statically linked, so that they run in any userland or in none, and
//! stripped, since they are part of initramfs images.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    Error,
    recipe::{Store, say},
    run,
};

pub(crate) const TARGET: &str = "x86_64-unknown-linux-gnu";
/// The profile in the workspace's Cargo.toml.
pub(crate) const PROFILE: &str = "guest";

/// The paths of the binaries.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// The agent.
    pub agent: PathBuf,
    /// guest-tools.
    pub guest_tools: PathBuf,
    /// The cargo target folder that they were built in.
    pub(crate) folder: PathBuf,
}

impl Binaries {
    /// Runs cargo every time, since only cargo knows whether the binaries are up to date.
    pub(crate) fn build(workspace: &Path, target: &Path, store: &Store) -> Result<Self, Error> {
        // A separate target folder: in the common one these flags would make cargo rebuild everything, and the
        // `cargo test` that called this function holds its lock.
        let folder = target.join("guest");
        let _lock = store.lock("binaries")?;
        let built = folder.join(TARGET).join(PROFILE);
        let binaries = Self {
            agent: built.join("agent"),
            guest_tools: built.join("guest-tools"),
            folder: folder.clone(),
        };
        if !binaries.guest_tools.exists() {
            say("building the agent and guest-tools for the guests (a minute or two) ...");
        }
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        run::output(
            Command::new(cargo)
                .args(["build", "--quiet", "--locked", "--profile", PROFILE, "--target", TARGET])
                .args(["--package", "agent", "--package", "guest-tools"])
                .current_dir(workspace)
                .env("CARGO_TARGET_DIR", &folder)
                .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static")
                .env_remove("RUSTFLAGS"),
        )?;
        Ok(binaries)
    }
}
