//! What is to be seen of this machine: files of /proc, /sys and /dev, and two harmless calls.
//! Nothing is changed and nobody is connected to.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};
use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;

use crate::sys;

/// PCI's number for virtio, and those of its vsock: a transitional device, and a modern one.
const PCI_VIRTIO: &str = "0x1af4";
const PCI_VSOCK: [u32; 2] = [0x1012, 0x1040 + VIRTIO_ID_VSOCK];

/// Modules that have to do with vsock, and what they are.
pub(super) const MODULES: [(&str, &str); 7] = [
    ("vsock", "AF_VSOCK itself"),
    ("vmw_vsock_virtio_transport", "a guest's way to its host, over virtio"),
    ("vmw_vsock_vmci_transport", "a guest's way to its host, of VMware"),
    ("hv_sock", "a guest's way to its host, of Hyper-V"),
    ("vhost_vsock", "a host's way to its guests"),
    ("vsock_loopback", "from this machine to itself"),
    ("virtio_pci", "virtio devices on PCI"),
];

/// A virtio device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Device {
    /// As below /sys/bus.
    pub(super) name: String,
    pub(super) driver: Option<String>,
}

/// What was found.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    pub(super) release: String,
    /// /sys is there.
    pub(super) sysfs: bool,
    /// The kernel has AF_VSOCK.
    pub(super) protocol: bool,
    /// Modules of `MODULES` that are in the kernel now, loaded or built in.
    pub(super) present: BTreeSet<&'static str>,
    /// Those that could be loaded; `None` where this kernel's modules are nowhere to be seen.
    pub(super) loadable: Option<BTreeSet<&'static str>>,
    /// Virtio's vsock devices, on the virtio bus.
    pub(super) vsock: Vec<Device>,
    /// The same on PCI, before or below the former.
    pub(super) pci: Vec<Device>,
    /// All kinds on the virtio bus.
    pub(super) virtio: usize,
    pub(super) node: bool,
    /// What /dev/vsock says.
    pub(super) cid: Result<u32, Errno>,
    /// What socket(AF_VSOCK) says.
    pub(super) socket: Result<(), Errno>,
}

impl Machine {
    /// This one.
    pub(super) fn this() -> Self {
        let mut machine = Self::below(Path::new("/"));
        machine.cid = File::open("/dev/vsock")
            .map_err(|error| errno(&error))
            .and_then(|file| sys::local_cid(&file));
        let flags = SockFlag::SOCK_CLOEXEC;
        machine.socket = socket(AddressFamily::Vsock, SockType::Stream, flags, None).map(drop);
        machine
    }

    /// What the files below a root say.
    pub(super) fn below(root: &Path) -> Self {
        let text = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
        let release = text("proc/sys/kernel/osrelease").trim().to_owned();
        let protocols = text("proc/net/protocols");
        let loaded = text("proc/modules");
        let folder = root.join("lib/modules").join(&release);
        let built_in = fs::read_to_string(folder.join("modules.builtin")).unwrap_or_default();
        let files = fs::read_to_string(folder.join("modules.dep"));
        let names = |list: &str| -> BTreeSet<&'static str> {
            let mut names = list.lines().filter_map(module_name).collect::<Vec<_>>();
            names.sort_unstable();
            let known = MODULES.iter().map(|(name, _)| *name);
            known.filter(|name| names.binary_search(&(*name).to_owned()).is_ok()).collect()
        };
        let mut present = names(&loaded);
        present.extend(names(&built_in));
        // Those built in that have parameters, where nothing tells of the others.
        let seen = |name: &str| root.join("sys/module").join(name).exists();
        present.extend(MODULES.iter().map(|(name, _)| *name).filter(|name| seen(name)));
        let virtio = devices(&root.join("sys/bus/virtio/devices"));
        let vsock = |path: &&PathBuf| number(path, "device") == Some(VIRTIO_ID_VSOCK);
        let pci = devices(&root.join("sys/bus/pci/devices"));
        let is_pci_vsock = |path: &&PathBuf| {
            fs::read_to_string(path.join("vendor")).is_ok_and(|id| id.trim() == PCI_VIRTIO)
                && number(path, "device").is_some_and(|id| PCI_VSOCK.contains(&id))
        };
        Self {
            release,
            sysfs: root.join("sys/bus").exists(),
            protocol: protocols.lines().any(|line| line.starts_with("AF_VSOCK ")),
            present,
            loadable: files.ok().map(|list| names(&list)),
            vsock: virtio.iter().filter(vsock).map(|path| device(path)).collect(),
            pci: pci.iter().filter(is_pci_vsock).map(|path| device(path)).collect(),
            virtio: virtio.len(),
            node: root.join("dev/vsock").exists(),
            cid: Err(Errno::ENOENT),
            socket: Ok(()),
        }
    }

    pub(super) fn has(&self, module: &str) -> bool {
        self.present.contains(module)
    }

    /// A module can be loaded, as far as is known.
    pub(super) fn can_load(&self, module: &str) -> Option<bool> {
        self.loadable.as_ref().map(|names| names.contains(module))
    }
}

/// Of a line of /proc/modules, modules.dep or modules.builtin.
fn module_name(line: &str) -> Option<String> {
    let word = line.split([' ', ':']).next()?;
    let file = word.rsplit('/').next()?;
    Some(file.split(".ko").next()?.replace('-', "_"))
}

fn devices(bus: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(bus).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn number(path: &Path, file: &str) -> Option<u32> {
    let text = fs::read_to_string(path.join(file)).ok()?;
    u32::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
}

fn device(path: &Path) -> Device {
    let last = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let driver = fs::read_link(path.join("driver")).ok();
    Device { name: last(path).unwrap_or_default(), driver: driver.and_then(|target| last(&target)) }
}

fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw)
}
