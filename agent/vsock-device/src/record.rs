//! The record of a VM: what has to be known of its device when this process has ended at any moment, SIGKILL
//! included. It is a file in memory, which the keeper of descriptors holds together with the VM's connection.
//!
//! The record has
//! - the setup: the VMM's messages that make the device what it is (`setup`), in two copies of which one is valid;
//! - the TX chains that were taken off the queue and not given back. Sessions read packets in place and finish in any
//!   order, so the guest's rings do not say which chains they are;
//! - the guest's ports of open connections. The guest is told of their end, since they end with the process.
//!
//! The RX queue needs nothing: the device gives each chain back under the lock that it took it under, so the used
//! ring says how many were taken.
//!
//! A process stores single words, in an order in which the record is right after each of them. The next process reads
//! the record as if a hostile process had written it: numbers are checked where they are used.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicU64, Ordering},
};

use nix::{
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::{
        memfd::{MFdFlags, memfd_create},
        stat::fstat,
    },
    unistd::ftruncate,
};
use vm_memory::{FileOffset, MmapRegion, VolatileMemory};

use crate::{connections::MAX_CONNECTIONS, ring::MOST};

/// The first word: what this is, and the version of its layout in the last byte.
const MAGIC: u64 = u64::from_be_bytes(*b"vsockdv\x01");

/// Places for connections: open ones, and ended ones of which the guest may not have been told yet.
pub(crate) const PLACES: usize = 2 * MAX_CONNECTIONS;
/// Most bytes of a setup. The longest has one table of 32 regions and 14 short messages.
const SETUP: usize = 4096;

/// Places in the record, in words.
const VALID: usize = 1;
const USED: usize = 2;
const TAKEN: usize = 3;
const PORTS: usize = TAKEN + MOST as usize / 64;
const SETUPS: [usize; 2] = [PORTS + PLACES, PORTS + PLACES + 1 + SETUP / 8];
const WORDS: usize = PORTS + PLACES + 2 * (1 + SETUP / 8);

/// In a word of a port: the place is taken. In `USED`: a chain is being given back.
const THERE: u64 = 1 << 32;

/// Every process that has the file can change its content, and none its size.
const SEALS: SealFlag = SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW);

/// A VM's record.
#[derive(Debug)]
pub(crate) struct Record {
    map: MmapRegion,
    file: OwnedFd,
}

