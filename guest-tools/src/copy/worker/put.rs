//! Writes to the destination what has been read: as data, or as zeroes.

use std::ops::Range;

use nbd::wire::{CommandFlags, TransmissionFlags};
use nbd_client::{Order, Verb};

use super::{
    super::{
        chunk::{Chunk, Kind},
        ends::Side,
        error::CopyError,
        ordered::Piece,
        zeroes::{is_zero, runs},
    },
    Worker,
};

impl Worker<'_> {
    /// Takes bytes that were read. Zeroes among them are not written as data.
    pub(super) fn got(
        &mut self,
        at: u64,
        bytes: Vec<u8>,
        holes: &[(u64, u64)],
    ) -> Result<(), CopyError> {
        let rules = &self.job.rules;
        let sparse = if rules.sparse > 0 { rules.sparse } else { rules.align.max(512) };
        let whole = rules.allocate || (rules.sparse == 0 && holes.is_empty());
        if whole || matches!(self.target, Side::Stream(_) | Side::Null) {
            return self.write(at, bytes, false);
        }
        let zero = |part: Range<usize>| {
            let (from, to) = (at + part.start as u64, at + part.end as u64);
            let hole = |&(at, len): &(u64, u64)| at <= from && to <= at + len;
            holes.iter().any(hole)
                || rules.sparse > 0 && is_zero(bytes.get(part).unwrap_or_default())
        };
        let found = runs(at, bytes.len(), sparse, zero);
        if let [(_, false)] = found[..] {
            return self.write(at, bytes, false);
        }
        for (part, zero) in found {
            let (from, len) = (at + part.start as u64, part.len() as u64);
            if zero {
                self.flying = self.flying.saturating_sub(len);
                self.zero(from, len)?;
            } else {
                let mut room = self.room(len);
                room.copy_from_slice(bytes.get(part).unwrap_or_default());
                self.write(from, room, false)?;
            }
        }
        self.spare.push(bytes);
        Ok(())
    }

    pub(super) fn write(
        &mut self,
        at: u64,
        mut bytes: Vec<u8>,
        zeroes: bool,
    ) -> Result<(), CopyError> {
        let minimum = self.target.minimum();
        match &mut self.target {
            Side::Client(client) => {
                let over = bytes.len() as u64 % minimum;
                if over > 0 {
                    // The source ends within a block. The bytes of the destination after it stay as
                    // they are.
                    let whole = bytes.len() - usize::try_from(over).unwrap_or(0);
                    let block = at + whole as u64;
                    self.tail = Some(bytes.split_off(whole));
                    client.submit(Order::read(block, minimum, Vec::new()))?;
                }
                if !bytes.is_empty() {
                    client.submit(Order::write(at, bytes, false).tagged(u64::from(zeroes)))?;
                }
                Ok(())
            }
            Side::Stream(local) => {
                let len = bytes.len() as u64;
                self.ordered.put(at, Piece::Bytes(bytes), local, &mut self.spare)?;
                self.written(len, zeroes);
                Ok(())
            }
            side => {
                if let Side::File(local) = side {
                    local.write(at, &bytes)?;
                }
                self.written(bytes.len() as u64, zeroes);
                self.spare.push(bytes);
                Ok(())
            }
        }
    }

    pub(super) fn zero(&mut self, at: u64, mut len: u64) -> Result<(), CopyError> {
        let rules = &self.job.rules;
        let over = len % self.target.minimum();
        if over > 0 && !rules.zero {
            // The source ends within a block.
            self.fill(at + len - over, over);
            len -= over;
        }
        match &mut self.target {
            Side::Stream(local) => {
                self.ordered.put(at, Piece::Zeroes(len), local, &mut self.spare)?;
            }
            Side::Null => {}
            _ if rules.zero && !rules.allocate => {}
            Side::File(local) if local.zero(at, len, rules.allocate)? => {}
            Side::Client(client)
                if client.terms().flags.contains(TransmissionFlags::SEND_WRITE_ZEROES)
                    && (1..=client.longest_range()).contains(&len) =>
            {
                let flag =
                    if rules.allocate { CommandFlags::NO_HOLE } else { CommandFlags::empty() };
                let now = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(0);
                client.submit(Order::bare(Verb::Zero(flag), at, len).tagged(now))?;
                self.flying += self.weight(len);
                return Ok(());
            }
            _ => {
                self.fill(at, len);
                return Ok(());
            }
        }
        self.job.finished(len, true);
        Ok(())
    }

    /// Puts a write of zeroes at the head of the queue.
    pub(super) fn fill(&mut self, at: u64, len: u64) {
        if len > 0 {
            self.todo.push_front(Chunk { at, len, kind: Kind::Fill });
            self.todo_len += len;
        }
    }
}
