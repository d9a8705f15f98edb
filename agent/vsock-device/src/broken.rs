//! The one error of a device that cannot continue.

/// The guest's driver or the VMM broke the rules of virtio. The device cannot continue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Broken;
