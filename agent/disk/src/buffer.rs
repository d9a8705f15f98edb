//! Buffers whose length a client chooses. If there is no memory for one, the request fails and not the process. All
//! code that handles requests allocates in this way; `agent/tests/layers.rs` checks it.

use std::io;

use crate::{DiskError, Kind, NoMemory, Verb, sys};

impl NoMemory {
    /// The error of a request for which there is no memory.
    pub fn of(self, verb: Verb, range: (u64, u64)) -> DiskError {
        DiskError::new(Kind::NoMemory, verb, range)
    }
}

impl From<NoMemory> for io::Error {
    fn from(_: NoMemory) -> Self {
        Self::from_raw_os_error(libc::ENOMEM)
    }
}

/// An empty vector with room for `len` bytes.
///
/// # Errors
/// `NoMemory`, if there is no memory for it.
pub fn room(len: usize) -> Result<Vec<u8>, NoMemory> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| NoMemory)?;
    Ok(bytes)
}

/// A vector of `len` zeroes.
///
/// # Errors
/// `NoMemory`, if there is no memory for it.
pub fn zeroed(len: usize) -> Result<Vec<u8>, NoMemory> {
    sys::buffer::zeroed(len).ok_or(NoMemory)
}

/// The bytes of all slices, in order.
///
/// # Errors
/// `NoMemory`, if there is no memory for them.
pub fn joined<'a>(slices: impl IntoIterator<Item = &'a [u8]> + Clone) -> Result<Vec<u8>, NoMemory> {
    let mut bytes = room(slices.clone().into_iter().map(<[u8]>::len).sum())?;
    slices.into_iter().for_each(|slice| bytes.extend_from_slice(slice));
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_had_is_an_error() {
        let most = isize::MAX.unsigned_abs();
        assert_eq!(room(most).unwrap_err(), NoMemory);
        assert_eq!(zeroed(most).unwrap_err(), NoMemory);
        assert_eq!(zeroed(most + 1).unwrap_err(), NoMemory);
        assert_eq!(zeroed(0).unwrap(), []);
        assert_eq!(zeroed(3).unwrap(), [0; 3]);
        assert_eq!(joined([&b"ab"[..], b"", b"c"]).unwrap(), b"abc");
        let error = NoMemory.of(Verb::Write, (1, 2));
        let other = DiskError::from_io(Verb::Write, (1, 2), NoMemory.into());
        assert_eq!((error.kind, other.kind), (Kind::NoMemory, Kind::NoMemory));
    }
}