impl Record {
    /// An empty record.
    ///
    /// # Errors
    /// There is no memory or no descriptor for it.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = memfd_create(c"vsock-device", flags)?;
        ftruncate(&file, bytes())?;
        fcntl(&file, FcntlArg::F_ADD_SEALS(SEALS | SealFlag::F_SEAL_SEAL))?;
        let record = Self::map(file)?;
        record.store(0, MAGIC);
        Ok(record)
    }

    /// The record of an earlier process.
    ///
    /// # Errors
    /// `InvalidData` if it is none, or one of another version.
    pub(crate) fn over(file: OwnedFd) -> io::Result<Self> {
        // Without the seals another process could take the memory away while this one uses it.
        let seals = fcntl(&file, FcntlArg::F_GET_SEALS).map(SealFlag::from_bits_retain);
        if !seals.is_ok_and(|seals| seals.contains(SEALS)) || fstat(&file)?.st_size != bytes() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let record = Self::map(file)?;
        if record.load(0) == MAGIC { Ok(record) } else { Err(io::ErrorKind::InvalidData.into()) }
    }

    fn map(file: OwnedFd) -> io::Result<Self> {
        let place = FileOffset::new(File::from(file.try_clone()?), 0);
        let map = MmapRegion::from_file(place, WORDS * 8).map_err(io::Error::other)?;
        Ok(Self { map, file })
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        self.map.get_atomic_ref(index * 8).expect("a word of the record")
    }

    fn load(&self, index: usize) -> u64 {
        self.word(index).load(Ordering::Acquire)
    }

    fn store(&self, index: usize, value: u64) {
        self.word(index).store(value, Ordering::Release);
        crate::fault::step();
    }

    /// Replaces the setup, at once.
    ///
    /// # Errors
    /// `FileTooLarge` if it has too many bytes.
    pub(crate) fn set_setup(&self, setup: &[u8]) -> io::Result<()> {
        if setup.len() > SETUP {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let next = if self.load(VALID) == 1 { 2 } else { 1 };
        let at = SETUPS[next - 1];
        self.store(at, setup.len() as u64);
        for (index, bytes) in setup.chunks(8).enumerate() {
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            self.word(at + 1 + index).store(u64::from_ne_bytes(word), Ordering::Release);
        }
        self.store(VALID, next as u64);
        Ok(())
    }

    /// The setup, if there is one.
    pub(crate) fn setup(&self) -> Option<Vec<u8>> {
        let at = *SETUPS.get(usize::try_from(self.load(VALID)).ok()?.checked_sub(1)?)?;
        let len = usize::try_from(self.load(at)).ok().filter(|len| *len <= SETUP)?;
        let words = (0..len.div_ceil(8)).flat_map(|i| self.load(at + 1 + i).to_ne_bytes());
        Some(words.take(len).collect())
    }

    /// The TX queue has a new place in memory, or begins anew. The used ring's index is `used`.
    pub(crate) fn begin_queue(&self, used: u16) {
        (0..usize::from(MOST) / 64).for_each(|word| self.store(TAKEN + word, 0));
        self.store(USED, used.into());
    }

    /// A chain was taken off the TX queue.
    pub(crate) fn take(&self, head: u16) {
        let (word, bit) = taken(head);
        self.store(word, self.load(word) | bit);
    }

    /// A chain is about to be put into the used ring, whose index is `used`.
    pub(crate) fn give(&self, head: u16, used: u16) {
        self.store(USED, THERE | u64::from(head) << 16 | u64::from(used));
    }

    /// The chain is in the used ring, whose index is `used` now.
    pub(crate) fn given(&self, head: u16, used: u16) {
        let (word, bit) = taken(head);
        self.store(word, self.load(word) & !bit);
        self.store(USED, used.into());
    }

    /// The chains that were taken and not given back, when the used ring's index is `used`.
    pub(crate) fn chains(&self, used: u16) -> Vec<u16> {
        let note = self.load(USED);
        if note & THERE != 0 && used != number(note, 0) {
            // The earlier process ended between `give` and `given`.
            self.given(number(note, 2), used);
        }
        (0..MOST).filter(|head| self.load(taken(*head).0) & taken(*head).1 != 0).collect()
    }

    /// A connection is open, or may be open for the guest.
    pub(crate) fn set_port(&self, place: usize, guest_port: u32) {
        self.store(PORTS + place, THERE | u64::from(guest_port));
    }

    /// The guest knows that this connection has ended.
    pub(crate) fn clear_port(&self, place: usize) {
        self.store(PORTS + place, 0);
    }

    /// The places that are taken, and the guest's ports.
    pub(crate) fn ports(&self) -> Vec<(usize, u32)> {
        let port = |place| u32::try_from(self.load(PORTS + place).checked_sub(THERE)?).ok();
        (0..PLACES).filter_map(|place| Some((place, port(place)?))).collect()
    }
}

impl AsFd for Record {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Bytes of the file.
fn bytes() -> i64 {
    i64::try_from(WORDS * 8).expect("some kilobytes")
}

/// The word and the bit of a chain.
fn taken(head: u16) -> (usize, u64) {
    let head = usize::from(head % MOST);
    (TAKEN + head / 64, 1 << (head % 64))
}

/// The 16 bits of a word from this byte on.
fn number(word: u64, byte: usize) -> u16 {
    let bytes = word.to_le_bytes();
    u16::from_le_bytes([bytes[byte], bytes[byte + 1]])
}
