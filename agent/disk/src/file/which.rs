//! The identity of a file or block device, by which a client recognizes the disk after a restart of the agent or the
//! host.

use std::{
    fs,
    fs::Metadata,
    io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
    time::UNIX_EPOCH,
};

use nix::{libc, sys::statvfs::fstatvfs};

use crate::Identity;

/// The identity. Of a file: its filesystem, its inode and the inode's birth time, so that a file that replaces another
/// is another disk. Of a block device: its own name. Without a name the identity holds until the device is removed or
/// the host restarts.
pub(super) fn identity(file: &fs::File, metadata: &Metadata) -> io::Result<Identity> {
    if metadata.file_type().is_block_device() {
        return Ok(device(metadata.rdev(), Path::new("/")));
    }
    let filesystem = fstatvfs(file)?.filesystem_id();
    // If the filesystem has no birth times, the inode is enough.
    let made = metadata.created().ok().and_then(|made| made.duration_since(UNIX_EPOCH).ok());
    let made = made.unwrap_or_default();
    let numbers = [filesystem, metadata.ino(), made.as_secs(), made.subsec_nanos().into()];
    Ok(Identity::of("file", &numbers))
}

fn device(number: u64, root: &Path) -> Identity {
    let (major, minor) = (libc::major(number), libc::minor(number));
    let sys = root.join(format!("sys/dev/block/{major}:{minor}"));
    let word = |name: &str| {
        let text = fs::read_to_string(sys.join(name)).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    // A partition is a range of sectors of its disk, whose names are one directory higher.
    let start = word("start").and_then(|text| text.parse().ok());
    let (up, part) = start.map_or(("", 0), |start: u64| ("../", start));
    let names = ["dm/uuid", "wwid", "device/wwid", "serial", "device/serial", "md/uuid"];
    let own = names.iter().find_map(|name| Some((name, word(&format!("{up}{name}"))?)));
    if let Some((name, own)) = own {
        return Identity::of(name, &[]).and(&own, &[part]);
    }
    let boot = fs::read_to_string(root.join("proc/sys/kernel/random/boot_id")).unwrap_or_default();
    let sequence = word(&format!("{up}diskseq")).unwrap_or_default();
    Identity::of("device", &[number, part]).and(&sequence, &[]).and(boot.trim(), &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_of_a_file_has_another_identity() {
        let dir = tempfile::tempdir().unwrap();
        let of = |name: &str| {
            let file = fs::File::open(dir.path().join(name)).unwrap();
            identity(&file, &file.metadata().unwrap()).unwrap()
        };
        fs::write(dir.path().join("one"), b"one").unwrap();
        let one = of("one");
        fs::write(dir.path().join("one"), b"other bytes, same file").unwrap();
        assert_eq!(of("one"), one);
        fs::copy(dir.path().join("one"), dir.path().join("two")).unwrap();
        let two = of("two");
        assert_ne!(two, one);
        fs::rename(dir.path().join("two"), dir.path().join("one")).unwrap();
        assert_eq!(of("one"), two, "it has replaced the first");
    }

    #[test]
    fn a_device_is_identified_by_its_name_or_until_the_next_boot() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let put = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let (disk, part) = (libc::makedev(8, 0), libc::makedev(8, 1));
        put("proc/sys/kernel/random/boot_id", "one\n");
        put("sys/dev/block/8:0/diskseq", "9\n");
        let first = device(disk, root);
        assert_eq!(device(disk, root), first);
        put("sys/dev/block/8:0/diskseq", "10\n");
        assert_ne!(device(disk, root), first);
        put("sys/dev/block/8:0/device/wwid", "naa.5000c500\n");
        let named = device(disk, root);
        put("proc/sys/kernel/random/boot_id", "two\n");
        put("sys/dev/block/8:0/diskseq", "11\n");
        assert_eq!(device(disk, root), named);
        put("sys/dev/block/device/wwid", "naa.5000c500\n");
        put("sys/dev/block/8:1/start", "2048\n");
        assert_ne!(device(part, root), named);
    }
}
