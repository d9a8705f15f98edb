//! Writes a cpio archive in the "newc" format, which the kernel accepts as an initramfs
//! (Documentation/driver-api/early-userspace/buffer-format.rst in the kernel's source). It does no I/O.

use std::collections::BTreeSet;

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const ALIGNMENT: usize = 4;

/// An archive that is being written. Every entry belongs to root and has no date, so the same entries make the same
/// bytes.
#[derive(Debug, Default)]
pub(crate) struct Cpio {
    bytes: Vec<u8>,
    folders: BTreeSet<String>,
    entries: u32,
}

impl Cpio {
    /// Adds a file and its parent folders. `path` has no leading slash.
    pub(crate) fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        for (end, _) in path.match_indices('/') {
            if self.folders.insert(path[..end].to_owned()) {
                self.entry(&path[..end], DIRECTORY | 0o755, &[]);
            }
        }
        self.entry(path, REGULAR | mode, content);
    }

    /// The whole archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let (links, zero) = (1, 0);
        // The format has eight hexadecimal digits for a length; no file here is near 4 GiB.
        let size = u32::try_from(content.len()).expect("an initramfs file is under 4 GiB");
        let name_size = u32::try_from(name.len() + 1).expect("a path is under 4 GiB");
        let fields = [
            self.entries, // inode
            mode,
            zero, // user
            zero, // group
            links,
            zero, // date
            size,
            zero, // device of the file, major and minor
            zero,
            zero, // device number of a device file, major and minor
            zero,
            name_size,
            zero, // checksum, unused in newc
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::Cpio;

    #[test]
    fn header_name_and_content_are_padded_to_four_bytes() {
        let mut archive = Cpio::default();
        archive.file("ab", 0o755, b"xyz");
        let bytes = archive.finish();
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(&bytes[6..14], b"00000001");
        assert_eq!(&bytes[14..22], b"000081ed");
        assert_eq!(&bytes[54..62], b"00000003");
        assert_eq!(&bytes[94..102], b"00000003");
        assert_eq!(&bytes[110..116], b"ab\0\0\0\0");
        assert_eq!(&bytes[116..120], b"xyz\0");
        assert_eq!(bytes.len() % 4, 0);
    }

    #[test]
    fn a_folder_is_added_once_and_before_its_files() {
        let mut archive = Cpio::default();
        archive.file("lib/a", 0o644, b"");
        archive.file("lib/b", 0o644, b"");
        let text = String::from_utf8_lossy(&archive.finish()).into_owned();
        assert_eq!(text.matches("lib\0").count(), 1);
        assert!(text.find("lib\0") < text.find("lib/a\0"));
    }
}
