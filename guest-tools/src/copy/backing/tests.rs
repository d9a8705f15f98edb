use std::os::unix::fs::symlink;

use nix::sys::stat::makedev;
use tempfile::TempDir;

use super::*;

/// A simulated machine: /sys and /proc in a directory, with real files.
struct Machine {
    dir: TempDir,
    system: System,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let system = System { root: dir.path().join("root") };
        fs::create_dir_all(system.root.join("sys/dev/block")).unwrap();
        fs::create_dir_all(system.root.join("proc/self/fdinfo")).unwrap();
        Self { dir, system }
    }

    /// Makes a block device at a place below /sys/devices, with the given files in its directory.
    fn device(&self, place: &str, number: &str, files: &[(&str, &str)]) -> PathBuf {
        let device = self.system.root.join("sys/devices").join(place);
        for (name, text) in [("dev", &*format!("{number}\n"))].iter().chain(files) {
            let path = device.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        symlink(&device, self.system.root.join("sys/dev/block").join(number)).unwrap();
        device
    }

    fn slave(upper: &Path, lower: &Path) {
        let slaves = upper.join("slaves");
        fs::create_dir_all(&slaves).unwrap();
        symlink(lower, slaves.join(lower.file_name().unwrap())).unwrap();
    }

    fn file(&self, name: &str) -> (PathBuf, Node) {
        let path = self.dir.path().join(name);
        fs::write(&path, "content").unwrap();
        let node = Node::of(&path.metadata().unwrap()).unwrap();
        (path, node)
    }

    /// What a device is stored on. No real device is needed.
    fn below(&self, number: u64) -> Vec<Node> {
        let mut found = BTreeSet::new();
        let mut left = vec![(Node::Device(number), None)];
        while let Some((node, _)) = left.pop() {
            if found.insert(node)
                && let Node::Device(number) = node
            {
                self.system.below_device(number, &mut left);
            }
        }
        found.into_iter().collect()
    }
}

const fn device(major: u64, minor: u64) -> Node {
    Node::Device(makedev(major, minor))
}

#[test]
fn a_loop_device_is_its_file() {
    let machine = Machine::new();
    let (path, node) = machine.file("an image");
    let text = format!("{}\n", path.display());
    machine.device("virtual/block/loop1", "7:1", &[("loop/backing_file", &text)]);
    machine.device("virtual/block/loop1/loop1p3", "259:3", &[("partition", "3\n")]);
    assert_eq!(machine.below(makedev(7, 1)), [node, device(7, 1)]);
    assert_eq!(machine.below(makedev(259, 3)), [node, device(7, 1), device(259, 3)]);
}

#[test]
fn partitions_and_mapped_devices_are_those_below_them() {
    let machine = Machine::new();
    let disk = machine.device("pci0/block/sda", "8:0", &[]);
    let part = machine.device("pci0/block/sda/sda2", "8:2", &[("partition", "2\n")]);
    let other = machine.device("pci0/block/sdb", "8:16", &[]);
    let raid = machine.device("virtual/block/md0", "9:0", &[]);
    let volume = machine.device("virtual/block/dm-3", "253:3", &[]);
    Machine::slave(&raid, &part);
    Machine::slave(&raid, &other);
    Machine::slave(&volume, &raid);
    // It must not be taken for a partition of a directory further up.
    assert_eq!(machine.below(makedev(8, 0)), [device(8, 0)]);
    assert_eq!(machine.below(makedev(8, 2)), [device(8, 0), device(8, 2)]);
    let all = [device(8, 0), device(8, 2), device(8, 16), device(9, 0), device(253, 3)];
    assert_eq!(machine.below(makedev(253, 3)), all);
    assert!(disk.exists());
}

