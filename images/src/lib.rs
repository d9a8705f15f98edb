//! Recipes for the guest and host images, built from Debian's packages and our own binaries.
//!
//! | image | what it is |
//! | --- | --- |
//! | [`Images::tiny`] | the kernel, a few modules, and `guest-tools` as process 1: boots in seconds |
//! | [`Images::host`] | a Debian with systemd, QEMU, libvirt and libnbd's tools: the VM host of the tests |
//! | [`Images::tools`] | a small disk with what changes often: the agent, guest-tools, scripts |
//! | [`Images::package`] | the agent's Debian package |
//!
//! Everything lands under `target/images`, in one folder an image, named by a hash of what went
//! into it: an image is built once, and again when an input changes. `tests` and the binary
//! `images` call this; it boots nothing and changes nothing outside `target/`.

mod binaries;
mod cpio;
mod debian;
mod error;
mod ext4;
mod kernel;
mod package;
mod recipe;
mod run;

use std::path::{Path, PathBuf};

pub use binaries::Binaries;
pub use error::Error;
use kernel::Age;
pub use kernel::Kernel;

use cpio::Cpio;
use recipe::{Key, Store};

/// What a direct kernel boot needs.
#[derive(Debug, Clone)]
pub struct Boot {
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
}

/// The Debian VM host: how to start it, and its root filesystem (ext4, to be attached read-only;
/// what the guest writes stays in its memory).
#[derive(Debug, Clone)]
pub struct Host {
    pub boot: Boot,
    pub root: PathBuf,
}

/// A file on the tools disk.
#[derive(Debug, Clone)]
pub struct Tool {
    /// Path on the disk, without a leading slash.
    pub name: String,
    pub source: PathBuf,
}

/// The place where images are built and kept.
#[derive(Debug)]
pub struct Images {
    workspace: PathBuf,
    target: PathBuf,
    store: Store,
}

impl Images {
    /// The store of this workspace: `target/images`, or the same below `CARGO_TARGET_DIR`.
    pub fn of_this_workspace() -> Result<Self, Error> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let workspace = here.parent().unwrap_or(here).to_path_buf();
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| workspace.join("target"), |dir| workspace.join(dir));
        let store = Store::at(target.join("images"))?;
        Ok(Self { workspace, target, store })
    }

    /// Where the images lie; also a place for what is learnt of this machine.
    pub fn folder(&self) -> &Path {
        self.store.folder()
    }

    /// The agent and guest-tools, linked statically and stripped.
    pub fn binaries(&self) -> Result<Binaries, Error> {
        Binaries::build(&self.workspace, &self.target, &self.store)
    }

    /// The agent as a Debian package, with the binary that guests get. Needs `cargo deb`.
    pub fn package(&self) -> Result<PathBuf, Error> {
        let binaries = self.binaries()?;
        package::build(&self.workspace, &binaries, self.store.folder())
    }

    /// Debian's newest cloud kernel.
    pub fn kernel(&self) -> Result<Kernel, Error> {
        Kernel::fetch(&self.store, Age::Newest)
    }

    /// The oldest one that apt knows.
    pub fn old_kernel(&self) -> Result<Kernel, Error> {
        Kernel::fetch(&self.store, Age::Oldest)
    }

    /// The tiny guest. What its kernel's command line has after `--`, guest-tools runs.
    pub fn tiny(&self) -> Result<Boot, Error> {
        self.tiny_of(Age::Newest)
    }

    /// The same with Debian's oldest cloud kernel that is to be had.
    pub fn old_tiny(&self) -> Result<Boot, Error> {
        self.tiny_of(Age::Oldest)
    }

    fn tiny_of(&self, age: Age) -> Result<Boot, Error> {
        let kernel = Kernel::fetch(&self.store, age)?;
        let init = self.binaries()?.guest_tools;
        let key = Key::new("tiny 5").text(&kernel.release).file(&init)?;
        let folder = self.store.get(&age.image("tiny"), &key, |folder| {
            let mut archive = Cpio::default();
            archive.file("init", 0o755, &run::read(&init)?);
            let bus = kernel.has(kernel::TINY_BUS)?;
            kernel.add_modules(&mut archive, &[&bus[..], kernel::TINY_MODULES].concat())?;
            kernel.add_drivers(&mut archive, &kernel.has(kernel::TINY_DRIVERS)?)?;
            run::write(&folder.join("initramfs"), &archive.finish())
        })?;
        Ok(Boot { kernel: kernel.image(), initramfs: folder.join("initramfs") })
    }

    /// The Debian VM host. Takes half a minute and some 200 MB of packages the first time.
    pub fn host(&self) -> Result<Host, Error> {
        let kernel = self.kernel()?;
        let userland = debian::userland(&self.store)?;
        let root = ext4::root(&self.store, &userland, &kernel)?;
        let initramfs = debian::initramfs(&self.store, &userland, &kernel)?;
        Ok(Host { boot: Boot { kernel: kernel.image(), initramfs }, root })
    }

    /// A small ext4 disk: `bin/agent`, `bin/guest-tools`, what boots an inner guest in `boot/`,
    /// and `more`.
    pub fn tools(&self, more: &[Tool]) -> Result<PathBuf, Error> {
        let (binaries, tiny, host) = (self.binaries()?, self.tiny()?, self.host()?);
        let mut all: Vec<Tool> = [
            ("bin/agent", binaries.agent),
            ("bin/guest-tools", binaries.guest_tools),
            ("boot/vmlinux", tiny.kernel),
            ("boot/tiny", tiny.initramfs),
            ("boot/debian", host.boot.initramfs),
        ]
        .map(|(name, source)| Tool { name: name.to_owned(), source })
        .into();
        all.extend_from_slice(more);
        ext4::tools(&self.store, &all)
    }
}
