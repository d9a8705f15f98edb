//! Debian's cloud kernels with their modules: downloaded by apt from this machine's package sources and unpacked,
//! but not installed.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    Error,
    cpio::Cpio,
    recipe::{Key, Store, say},
    run,
};

/// The modules that the tiny guest loads, each after those that it depends on. Only the modules for a disk over
/// vsock: the kernel checks the signature of each, which is slow in an emulated guest.
pub(crate) const TINY_MODULES: &[&str] =
    &["vsock", "vmw_vsock_virtio_transport_common", "vmw_vsock_virtio_transport"];

/// Modules that come before them where they are not built in, as in Debian's 6.1, in whose later updates `virtio`
/// depends on `virtio_ring`.
pub(crate) const TINY_BUS: &[&str] =
    &["virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci"];

/// Block drivers in the tiny guest, which `guest-tools attach` loads when it needs one.
pub(crate) const TINY_DRIVERS: &[&str] = &["ublk_drv", "nbd"];

/// Modules that the Debian host needs to mount its root filesystem.
pub(crate) const ROOT_MODULES: &[&str] = &["virtio_blk", "overlay"];

/// Which of the cloud kernels that apt knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Age {
    Newest,
    /// A second kernel for guests, since users have older kernels too.
    Oldest,
}

impl Age {
    /// The name of the image `name` that is made with this kernel.
    pub(crate) fn image(self, name: &str) -> String {
        match self {
            Self::Newest => name.to_owned(),
            Self::Oldest => format!("old_{name}"),
        }
    }
}

/// An unpacked kernel package.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// The release, as `uname -r` prints it.
    pub release: String,
    pub(crate) folder: PathBuf,
}

impl Kernel {
    pub(crate) fn fetch(store: &Store, age: Age) -> Result<Self, Error> {
        let name = age.image("kernel");
        if let Some(known) = known(store, &name) {
            return Ok(known);
        }
        let package = package(age)?;
        let folder = store.get(&name, &Key::new("kernel 2").text(&package), |folder| {
            say(&format!("fetching {package} (35 MB)"));
            // As root, apt would download as its own user, which may not write to this folder.
            run::output(
                Command::new("apt-get")
                    .args(["-q", "-o", "APT::Sandbox::User=root", "download", &package])
                    .current_dir(folder),
            )?;
            for archive in run::list(folder)? {
                run::output(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(folder))?;
                run::remove_file(&archive)?;
            }
            let unpacked = Self { release: release_of(&package), folder: folder.to_path_buf() };
            unpacked.modules_root()?;
            run::write(&unpacked.image(), &unpack(folder, &unpacked.packed())?)?;
            run::write(&folder.join("release"), unpacked.release.as_bytes())
        })?;
        Ok(Self { release: release_of(&package), folder })
    }

    /// The unpacked kernel, which QEMU starts by its PVH entry. An emulated machine takes seconds to unpack a kernel,
    /// and a nested one most of a minute.
    pub(crate) fn image(&self) -> PathBuf {
        self.folder.join("vmlinux")
    }

    /// The packed kernel of the package.
    fn packed(&self) -> PathBuf {
        self.folder.join(format!("boot/vmlinuz-{}", self.release))
    }

    /// The folder that has `lib/modules/RELEASE`.
    pub(crate) fn modules_root(&self) -> Result<PathBuf, Error> {
        [self.folder.clone(), self.folder.join("usr")]
            .into_iter()
            .find(|root| root.join("lib/modules").join(&self.release).is_dir())
            .ok_or_else(|| Error::KernelWithout {
                package: self.release.clone(),
                what: "lib/modules".to_owned(),
            })
    }

    /// Adds modules to `archive` as `modules/NN-NAME.ko`. They are loaded in the order of their names.
    pub(crate) fn add_modules(&self, archive: &mut Cpio, names: &[&str]) -> Result<(), Error> {
        let tree = self.tree()?;
        for (index, name) in names.iter().enumerate() {
            archive.file(
                &format!("modules/{index:02}-{name}.ko"),
                0o644,
                &self.module(&tree, name)?,
            );
        }
        Ok(())
    }

    /// Adds modules to `archive` as `drivers/NAME.ko`.
    pub(crate) fn add_drivers(&self, archive: &mut Cpio, names: &[&str]) -> Result<(), Error> {
        let tree = self.tree()?;
        for name in names {
            archive.file(&format!("drivers/{name}.ko"), 0o644, &self.module(&tree, name)?);
        }
        Ok(())
    }

