//! A buffer of received bytes: filled at the end, consumed at the front, of fixed size.

/// A receive buffer of fixed size over memory that its owner lends and can take back.
#[derive(Debug, Default)]
pub struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// An empty buffer in the memory `bytes`.
    pub const fn new(bytes: Box<[u8]>) -> Self {
        Self { bytes, start: 0, end: 0 }
    }

    /// The bytes that have been received and not consumed.
    #[inline]
    pub fn filled(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    /// The room for the next bytes. Moves the contents to the front first if less than half of the memory is
    /// free after them.
    pub fn spare(&mut self) -> &mut [u8] {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        } else if self.start > 0 && self.bytes.len() - self.end < self.bytes.len() / 2 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        self.bytes.get_mut(self.end..).unwrap_or_default()
    }

    /// Records that the first `n` bytes of the spare room have been filled.
    ///
    /// # Panics
    /// If there is less room.
    pub fn added(&mut self, n: usize) {
        assert!(n <= self.bytes.len() - self.end, "received more than there was room for");
        self.end += n;
    }

    /// Removes `n` bytes from the front.
    ///
    /// # Panics
    /// If the buffer has fewer.
    #[inline]
    pub fn consume(&mut self, n: usize) {
        assert!(n <= self.end - self.start, "consumed more than was there");
        self.start += n;
    }

    /// The number of bytes that have not been consumed.
    #[inline]
    pub const fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether all bytes have been consumed.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The size of the memory, in bytes.
    pub const fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// Returns the memory and discards the contents.
    pub fn take(&mut self) -> Box<[u8]> {
        std::mem::take(self).bytes
    }

    /// Moves the contents to other memory.
    ///
    /// # Panics
    /// If the contents do not fit.
    pub fn replace(&mut self, mut bytes: Box<[u8]>) {
        let filled = self.filled();
        let len = filled.len();
        bytes.get_mut(..len).expect("the contents fit").copy_from_slice(filled);
        *self = Self { bytes, start: 0, end: len };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_keep_their_order_across_compactions() {
        let mut buffer = Buffer::new(vec![0; 16].into());
        let (mut next_in, mut next_out) = (0u8, 0u8);
        for round in 0..1000usize {
            let spare = buffer.spare();
            let n = spare.len().min(round % 7 + 1);
            for byte in &mut spare[..n] {
                *byte = next_in;
                next_in = next_in.wrapping_add(1);
            }
            buffer.added(n);
            let consumed = buffer.len().min(round % 5 + 1);
            for byte in &buffer.filled()[..consumed] {
                assert_eq!(*byte, next_out);
                next_out = next_out.wrapping_add(1);
            }
            buffer.consume(consumed);
        }
        assert!(next_out > 0);
    }

    #[test]
    fn a_full_buffer_has_room_again_after_its_front_is_consumed() {
        let mut buffer = Buffer::new(vec![0; 8].into());
        buffer.added(8);
        assert!(buffer.spare().is_empty());
        buffer.consume(1);
        assert_eq!(buffer.spare().len(), 1);
    }
}
