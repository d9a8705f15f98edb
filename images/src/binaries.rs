//! Our own binaries for the guests: linked statically, so that they run in any userland or in
//! none, and stripped, because they travel into initramfs images.

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
/// A profile of the workspace's Cargo.toml.
pub(crate) const PROFILE: &str = "guest";

/// Where the binaries are.
#[derive(Debug, Clone)]
pub struct Binaries {
    pub agent: PathBuf,
    pub guest_tools: PathBuf,
    /// cargo's target folder of these.
    pub(crate) folder: PathBuf,
}

impl Binaries {
    /// Asks cargo every time: it alone knows whether they are up to date.
    pub(crate) fn build(workspace: &Path, target: &Path, store: &Store) -> Result<Self, Error> {
        // A folder of its own: the flags would make cargo build everything else anew, and a
        // `cargo test` that called us holds the lock of the common one.
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
