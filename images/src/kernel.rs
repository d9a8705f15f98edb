//! Debian's newest cloud kernel, with its modules: fetched by apt from wherever this machine's
//! packages come from, unpacked, and never installed.

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

/// What the tiny guest loads, in an order that satisfies what each needs. No more than a disk over vsock
/// takes: the kernel checks each one's signature, which is slow in an emulated guest.
pub(crate) const TINY_MODULES: &[&str] =
    &["vsock", "vmw_vsock_virtio_transport_common", "vmw_vsock_virtio_transport"];

/// What must be there before the Debian host finds its root filesystem.
pub(crate) const ROOT_MODULES: &[&str] = &["virtio_blk", "overlay"];

/// An unpacked kernel package.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// As `uname -r` says it.
    pub release: String,
    pub(crate) folder: PathBuf,
}

impl Kernel {
    pub(crate) fn fetch(store: &Store) -> Result<Self, Error> {
        if let Some(known) = known(store) {
            return Ok(known);
        }
        let package = newest()?;
        let folder = store.get("kernel", &Key::new("kernel 2").text(&package), |folder| {
            say(&format!("fetching {package} (35 MB)"));
            // As root apt would drop to a user of its own, who may not write here.
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

    /// The kernel itself, unpacked: an emulated machine takes seconds to unpack it, and one
    /// emulated in an emulated one most of a minute. QEMU starts it by its PVH entry.
    pub(crate) fn image(&self) -> PathBuf {
        self.folder.join("vmlinux")
    }

    /// The kernel as the package has it.
    fn packed(&self) -> PathBuf {
        self.folder.join(format!("boot/vmlinuz-{}", self.release))
    }

    /// The folder that holds `lib/modules/RELEASE`.
    pub(crate) fn modules_root(&self) -> Result<PathBuf, Error> {
        [self.folder.clone(), self.folder.join("usr")]
            .into_iter()
            .find(|root| root.join("lib/modules").join(&self.release).is_dir())
            .ok_or_else(|| Error::KernelWithout {
                package: self.release.clone(),
                what: "lib/modules".to_owned(),
            })
    }

    /// Puts modules into `archive` as `modules/NN-NAME.ko`, to be loaded in that order.
    pub(crate) fn add_modules(&self, archive: &mut Cpio, names: &[&str]) -> Result<(), Error> {
        let tree = self.modules_root()?.join("lib/modules").join(&self.release).join("kernel");
        for (index, name) in names.iter().enumerate() {
            archive.file(
                &format!("modules/{index:02}-{name}.ko"),
                0o644,
                &self.module(&tree, name)?,
            );
        }
        Ok(())
    }

    /// A module, decompressed: that is slow in an emulated guest.
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

/// The kernel inside a bzImage. Where the payload is: Documentation/arch/x86/boot.rst of the
/// kernel's source, `setup_sects`, `payload_offset` and `payload_length`.
fn unpack(folder: &Path, image: &Path) -> Result<Vec<u8>, Error> {
    let bytes = run::read(image)?;
    let payload = payload_of(&bytes).unwrap_or_default();
    let program = match payload {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        [0xfd, b'7', b'z', b'X', b'Z', ..] => "xz",
        _ => {
            return Err(Error::KernelWithout {
                package: image.display().to_string(),
                what: "payload packed by zstd or xz".to_owned(),
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
    // The last four bytes are the unpacked length, which is no part of the archive.
    image.get(start..start + word(0x24c)?.checked_sub(4)?)
}

/// A kernel fetched before. It is kept until `target/images` goes: tests do not ask the network
/// whether there is a newer one.
fn known(store: &Store) -> Option<Kernel> {
    let folder = store.existing("kernel")?;
    let release = std::fs::read_to_string(folder.join("release")).ok()?;
    let kernel = Kernel { release, folder };
    kernel.image().is_file().then_some(kernel)
}

const PREFIX: &str = "linux-image-";
const SUFFIX: &str = "-unsigned";

/// `linux-image-6.12.117+deb12-cloud-amd64-unsigned` to `6.12.117+deb12-cloud-amd64`.
fn release_of(package: &str) -> String {
    let name = package.strip_prefix(PREFIX).unwrap_or(package);
    name.strip_suffix(SUFFIX).unwrap_or(name).to_owned()
}

/// The name of the newest cloud kernel's package that apt knows.
fn newest() -> Result<String, Error> {
    let pattern = "^linux-image-[0-9].*-cloud-amd64-unsigned$";
    let found = run::text(Command::new("apt-cache").args(["search", "--names-only", pattern]))?;
    newest_of(found.lines().filter_map(|line| line.split_whitespace().next()))
        .map(str::to_owned)
        .ok_or(Error::NoKernel)
}

/// By the numbers in the name, one after another: 6.12.117 is newer than 6.12.95 and 6.1.0-56.
fn newest_of<'a>(packages: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    packages.max_by_key(|package| {
        let numbers = package.split(|c: char| !c.is_ascii_digit());
        numbers.filter_map(|digits| digits.parse::<u64>().ok()).collect::<Vec<_>>()
    })
}

#[cfg(test)]
mod tests {
    use super::{newest_of, release_of};

    #[test]
    fn the_newest_kernel_is_newest_by_its_numbers() {
        let packages = [
            "linux-image-6.1.0-56-cloud-amd64-unsigned",
            "linux-image-6.12.117+deb12-cloud-amd64-unsigned",
            "linux-image-6.12.95+deb12-cloud-amd64-unsigned",
        ];
        assert_eq!(newest_of(packages.into_iter()), Some(packages[1]));
        assert_eq!(release_of(packages[1]), "6.12.117+deb12-cloud-amd64");
    }
}
