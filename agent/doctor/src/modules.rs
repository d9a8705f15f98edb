//! The modules of the kernel: those that it has, where others come from, and what keeps them out.

use std::path::Path;

use crate::machine::Machine;

/// The transport of VMware, for guests and hosts.
pub(crate) const VMCI: &str = "vmw_vsock_vmci_transport";
/// The transport of a guest of QEMU, Firecracker or Cloud Hypervisor.
pub(crate) const VIRTIO: &str = "vmw_vsock_virtio_transport";
/// The transport of a guest of Hyper-V.
pub(crate) const HYPERV: &str = "hv_sock";

/// A module that the kernel has, from /proc/modules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Module {
    pub(crate) name: String,
    /// Users: modules above it, open devices, connected sockets. `None`: it cannot be unloaded.
    pub(crate) users: Option<u32>,
    /// The modules among them.
    pub(crate) by: Vec<String>,
}

/// A module's file, as modules.dep names it.
pub(crate) struct ModuleFile {
    /// The path from the root of the machine.
    pub(crate) path: String,
}

impl ModuleFile {
    /// The name of the module.
    pub(crate) fn name(&self) -> String {
        name_of_file(&self.path)
    }
}

impl Machine {
    pub(crate) fn modules(&self) -> Vec<Module> {
        if let Some(text) = self.read("/proc/modules") {
            return text.lines().filter_map(module).collect();
        }
        // The file is hidden in a service with ProcSubset=pid. In sysfs a module that is built in has
        // no state.
        let names = self.list("/sys/module").into_iter();
        let loaded = names.filter(|name| self.has(&format!("/sys/module/{name}/initstate")));
        loaded.map(|name| self.in_sysfs(name)).collect()
    }

    fn in_sysfs(&self, name: String) -> Module {
        let users = self.value(&format!("/sys/module/{name}/refcnt"));
        let by = self.list(&format!("/sys/module/{name}/holders"));
        Module { name, users: users.and_then(|users| users.parse().ok()), by }
    }

    pub(crate) fn module(&self, name: &str) -> Option<Module> {
        self.modules().into_iter().find(|module| module.name == name)
    }

    /// Whether the module is in the kernel now, loaded or built in.
    pub(crate) fn in_kernel(&self, module: &str) -> bool {
        self.module(module).is_some()
            || self.source(module) == Source::BuiltIn
            // A module that is built in and has parameters, even where no list names it.
            || self.has(&format!("/sys/module/{module}"))
    }

    /// Where the running kernel would take the module from.
    pub(crate) fn source(&self, module: &str) -> Source {
        let release = self.release();
        let lists = |file: &str| -> Option<bool> {
            let text = self.read(&format!("/lib/modules/{release}/{file}"))?;
            Some(text.lines().any(|line| listed(line) == module))
        };
        match (lists("modules.builtin"), lists("modules.dep")) {
            (Some(true), _) => Source::BuiltIn,
            (_, Some(true)) => Source::File,
            (_, Some(false)) => Source::Missing,
            (_, None) => Source::Unknown,
        }
    }

    /// A module's file and those of the modules that it needs.
    pub(crate) fn files(&self, module: &str) -> Vec<ModuleFile> {
        let directory = format!("/lib/modules/{}", self.release());
        let text = self.read(&format!("{directory}/modules.dep")).unwrap_or_default();
        let line = text.lines().find(|line| listed(line) == module);
        let line = line.map(|line| line.replacen(':', " ", 1));
        let from_root = |path: &str| ModuleFile {
            path: if path.starts_with('/') { path.into() } else { format!("{directory}/{path}") },
        };
        line.iter().flat_map(|line| line.split_whitespace()).map(from_root).collect()
    }

    /// What keeps a module from being loaded on demand.
    pub(crate) fn kept_out(&self, module: &str) -> Option<Ban> {
        let file = self.configured(|words| match words {
            ["blacklist", name] => same(name, module),
            words => replaces(words, module),
        });
        file.map(Ban::of_file).or_else(|| {
            self.on_the_command_line(module, &["modprobe.blacklist=", "module_blacklist="])
        })
    }

    /// What keeps a module out even where another one depends on it: modprobe runs another command in
    /// its place, or the kernel refuses it.
    pub(crate) fn replaced(&self, module: &str) -> Option<Ban> {
        let file = self.configured(|words| replaces(words, module));
        file.map(Ban::of_file).or_else(|| self.on_the_command_line(module, &["module_blacklist="]))
    }

    fn on_the_command_line(&self, module: &str, words: &[&str]) -> Option<Ban> {
        let line = self.read("/proc/cmdline")?;
        let word = words.iter().find(|word| {
            let lists = line.split_whitespace().filter_map(|said| said.strip_prefix(**word));
            lists.flat_map(|list| list.split(',')).any(|name| same(name, module))
        })?;
        Some(Ban {
            by: format!("{word} on the kernel's command line"),
            lift: "reboot without its name in",
        })
    }

