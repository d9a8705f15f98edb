//! What a session has carried.

use nbd::transmit::Checked;

/// Counts of a session's requests and bytes; for the audit line.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Traffic {
    /// Requests, including refused ones.
    pub requests: u64,
    /// Bytes read successfully.
    pub read: u64,
    /// Bytes written successfully.
    pub written: u64,
    /// Requests that failed in a disk or for lack of memory.
    pub failed: u64,
}

impl Traffic {
    pub(super) fn count(&mut self, checked: Checked) {
        match checked {
            Checked::Read { len, .. } => self.read += u64::from(len),
            Checked::Write { len, .. } => self.written += u64::from(len),
            _ => {}
        }
    }
}