#[test]
fn what_the_kernel_does_not_report_is_unknown() {
    let machine = Machine::new();
    assert_eq!(machine.below(makedev(8, 0)), [device(8, 0)]);
    let gone = [("loop/backing_file", "/a/file (deleted)\n"), ("backing_dev", "none\n")];
    machine.device("virtual/block/loop1", "7:1", &gone);
    assert_eq!(machine.below(makedev(7, 1)), [device(7, 1)]);
    // Two devices that are stored on each other, which no kernel has.
    let one = machine.device("virtual/block/dm-1", "253:1", &[]);
    let other = machine.device("virtual/block/dm-2", "253:2", &[]);
    Machine::slave(&one, &other);
    Machine::slave(&other, &one);
    assert_eq!(machine.below(makedev(253, 1)), [device(253, 1), device(253, 2)]);
}

#[test]
fn a_file_is_on_the_device_of_its_filesystem() {
    let machine = Machine::new();
    assert_eq!(machine.system.filesystem_is_on(makedev(8, 2), None), Some(makedev(8, 2)));
    // A filesystem with a number of its own, whose device is named in the list of mounts.
    let (path, _) = machine.file("a file");
    let file = File::open(&path).unwrap();
    let anonymous = makedev(0, 41);
    assert_eq!(machine.system.filesystem_is_on(anonymous, Some(&file)), None);
    let proc = machine.system.root.join("proc/self");
    let facts = "pos:\t0\nflags:\t0100000\nmnt_id:\t77\nino:\t9\n";
    fs::write(proc.join(format!("fdinfo/{}", file.as_raw_fd())), facts).unwrap();
    // Any accessible block device of this machine will do, if there is one.
    let real = fs::read_dir("/dev").unwrap().flatten().map(|entry| entry.path()).find_map(|path| {
        match Node::of(&path.metadata().ok()?)? {
            Node::Device(number) => Some((path, number)),
            Node::File(..) => None,
        }
    });
    let Some((source, number)) = real else {
        eprintln!("no block device here: the list of mounts is not tried");
        return;
    };
    let mounts = format!(
        "7 1 0:41 / /else rw - btrfs /dev/else rw\n\
         77 1 0:41 /sub /mnt\\040here rw,noatime shared:3 - btrfs {} rw,space_cache\n",
        source.display()
    );
    fs::write(proc.join("mountinfo"), mounts).unwrap();
    assert_eq!(machine.system.filesystem_is_on(anonymous, Some(&file)), Some(number));
}

#[test]
fn escapes_of_mounts_are_read() {
    for (text, is) in [
        ("/dev/sda1", "/dev/sda1"),
        ("/dev/mapper/a\\040b\\134", "/dev/mapper/a b\\"),
        ("a\\9", "a\\9"),
    ] {
        assert_eq!(plain(text), is);
    }
}

#[test]
fn the_same_file_is_found_by_any_name() {
    let machine = Machine::new();
    let (path, _) = machine.file("a");
    let (other, _) = machine.file("b");
    let (hard, soft) = (machine.dir.path().join("hard"), machine.dir.path().join("soft"));
    fs::hard_link(&path, &hard).unwrap();
    symlink(&path, &soft).unwrap();
    let open = |path: &Path| File::open(path).unwrap();
    let overlap = |to: &Path| machine.system.overlap(&open(&path), &open(to));
    assert_eq!(overlap(&other), None);
    for name in [path.clone(), hard, soft] {
        assert_eq!(overlap(&name), Some(Overlap::Same), "{}", name.display());
    }
    // A file that stores nothing does not overlap with itself.
    let null = open(Path::new("/dev/null"));
    assert_eq!(machine.system.overlap(&null, &null), None);
}

#[test]
fn an_attached_device_is_its_export() {
    let exports = [
        (device(43, 0), "nbd+vsock://2:10809/a".to_owned()),
        (device(259, 7), "nbd+unix:///b?socket=/s".to_owned()),
    ];
    let nodes = BTreeSet::from([device(253, 0), device(43, 0)]);
    for (export, is) in [
        ("nbd+vsock://2/a", true),
        ("NBD+VSOCK://2:10809/a", true),
        ("nbd+vsock://2/b", false),
        ("nbd+unix:///b?socket=/s", false),
        ("null:", false),
    ] {
        assert_eq!(contains_export(&nodes, &exports, &export.parse().unwrap()), is, "{export}");
    }
}
