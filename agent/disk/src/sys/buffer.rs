//! Zeroed memory, with an error if there is none: `vec![0; len]` would end the process.

use std::{
    alloc::{Layout, alloc_zeroed},
    ptr,
};

/// `len` zeroes, which take no memory until they are touched. `None` if there is no memory.
pub(crate) fn zeroed(len: usize) -> Option<Vec<u8>> {
    if len == 0 {
        return Some(Vec::new());
    }
    let layout = Layout::array::<u8>(len).ok()?;
    // SAFETY: the layout's size is not zero.
    let start = unsafe { alloc_zeroed(layout) };
    if start.is_null() {
        return None;
    }
    // SAFETY: the global allocator gave `start` for the layout of a boxed slice of this length, and all of its bytes
    // are initialised. Nothing else owns it.
    let bytes = unsafe { Box::from_raw(ptr::slice_from_raw_parts_mut(start, len)) };
    Some(bytes.into())
}
