//! Receive buffers, lent to connections that have something to read. An idle connection has none.

use std::cell::RefCell;

use nbd::Buffer;

use disk::zeroed;

/// Bytes of a large receive buffer: the maximum of one receive.
pub(crate) const LARGE: usize = 256 * 1024;
/// Bytes of the buffer that a connection keeps while it waits for the rest of a request.
pub(crate) const SMALL: usize = 20 * 1024;
/// The maximum of free buffers per thread.
const SPARE: usize = 4;

thread_local! {
    static FREE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// Makes the buffer large and keeps its contents. Does nothing if there is no memory.
pub(crate) fn grow(buffer: &mut Buffer) {
    if buffer.capacity() < LARGE {
        let free = FREE.with_borrow_mut(Vec::pop);
        if let Some(large) = free.or_else(|| zeroed(LARGE).ok().map(Into::into)) {
            buffer.replace(large);
        }
    }
}

/// Gives a connection that has no buffer a small one.
pub(crate) fn small(buffer: &mut Buffer) {
    buffer.replace(vec![0; SMALL].into());
}

/// Shrinks the buffer to what its contents need, while nothing is received.
pub(crate) fn shrink(buffer: &mut Buffer) {
    if buffer.capacity() < LARGE || buffer.len() > SMALL {
        return;
    }
    let large = if buffer.is_empty() {
        buffer.take()
    } else {
        let mut small = Buffer::new(vec![0; SMALL].into());
        let n = buffer.len();
        small.spare()[..n].copy_from_slice(buffer.filled());
        small.added(n);
        std::mem::replace(buffer, small).take()
    };
    FREE.with_borrow_mut(|free| {
        if free.len() < SPARE {
            free.push(large);
        }
    });
}
