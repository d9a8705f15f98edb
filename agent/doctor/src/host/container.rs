//! Whether this process is in a container. The present state decides: a file of a container's image
//! proves nothing, since machines are made from such images too.

use crate::machine::Machine;

/// The initial PID namespace (`PROC_PID_INIT_INO` of <linux/proc_ns.h>).
const FIRST_PIDS: &str = "pid:[4026531836]";

/// Files that a runtime puts into a container. An image that is exported from it keeps them.
const MARKS: &[(&str, &str)] = &[("/.dockerenv", "docker"), ("/run/.containerenv", "podman")];

/// Parts of the names that runtimes give the control groups of their containers.
const GROUPS: &[(&str, &str)] = &[
    ("/docker/", "docker"),
    ("/docker-", "docker"),
    ("/libpod-", "podman"),
    ("/kubepods", "kubernetes"),
    ("/lxc/", "lxc"),
    ("/lxc.payload", "lxc"),
];

/// Directories in which runtimes keep the layers of a container's root.
const STORES: &[&str] = &["/docker/", "/containers/storage/", "/containerd/"];

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Container {
    pub(super) kind: String,
    /// The proof that this is a container.
    pub(super) evidence: String,
}

pub(super) fn container(machine: &Machine) -> Option<Container> {
    let found = |kind: &str, evidence: String| Some(Container { kind: kind.into(), evidence });
    // systemd in the container writes it at each start, into a /run that does not persist.
    if let Some(kind) = machine.value("/run/systemd/container").filter(|kind| !kind.is_empty()) {
        return found(&kind, "/run/systemd/container says so".into());
    }
    let groups = machine.read("/proc/self/cgroup").unwrap_or_default();
    if let Some((group, kind)) = GROUPS.iter().find(|(group, _)| groups.contains(group)) {
        return found(kind, format!("its control group has {group}"));
    }
    let (mark, kind) = MARKS.iter().find(|(file, _)| machine.has(file))?;
    let pids = machine.link("/proc/self/ns/pid");
    if pids.is_some_and(|pids| pids != FIRST_PIDS) {
        return found(kind, format!("{mark} is there, and its PID namespace is its own"));
    }
    // A container with the host's PID namespace is known by its root.
    let root = root(&machine.read("/proc/self/mountinfo").unwrap_or_default())?;
    let store = STORES.iter().find(|store| root.contains(**store))?;
    found(kind, format!("{mark} is there, and its root is mounted from {store}"))
}

/// The line of mountinfo about "/".
fn root(mounts: &str) -> Option<String> {
    mounts.lines().rfind(|line| line.split(' ').nth(4) == Some("/")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Tree;

    #[test]
    fn a_container_is_not_known_by_a_file_alone() {
        let tree = || Tree::new("6.1.0");
        let mark = |file| tree().file(file, "");
        let own = |tree: Tree| tree.link("/proc/self/ns/pid", "pid:[4026532190]");
        let hosts = |tree: Tree| tree.link("/proc/self/ns/pid", FIRST_PIDS);
        let layers =
            "30 1 0:28 / / rw - overlay overlay rw,lowerdir=/var/lib/docker/overlay2/l/A\n";
        let disk = "27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n";
        for (tree, kind) in [
            (tree(), None),
            // A file of an image.
            (mark("/.dockerenv"), None),
            (hosts(mark("/.dockerenv")), None),
            (hosts(mark("/.dockerenv")).file("/proc/self/mountinfo", disk), None),
            (own(mark("/.dockerenv")), Some("docker")),
            (own(mark("/run/.containerenv")), Some("podman")),
            // Started with --pid=host.
            (hosts(mark("/.dockerenv")).file("/proc/self/mountinfo", layers), Some("docker")),
            // A namespace alone is no container.
            (own(tree()), None),
            (tree().file("/run/systemd/container", "lxc\n"), Some("lxc")),
            (tree().file("/run/systemd/container", "\n"), None),
            (tree().file("/proc/self/cgroup", "4:memory:/docker/0a1b\n"), Some("docker")),
            (tree().file("/proc/self/cgroup", "0::/kubepods.slice/x\n"), Some("kubernetes")),
            (
                tree().file("/proc/self/cgroup", "0::/machine.slice/libpod-9.scope\n"),
                Some("podman"),
            ),
            // The runtime itself is in none.
            (tree().file("/proc/self/cgroup", "0::/system.slice/docker.service\n"), None),
        ] {
            let found = container(&tree.machine());
            assert_eq!(found.as_ref().map(|found| found.kind.as_str()), kind, "{found:?}");
        }
    }
}
