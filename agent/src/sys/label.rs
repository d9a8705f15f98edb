//! The label of a socket's peer in a security module (SELinux, AppArmor).

use std::os::fd::{AsFd, AsRawFd};

/// Maximum length of a label in bytes. No module makes longer ones.
const LONGEST: usize = 4096;

/// The peer's label (SO_PEERSEC, socket(7)). `None` if no module provides one, or it is not UTF-8.
pub(crate) fn of_peer(socket: &impl AsFd) -> Option<String> {
    let mut label = vec![0_u8; LONGEST];
    let mut size = libc::socklen_t::try_from(LONGEST).ok()?;
    // SAFETY: the descriptor is open for as long as it is borrowed. The kernel writes at most
    // `size` bytes into `label`, which has that many, and writes their number into `size`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERSEC,
            label.as_mut_ptr().cast(),
            &raw mut size,
        )
    };
    if result != 0 {
        return None;
    }
    label.truncate(usize::try_from(size).ok()?);
    // Some modules count the zero at the end, others do not.
    if label.last() == Some(&0) {
        label.pop();
    }
    String::from_utf8(label).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_label_is_one_without_a_zero_or_none() {
        // Whether there is a label depends on the machine.
        let (one, _other) = UnixStream::pair().unwrap();
        if let Some(label) = of_peer(&one) {
            assert!(!label.contains('\0'), "{label:?}");
        }
        assert_eq!(of_peer(&tempfile::tempfile().unwrap()), None, "what is no socket has none");
    }
}
