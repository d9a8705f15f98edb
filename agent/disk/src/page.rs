//! Memory for payload: pages that are lent to a send, and runs of pages into which a write is received. The thread that
//! drops a page uses it again.

use std::{cell::RefCell, fmt, ops::Range, sync::Arc};

use crate::{
    joined,
    sys::blocks::{BLOCK, Block, Content},
};

/// Bytes of a page.
pub const PAGE: usize = BLOCK;

/// Most dropped pages that a thread keeps for its next write: 2 MiB.
const SPARE: usize = 64;

thread_local! {
    static SPARES: RefCell<Vec<Block>> = const { RefCell::new(Vec::new()) };
}

/// `PAGE` bytes, aligned to `PAGE`.
pub struct Page(Option<Block>);

impl Page {
    /// A page with the bytes of an earlier page. Private: the caller fills it, or gives out only bytes that were filled.
    fn stale() -> Option<Self> {
        Self::take().map(|(page, _)| page)
    }

    fn take() -> Option<(Self, Content)> {
        let spare = SPARES.with_borrow_mut(Vec::pop).map(|block| (block, Content::Stale));
        let (block, content) = spare.or_else(Block::take)?;
        Some((Self(Some(block)), content))
    }

    /// A page of zeroes. `None` if there is no memory.
    pub fn zeroed() -> Option<Self> {
        Self::with(0, &[])
    }

    /// A page of zeroes with `data` at `start`. `None` if there is no memory.
    ///
    /// # Panics
    /// If `data` does not fit.
    pub fn with(start: usize, data: &[u8]) -> Option<Self> {
        let (mut page, content) = Self::take()?;
        let bytes = page.bytes_mut();
        if content == Content::Stale {
            bytes[..start].fill(0);
            bytes[start + data.len()..].fill(0);
        }
        bytes[start..start + data.len()].copy_from_slice(data);
        Some(page)
    }

    /// A copy. `None` if there is no memory.
    pub fn copy(&self) -> Option<Self> {
        let mut page = Self::stale()?;
        page.bytes_mut().copy_from_slice(self.bytes());
        Some(page)
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8; PAGE] {
        self.0.as_ref().expect("a page has its bytes until it is dropped")
    }

    /// The bytes, to change.
    pub fn bytes_mut(&mut self) -> &mut [u8; PAGE] {
        self.0.as_mut().expect("a page has its bytes until it is dropped")
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let Some(block) = self.0.take() else { return };
        // A thread that is ending has no spare pages any more. Then the memory is freed.
        SPARES
            .try_with(|spares| {
                let mut spares = spares.borrow_mut();
                if spares.len() < SPARE {
                    spares.push(block);
                }
            })
            .ok();
    }
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Page")
    }
}

/// Bytes that an allocation costs in addition to its content.
const ALLOCATION: u64 = 96;

/// Bytes that are sent without a copy.
#[derive(Debug, Clone)]
pub enum Slice {
    /// Part of a page that the disk has lent. A write to a lent page puts a new page in its place.
    Lent(Arc<Page>, Range<usize>),
    /// Bytes that this slice owns, from the given index on.
    Owned(Arc<Vec<u8>>, Range<usize>),
    /// Bytes of the program's constants.
    Static(&'static [u8]),
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Lent(page, range) => &page.bytes()[range.clone()],
            Self::Owned(bytes, range) => &bytes[range.clone()],
            Self::Static(bytes) => bytes,
        }
    }
}

