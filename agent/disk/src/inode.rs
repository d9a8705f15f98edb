//! What a file is known by, whatever path it was opened by.

/// Identifies the file behind a descriptor: the device of a block device, otherwise filesystem and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Inode {
    pub(crate) device: u64,
    pub(crate) inode: Option<u64>,
}