    /// Those of the modules that the package has. The others are built in, or do not exist in this release.
    pub(crate) fn has<'a>(&self, names: &[&'a str]) -> Result<Vec<&'a str>, Error> {
        let tree = self.tree()?;
        let is_there = |name: &str| -> Result<bool, Error> {
            let plain = run::find(&tree, &format!("{name}.ko"))?;
            Ok(plain.is_some() || run::find(&tree, &format!("{name}.ko.xz"))?.is_some())
        };
        let mut found = Vec::new();
        for name in names {
            if is_there(name)? {
                found.push(*name);
            }
        }
        Ok(found)
    }

    fn tree(&self) -> Result<PathBuf, Error> {
        Ok(self.modules_root()?.join("lib/modules").join(&self.release).join("kernel"))
    }

    /// A module, decompressed here because an emulated guest takes long for it.
    fn module(&self, tree: &Path, name: &str) -> Result<Vec<u8>, Error> {
        if let Some(path) = run::find(tree, &format!("{name}.ko"))? {
            return run::read(&path);
        }
        let file = format!("{name}.ko.xz");
        let path = run::find(tree, &file)?
            .ok_or_else(|| Error::KernelWithout { package: self.release.clone(), what: file })?;
        run::unpack("xz", &path)
    }
}

/// Unpacks the kernel in a bzImage. For the place of the payload see `setup_sects`, `payload_offset` and
/// `payload_length` in Documentation/arch/x86/boot.rst of the kernel's source.
fn unpack(folder: &Path, image: &Path) -> Result<Vec<u8>, Error> {
    let bytes = run::read(image)?;
    let payload = payload_of(&bytes).unwrap_or_default();
    let program = match payload {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        [0xfd, b'7', b'z', b'X', b'Z', ..] => "xz",
        [0x02, 0x21, 0x4c, 0x18, ..] => "lz4",
        _ => {
            return Err(Error::KernelWithout {
                package: image.display().to_string(),
                what: "payload packed by zstd, xz or lz4".to_owned(),
            });
        }
    };
    let packed = folder.join("payload");
    run::write(&packed, payload)?;
    let unpacked = run::unpack(program, &packed)?;
    run::remove_file(&packed)?;
    Ok(unpacked)
}

fn payload_of(image: &[u8]) -> Option<&[u8]> {
    let word = |at: usize| {
        let bytes = image.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    let setup = (usize::from(*image.get(0x1f1)?) + 1) * 512;
    let start = setup + word(0x248)?;
    // The last four bytes are the unpacked length and not part of the archive.
    image.get(start..start + word(0x24c)?.checked_sub(4)?)
}

/// The kernel that was downloaded before. It is used until `target/images` is removed: tests do not ask the network
/// for a newer one.
fn known(store: &Store, name: &str) -> Option<Kernel> {
    let folder = store.existing(name)?;
    let release = std::fs::read_to_string(folder.join("release")).ok()?;
    let kernel = Kernel { release, folder };
    kernel.image().is_file().then_some(kernel)
}

const PREFIX: &str = "linux-image-";
const SUFFIX: &str = "-unsigned";

/// The release in a package's name: `6.12.117+deb12-cloud-amd64` in
/// `linux-image-6.12.117+deb12-cloud-amd64-unsigned`.
fn release_of(package: &str) -> String {
    let name = package.strip_prefix(PREFIX).unwrap_or(package);
    name.strip_suffix(SUFFIX).unwrap_or(name).to_owned()
}

/// The name of a cloud kernel's package.
fn package(age: Age) -> Result<String, Error> {
    let pattern = "^linux-image-[0-9].*-cloud-amd64-unsigned$";
    let found = run::text(Command::new("apt-cache").args(["search", "--names-only", pattern]))?;
    let mut packages: Vec<_> =
        found.lines().filter_map(|line| line.split_whitespace().next()).collect();
    sort(&mut packages);
    let found = match age {
        Age::Newest => packages.last(),
        Age::Oldest => packages.first(),
    };
    found.map(|package| (*package).to_owned()).ok_or(Error::NoKernel)
}

/// Sorts by the numbers in the names: 6.12.117 is newer than 6.12.95 and 6.1.0-56.
fn sort(packages: &mut [&str]) {
    packages.sort_by_key(|package| {
        let numbers = package.split(|c: char| !c.is_ascii_digit());
        numbers.filter_map(|digits| digits.parse::<u64>().ok()).collect::<Vec<_>>()
    });
}

#[cfg(test)]
mod tests {
    use super::{release_of, sort};

    #[test]
    fn kernels_are_sorted_by_the_numbers_in_their_names() {
        let mut packages = [
            "linux-image-6.12.117+deb12-cloud-amd64-unsigned",
            "linux-image-6.1.0-56-cloud-amd64-unsigned",
            "linux-image-6.12.95+deb12-cloud-amd64-unsigned",
        ];
        sort(&mut packages);
        let releases = packages.map(release_of);
        let due =
            ["6.1.0-56-cloud-amd64", "6.12.95+deb12-cloud-amd64", "6.12.117+deb12-cloud-amd64"];
        assert_eq!(releases, due);
    }
}