impl Slice {
    /// The number of bytes.
    pub fn len(&self) -> usize {
        match self {
            Self::Lent(_, range) | Self::Owned(_, range) => range.len(),
            Self::Static(bytes) => bytes.len(),
        }
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Slice {
    /// Bytes of memory that this slice keeps allocated. Slices that share an allocation count it in parts.
    pub fn held(&self) -> u64 {
        match self {
            Self::Lent(..) => PAGE as u64,
            Self::Owned(bytes, _) => {
                (bytes.capacity() / Arc::strong_count(bytes).max(1)) as u64 + ALLOCATION
            }
            Self::Static(_) => 0,
        }
    }

    /// Replaces the slice by a copy of its bytes, if they are less than three quarters of the memory that it keeps.
    pub fn compact(&mut self) {
        let bytes = self.as_ref();
        if bytes.len() as u64 + ALLOCATION < self.held() / 4 * 3 {
            // Without memory for a copy the slice stays as it is.
            if let Ok(copy) = joined([bytes]) {
                *self = copy.into();
            }
        }
    }
}

impl From<Vec<u8>> for Slice {
    fn from(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Self::Owned(Arc::new(bytes), range)
    }
}

/// There is no memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoMemory;

/// Pages that are allocated before their bytes have arrived. A client that announces a large write and sends nothing
/// costs this much memory.
const AHEAD: usize = 16;

/// The payload of a write, laid out in pages as on the disk: byte `i` is in page `(first + i) / PAGE` at
/// `(first + i) % PAGE`, where `first` is the write's offset modulo `PAGE`.
#[derive(Debug, Default)]
pub struct Pages {
    first: usize,
    len: usize,
    filled: usize,
    pages: Vec<Page>,
}

impl Pages {
    /// Room for `len` bytes to be written at offset `at`. No byte is filled yet.
    pub fn room(at: u64, len: usize) -> Self {
        let first = usize::try_from(at % PAGE as u64).expect("less than a page");
        Self { first, len, filled: 0, pages: Vec::new() }
    }

    /// A copy of `bytes`, to be written at offset `at`.
    ///
    /// # Errors
    /// `NoMemory`, if there is no memory for the copy.
    pub fn copied(at: u64, bytes: &[u8]) -> Result<Self, NoMemory> {
        let mut pages = Self::room(at, bytes.len());
        pages.copy_in(bytes)?;
        Ok(pages)
    }

    /// The number of bytes, including those that have not arrived.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Offset of the first byte within the first page.
    pub fn first(&self) -> usize {
        self.first
    }

    /// The number of bytes that have not arrived.
    pub fn missing(&self) -> usize {
        self.len - self.filled
    }

    /// The places of the next missing bytes, in order. If there are many, not all of them.
    ///
    /// # Errors
    /// `NoMemory`, if there is none for the first of them.
    pub fn unfilled(&mut self) -> Result<impl Iterator<Item = &mut [u8]>, NoMemory> {
        let (from, to) = (self.first + self.filled, self.first + self.len);
        let wanted = to.div_ceil(PAGE).min(from / PAGE + AHEAD);
        while self.pages.len() < wanted {
            match Page::stale() {
                Some(page) => self.pages.push(page),
                None if self.pages.len() * PAGE > from => break,
                None => return Err(NoMemory),
            }
        }
        Ok(self.pages.iter_mut().enumerate().skip(from / PAGE).filter_map(move |(i, page)| {
            let range = within(i, from, to)?;
            Some(&mut page.bytes_mut()[range])
        }))
    }

    /// Notes that the next `n` missing bytes have been received.
    ///
    /// # Panics
    /// If fewer than `n` are missing.
    pub fn fill(&mut self, n: usize) {
        assert!(n <= self.missing(), "more bytes received than there is room for");
        self.filled += n;
    }

    /// Copies as many of `bytes` as are missing, and returns their number.
    ///
    /// # Errors
    /// `NoMemory`. Some of the bytes may have been copied.
    pub fn copy_in(&mut self, bytes: &[u8]) -> Result<usize, NoMemory> {
        let all = bytes.len().min(self.missing());
        let mut taken = 0;
        while taken < all {
            let before = taken;
            for room in self.unfilled()? {
                let n = room.len().min(all - taken);
                room[..n].copy_from_slice(&bytes[taken..taken + n]);
                taken += n;
            }
            self.fill(taken - before);
        }
        Ok(all)
    }

    /// The received bytes in order, one slice per page.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.pages.len()).filter_map(|i| self.part(i))
    }

    /// The received bytes of page `i`, counted from 0.
    pub fn part(&self, i: usize) -> Option<&[u8]> {
        let range = within(i, self.first, self.first + self.filled)?;
        Some(&self.pages[i].bytes()[range])
    }

    /// Takes page `i`, counted from 0, if every byte of it belongs to the write and has been received. A placeholder
    /// stays in its place.
    pub fn take_whole(&mut self, i: usize) -> Option<Page> {
        let range = within(i, self.first, self.first + self.filled)?;
        (range.len() == PAGE).then(|| std::mem::replace(&mut self.pages[i], Page(None)))
    }
}

/// The part of page `i` within `from..to`, both counted from the start of page 0.
fn within(i: usize, from: usize, to: usize) -> Option<Range<usize>> {
    let start = from.clamp(i * PAGE, (i + 1) * PAGE) - i * PAGE;
    let end = to.clamp(i * PAGE, (i + 1) * PAGE) - i * PAGE;
    (start < end).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_arrive_in_pieces_are_returned_in_order() {
        let data: Vec<u8> = (0..3 * PAGE).map(|i| u8::try_from(i * 7 % 251).unwrap()).collect();
        for at in [0, 1, PAGE - 1, PAGE + 5] {
            let mut pages = Pages::room(at as u64, data.len() - 11);
            let mut rest = &data[..data.len() - 11];
            for cut in [1, 100, PAGE, usize::MAX] {
                let n = pages.copy_in(&rest[..cut.min(rest.len())]).unwrap();
                rest = &rest[n..];
            }
            assert_eq!(pages.missing(), 0);
            assert_eq!(pages.slices().collect::<Vec<_>>().concat(), data[..data.len() - 11]);
        }
    }

    #[test]
    fn only_whole_received_pages_can_be_taken() {
        let mut pages = Pages::room(10, 2 * PAGE);
        assert!(pages.take_whole(1).is_none(), "nothing has been received");
        pages.copy_in(&vec![5; 2 * PAGE]).unwrap();
        assert!(pages.take_whole(0).is_none());
        assert_eq!(pages.take_whole(1).expect("the middle page is whole").bytes(), &[5; PAGE]);
        assert!(pages.take_whole(2).is_none());
    }
}
