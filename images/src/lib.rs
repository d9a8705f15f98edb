//! Recipes for the guest and host images, which are built from Debian's packages and this workspace's binaries.
//!
//! | image | what it is |
//! | --- | --- |
//! | [`Images::tiny`] | the kernel, a few modules, and `guest-tools` as process 1; it boots in seconds |
//! | [`Images::host`] | a Debian with systemd, QEMU, libvirt and libnbd's tools: the VM host of the tests |
//! | [`Images::tools`] | a small disk with the files that change often: the agent, guest-tools, scripts |
//! | [`Images::package`] | the agent's Debian package |
//!
//! Each image has a folder under `target/images`, whose name contains a hash of the image's inputs. An image is
//! built once, and again when an input changes. `tests`, the demo and the binary `images` call this crate. It boots
//! nothing and changes nothing outside `target/`.

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

/// The files for a direct kernel boot.
#[derive(Debug, Clone)]
pub struct Boot {
    /// The kernel, unpacked.
    pub kernel: PathBuf,
    /// The initramfs, a cpio archive.
    pub initramfs: PathBuf,
}

/// The Debian VM host.
#[derive(Debug, Clone)]
pub struct Host {
    /// The files to boot it with.
    pub boot: Boot,
    /// Its root filesystem (ext4). Attach it read-only: the guest's changes stay in the guest's memory.
    pub root: PathBuf,
}

/// A file on the tools disk.
#[derive(Debug, Clone)]
pub struct Tool {
    /// Path on the disk, without a leading slash.
    pub name: String,
    /// The file that is copied.
    pub source: PathBuf,
}

/// The place where images are built and stored. Each method builds its image unless it is there already.
///
/// # Errors
/// Every method returns [`Error`] if a program is missing or fails, or a file cannot be read or written.
#[derive(Debug)]
pub struct Images {
    workspace: PathBuf,
    target: PathBuf,
    store: Store,
}

impl Images {
    /// The store of this workspace: `target/images`, or `images` in `CARGO_TARGET_DIR`.
    pub fn of_this_workspace() -> Result<Self, Error> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let workspace = here.parent().unwrap_or(here).to_path_buf();
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| workspace.join("target"), |dir| workspace.join(dir));
        let store = Store::at(target.join("images"))?;
        Ok(Self { workspace, target, store })
    }

    /// The folder of the images. The tests also store facts about this machine there.
    pub fn folder(&self) -> &Path {
        self.store.folder()
    }

    /// The agent and guest-tools, statically linked and stripped.
    pub fn binaries(&self) -> Result<Binaries, Error> {
        Binaries::build(&self.workspace, &self.target, &self.store)
    }

    /// The agent as a Debian package, with the statically linked binary. Needs `cargo deb`.
    pub fn package(&self) -> Result<PathBuf, Error> {
        let binaries = self.binaries()?;
        package::build(&self.workspace, &binaries, self.store.folder())
    }

    /// The newest of Debian's cloud kernels that apt knows.
    pub fn kernel(&self) -> Result<Kernel, Error> {
        Kernel::fetch(&self.store, Age::Newest)
    }

    /// The oldest of Debian's cloud kernels that apt knows.
    pub fn old_kernel(&self) -> Result<Kernel, Error> {
        Kernel::fetch(&self.store, Age::Oldest)
    }

    /// The tiny guest. `guest-tools` runs the command after `--` on the kernel's command line.
    pub fn tiny(&self) -> Result<Boot, Error> {
        self.tiny_of(Age::Newest)
    }

    /// The tiny guest with the oldest of Debian's cloud kernels that apt knows.
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

    /// The Debian VM host. The first build takes half a minute and downloads some 200 MB of packages.
    pub fn host(&self) -> Result<Host, Error> {
        let kernel = self.kernel()?;
        let userland = debian::userland(&self.store)?;
        let root = ext4::root(&self.store, &userland, &kernel)?;
        let initramfs = debian::initramfs(&self.store, &userland, &kernel)?;
        Ok(Host { boot: Boot { kernel: kernel.image(), initramfs }, root })
    }

    /// A small ext4 disk with `bin/agent`, `bin/guest-tools`, the files that boot an inner guest in `boot/`, and
    /// `more`.
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
