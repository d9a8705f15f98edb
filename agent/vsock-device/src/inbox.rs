//! The bytes that a guest has sent on a connection and the session has not taken yet. Memory is charged as it is
//! held: small packets share a chunk, so a packet of one byte costs one byte of a chunk.

use std::{collections::VecDeque, io::IoSliceMut, ops::AddAssign};

use crate::{
    broken::Broken,
    memory::Memory,
    queue::{Chain, Queue},
};

/// Most chains that a connection holds. Later packets are copied, so that a connection cannot starve the others.
pub(crate) const LENT: usize = 8;
/// Most parts of memory of a chain that is held, since each part takes memory here.
const LENT_PARTS: usize = 64;
/// Size in bytes of the chunk that small packets share.
const CHUNK: usize = 4096;

/// What the connections of a VM hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// Bytes of memory.
    pub(crate) bytes: usize,
    /// Chains of the guest.
    pub(crate) lent: usize,
}

impl AddAssign for Held {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.lent += other.lent;
    }
}

/// The bytes of a connection, in order.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    parts: VecDeque<Part>,
    /// Bytes in all parts.
    len: u32,
    /// The number of `Part::Lent` among the parts.
    lent: usize,
}

#[derive(Debug)]
enum Part {
    /// Bytes that are still in the guest's memory, whose chain is held.
    Lent(Chain, u32),
    /// Bytes that were copied, because too many chains were held.
    Copied(Chunk),
}

/// Bytes, and the number of them that the session has taken.
#[derive(Debug)]
struct Chunk(Vec<u8>, usize);

impl Chunk {
    /// The bytes of memory that it is charged for.
    fn cost(&self) -> usize {
        self.0.capacity() + size_of::<Part>()
    }
}

impl Inbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Bytes in it.
    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    /// Whether the chain may be held instead of copied.
    pub(crate) fn may_lend(&self, chain: &Chain) -> bool {
        self.lent < LENT && chain.parts() <= LENT_PARTS
    }

    /// Holds a chain of `len` bytes.
    pub(crate) fn lend(&mut self, chain: Chain, len: u32, held: &mut Held) {
        self.parts.push_back(Part::Lent(chain, len));
        self.len += len;
        self.lent += 1;
        held.lent += 1;
    }

    /// Copies `len` bytes of a chain. The chain can be given back afterwards.
    pub(crate) fn copy(
        &mut self,
        chain: &mut Chain,
        len: u32,
        memory: &Memory,
        held: &mut Held,
    ) -> Result<(), Broken> {
        let mut left = usize::try_from(len).map_err(|_| Broken)?;
        self.len += len;
        while left > 0 {
            let full = |chunk: &Chunk| chunk.0.len() == chunk.0.capacity();
            let chunk = match self.parts.back_mut() {
                Some(Part::Copied(chunk)) if !full(chunk) => chunk,
                _ => {
                    let chunk = Chunk(Vec::with_capacity(left.max(CHUNK)), 0);
                    held.bytes += chunk.cost();
                    self.parts.push_back(Part::Copied(chunk));
                    continue;
                }
            };
            let Chunk(bytes, _) = chunk;
            let begin = bytes.len();
            let n = left.min(bytes.capacity() - begin);
            bytes.resize(begin + n, 0);
            chain.read(memory, &mut bytes[begin..])?;
            left -= n;
        }
        Ok(())
    }

    /// Moves bytes to the session, and gives back chains that are empty. Returns the number of bytes.
    pub(crate) fn take(
        &mut self,
        runs: &mut [IoSliceMut<'_>],
        queue: &mut Queue<'_>,
        held: &mut Held,
    ) -> Result<u32, Broken> {
        let before = self.len;
        for run in runs {
            let mut room = &mut run[..];
            while !room.is_empty() {
                let Some(next) = self.parts.front_mut() else { break };
                let (n, done) = match next {
                    Part::Lent(chain, left) => {
                        let n = chain.read(queue.memory(), room)?;
                        *left -= u32::try_from(n).map_err(|_| Broken)?;
                        // The chain has as many bytes as its header says; this was checked.
                        (n, *left == 0)
                    }
                    Part::Copied(Chunk(bytes, at)) => {
                        let n = room.len().min(bytes.len() - *at);
                        room[..n].copy_from_slice(&bytes[*at..*at + n]);
                        *at += n;
                        (n, *at == bytes.len())
                    }
                };
                self.len -= u32::try_from(n).map_err(|_| Broken)?;
                room = &mut room[n..];
                if done {
                    self.drop_first(queue, held)?;
                }
            }
        }
        Ok(before - self.len)
    }

    fn drop_first(&mut self, queue: &mut Queue<'_>, held: &mut Held) -> Result<(), Broken> {
        match self.parts.pop_front() {
            Some(Part::Lent(chain, _)) => {
                self.lent -= 1;
                held.lent -= 1;
                queue.give_back(&chain, 0)
            }
            Some(Part::Copied(chunk)) => {
                held.bytes -= chunk.cost();
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Drops all bytes, and gives back all chains.
    pub(crate) fn drop_all(mut self, queue: &mut Queue<'_>, held: &mut Held) -> Result<(), Broken> {
        while !self.parts.is_empty() {
            self.drop_first(queue, held)?;
        }
        Ok(())
    }

    /// Copies the bytes of all chains that are held, and gives the chains back.
    pub(crate) fn return_lent(
        &mut self,
        queue: &mut Queue<'_>,
        held: &mut Held,
    ) -> Result<(), Broken> {
        for part in &mut self.parts {
            let Part::Lent(chain, left) = part else { continue };
            let mut bytes = vec![0; usize::try_from(*left).map_err(|_| Broken)?];
            chain.read(queue.memory(), &mut bytes)?;
            queue.give_back(chain, 0)?;
            let chunk = Chunk(bytes, 0);
            self.lent -= 1;
            held.lent -= 1;
            held.bytes += chunk.cost();
            *part = Part::Copied(chunk);
        }
        Ok(())
    }

    /// The bytes and what they hold, counted from the parts.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn count(&self) -> (u32, Held) {
        let (mut len, mut held) = (0, Held::default());
        for part in &self.parts {
            let (bytes, cost) = match part {
                Part::Lent(_, left) => (*left as usize, Held { bytes: 0, lent: 1 }),
                Part::Copied(chunk) => {
                    (chunk.0.len() - chunk.1, Held { bytes: chunk.cost(), lent: 0 })
                }
            };
            len += bytes;
            held += cost;
        }
        assert_eq!(held.lent, self.lent);
        (u32::try_from(len).expect("within the credit of a connection"), held)
    }
}