    /// The file in a directory modprobe.d that has a line for which `said` is true.
    fn configured(&self, said: impl Fn(&[&str]) -> bool) -> Option<String> {
        let directories =
            ["/etc/modprobe.d", "/run/modprobe.d", "/usr/lib/modprobe.d", "/lib/modprobe.d"];
        let said = |line: &str| said(&line.split_whitespace().collect::<Vec<_>>());
        self.paths_in(&directories)
            .into_iter()
            .filter(|path| Path::new(path).extension().is_some_and(|end| end == "conf"))
            .find(|path| self.read(path).is_some_and(|text| text.lines().any(said)))
    }
}

/// The setting by which an administrator has banned a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ban {
    /// The file, or the word on the kernel's command line.
    pub(crate) by: String,
    lift: &'static str,
}

impl Ban {
    fn of_file(by: String) -> Self {
        Self { by, lift: "take its line out of" }
    }

    /// How to lift the ban.
    pub(crate) fn lifted(&self) -> String {
        let Self { by, lift } = self;
        format!("{lift} {by}, then 'modprobe vhost_vsock'")
    }
}

/// Where a module comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    BuiltIn,
    File,
    Missing,
    /// There are no lists of modules for this kernel.
    Unknown,
}

/// The name of the module in a line of modules.dep or modules.builtin.
fn listed(line: &str) -> String {
    name_of_file(line.split(':').next().unwrap_or_default())
}

/// The name of a module, with '_' for '-', from the path of its file.
fn name_of_file(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or_default();
    file.split('.').next().unwrap_or_default().replace('-', "_")
}

fn module(line: &str) -> Option<Module> {
    let mut words = line.split_whitespace();
    let (name, _size, users) = (words.next()?.to_owned(), words.next()?, words.next()?);
    let by = words.next().unwrap_or("-").split(',');
    let by = by.filter(|name| !matches!(*name, "" | "-" | "[permanent]")).map(str::to_owned);
    Some(Module { name, users: users.parse().ok(), by: by.collect() })
}

/// Whether a line has modprobe do nothing in place of loading the module.
fn replaces(words: &[&str], module: &str) -> bool {
    matches!(words, ["install", name, command, ..]
        if same(name, module) && (command.ends_with("/false") || command.ends_with("/true")))
}

/// Compares names as modprobe does, which takes '-' for '_'.
fn same(name: &str, module: &str) -> bool {
    name.replace('-', "_") == module
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Tree;

    #[test]
    fn modules_their_files_and_their_bans_are_read() {
        let tree = Tree::new("6.1.0-18-amd64")
            .file("/proc/modules", "vsock 1 2 a,b, Live 0x0\nvhost 1 - - Live 0x0\n")
            .file("/lib/modules/6.1.0-18-amd64/modules.dep", "kernel/net/vsock.ko.xz: a.ko\n")
            .file("/lib/modules/6.1.0-18-amd64/modules.builtin", "kernel/d/loop.ko\n")
            .file("/etc/modprobe.d/a.conf", "# blacklist vsock\nblacklist vhost-vsock\n")
            .file("/etc/modprobe.d/b.conf", "install loop /bin/false\n");
        let machine = tree.machine();
        assert_eq!(machine.version(), Some((6, 1)));
        let vsock =
            Module { name: "vsock".into(), users: Some(2), by: vec!["a".into(), "b".into()] };
        assert_eq!(machine.module("vsock"), Some(vsock));
        assert_eq!(machine.module("vhost").unwrap().users, None);
        let hidden = Tree::new("6.1.0")
            .file("/sys/module/vsock/initstate", "live\n")
            .file("/sys/module/vsock/refcnt", "2\n")
            .file("/sys/module/vsock/holders/a", "")
            .file("/sys/module/vsock/holders/b", "")
            .file("/sys/module/built_in/parameters/x", "1\n");
        assert_eq!(hidden.machine().modules(), [machine.module("vsock").unwrap()]);
        assert_eq!(machine.module("vhost_vsock"), None);
        assert_eq!(machine.source("vsock"), Source::File);
        assert_eq!(machine.source("sock"), Source::Missing);
        assert_eq!(machine.source("loop"), Source::BuiltIn);
        let by = |module| machine.kept_out(module).map(|ban| ban.by);
        assert_eq!(by("vhost_vsock").as_deref(), Some("/etc/modprobe.d/a.conf"));
        assert_eq!(by("loop").as_deref(), Some("/etc/modprobe.d/b.conf"));
        assert_eq!(by("vsock"), None);
        let line = "quiet modprobe.blacklist=loop,vhost-vsock module_blacklist=vhost\n";
        let banned = Tree::new("6.1.0").file("/proc/cmdline", line);
        let by = |module| banned.machine().kept_out(module).map(|ban| ban.lifted());
        assert!(by("vhost_vsock").unwrap().contains("without its name in modprobe.blacklist= on"));
        assert!(by("vhost").unwrap().contains("module_blacklist="));
        assert_eq!(by("vsock"), None);
        // A module that modprobe's blacklist names is still loaded as a dependency.
        assert_eq!(banned.machine().replaced("vhost_vsock"), None);
        assert!(banned.machine().replaced("vhost").is_some());
        assert_eq!(Tree::new("weird").machine().version(), None);
        assert_eq!(Tree::new("6.1").machine().source("vsock"), Source::Unknown);
    }
}
