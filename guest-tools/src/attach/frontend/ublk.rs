//! A frontend to the ublk driver: a queue of commands, one for each request that may be in flight. The
//! command of a tag completes when there is a request, and is submitted again with its answer. The data of
//! requests is read from and written to the driver's file (UBLK_F_USER_COPY), so the driver needs no memory
//! of this process. (ublk(4), <linux/ublk_cmd.h>.)

use std::{
    collections::VecDeque,
    fmt, io,
    os::fd::{AsFd, BorrowedFd},
};

use nbd::wire::{Command, CommandFlags, Errno, Request};
use nix::{errno::Errno as System, poll::PollFlags};

use super::{Asked, Frontend, FrontendError, Next, Spares};
use crate::sys::ublk::Queue;

/// `_IOWR('u', 0x20, struct ublksrv_io_cmd)`: wait for the first request of a tag.
const FETCH: u32 = 0xc010_7520;
/// `_IOWR('u', 0x21, struct ublksrv_io_cmd)`: answer a request and wait for the next one.
const COMMIT_AND_FETCH: u32 = 0xc010_7521;
/// The result of a command when the device is being taken away.
const ABORTED: i32 = -(System::ENODEV as i32);

/// The operations of `struct ublksrv_io_desc`.
const OP_READ: u32 = 0;
const OP_WRITE: u32 = 1;
const OP_FLUSH: u32 = 2;
const OP_DISCARD: u32 = 3;
const OP_WRITE_ZEROES: u32 = 5;
const OP: u32 = 0xff;
const FUA: u32 = 1 << 13;
const NO_UNMAP: u32 = 1 << 15;

/// The offset of the first tag's data in the driver's file, in bytes, and the distance to the next tag's, as
/// a power of two.
const BYTES: u64 = 0x8000_0000;
const TAG: u32 = 25;

/// A queue of the driver.
pub(crate) struct Ublk {
    queue: Queue,
    /// For each tag, the length of an unanswered request.
    asked: Vec<Option<u64>>,
    /// How many commands the driver has.
    waiting: usize,
    /// Tags whose requests have arrived and were not taken yet.
    come: VecDeque<u16>,
    ended: bool,
    /// Commands were pushed and not yet submitted.
    pushed: bool,
    spares: Spares,
}

impl Ublk {
    pub(crate) fn new(queue: Queue) -> Self {
        let asked = vec![None; usize::from(queue.depth())];
        let spares = Spares::default();
        let come = VecDeque::with_capacity(asked.len());
        Self { queue, asked, waiting: 0, come, ended: false, pushed: false, spares }
    }

    fn push(&mut self, operation: u32, tag: u16, result: i32) -> Result<(), FrontendError> {
        let mut words = [0; 16];
        // Queue 0, the tag, the result, and no address.
        words[2..4].copy_from_slice(&tag.to_ne_bytes());
        words[4..8].copy_from_slice(&result.to_ne_bytes());
        let pushed = self.queue.push(operation, tag, words);
        pushed.map_err(|error| self.failed("answer a request", error))?;
        self.waiting += 1;
        self.pushed = true;
        Ok(())
    }

    /// Collects completed commands. This is done even when no requests are wanted, because nothing else
    /// reports that the device is being taken away.
    fn collect(&mut self) -> Result<(), FrontendError> {
        while let Some((tag, result)) = self.queue.pop() {
            self.waiting -= 1;
            match result {
                0 => self.come.push_back(tag),
                ABORTED => {}
                other => {
                    let error = io::Error::from_raw_os_error(other.saturating_neg());
                    return Err(self.failed("get a request", error));
                }
            }
        }
        // The driver ends the commands once no request is in flight.
        self.ended |=
            self.waiting == 0 && self.come.is_empty() && self.asked.iter().all(Option::is_none);
        Ok(())
    }

    /// Reads the request that a completed command has brought.
    fn request(&mut self, tag: u16) -> Result<Next, FrontendError> {
        let words = self.queue.descriptor(tag).unwrap_or([u32::MAX; 6]);
        let [operation, sectors, low, high, ..] = words;
        let mut flags = CommandFlags::empty();
        flags.set(CommandFlags::FUA, operation & FUA != 0);
        let command = match operation & OP {
            OP_READ => Command::READ,
            OP_WRITE => Command::WRITE,
            OP_FLUSH => Command::FLUSH,
            OP_DISCARD => Command::TRIM,
            OP_WRITE_ZEROES => {
                flags.set(CommandFlags::NO_HOLE, operation & NO_UNMAP != 0);
                Command::WRITE_ZEROES
            }
            // An unknown operation. It is answered with an error.
            _ => Command(u16::MAX),
        };
        let first = if cfg!(target_endian = "little") {
            u64::from(low) | u64::from(high) << 32
        } else {
            u64::from(high) | u64::from(low) << 32
        };
        let (offset, len) = match command {
            Command::FLUSH => (0, 0),
            _ => (first.saturating_mul(512), u64::from(sectors) << 9),
        };
        let mut bytes = Vec::new();
        if command == Command::WRITE {
            bytes = self.spares.take();
            bytes.resize(usize::try_from(len).unwrap_or_default(), 0);
            let read = self.queue.read_exact_at(&mut bytes, place(tag));
            read.map_err(|error| self.failed("get the bytes of a write", error))?;
        }
        if let Some(asked) = self.asked.get_mut(usize::from(tag)) {
            *asked = Some(len);
        }
        let request = Request { flags, command, cookie: u64::from(tag), offset, len };
        Ok(Next::Asked(Asked { request, bytes }))
    }

    const fn failed(&mut self, what: &'static str, source: io::Error) -> FrontendError {
        self.ended = true;
        FrontendError::Driver { what, source }
    }
}

impl Frontend for Ublk {
    /// Submits a command for each tag. The device can start once the driver has all of them.
    fn begin(&mut self) -> Result<(), FrontendError> {
        let enabled = self.queue.enable();
        enabled.map_err(|error| self.failed("take the queue", error))?;
        for tag in 0..self.queue.depth() {
            self.push(FETCH, tag, 0)?;
        }
        self.send()
    }

    fn interest(&self, _accepts: bool) -> PollFlags {
        PollFlags::POLLIN
    }

    fn wake(&mut self) -> Result<(), FrontendError> {
        let before = self.waiting;
        self.collect()?;
        // The last submission may have collected the completions that this call was woken for.
        if self.waiting == before {
            let turned = self.queue.turn();
            turned.map_err(|error| self.failed("get requests", error))?;
            self.collect()?;
        }
        Ok(())
    }

    fn next(&mut self) -> Result<Next, FrontendError> {
        if self.ended {
            return Ok(Next::End);
        }
        self.come.pop_front().map_or(Ok(Next::Nothing), |tag| self.request(tag))
    }

    fn room(&mut self) -> Vec<u8> {
        self.spares.take()
    }

    fn answer(&mut self, cookie: u64, error: Errno, payload: Vec<u8>) -> Result<(), FrontendError> {
        let Ok(tag) = u16::try_from(cookie) else { return Ok(()) };
        let asked = self.asked.get_mut(usize::from(tag)).and_then(Option::take);
        let Some(len) = asked else { return Ok(()) };
        let result = if error.0 == 0 {
            if !payload.is_empty() {
                let written = self.queue.write_all_at(&payload, place(tag));
                written.map_err(|error| self.failed("give the bytes of a read", error))?;
            }
            i32::try_from(len).unwrap_or(i32::MAX)
        } else {
            -system(error)
        };
        self.spares.give_back(payload);
        self.push(COMMIT_AND_FETCH, tag, result)
    }

    fn send(&mut self) -> Result<(), FrontendError> {
        if !self.pushed || self.ended {
            return Ok(());
        }
        self.pushed = false;
        let turned = self.queue.turn();
        turned.map_err(|error| self.failed("send answers", error))
    }

    fn end(&mut self) {
        self.ended = true;
    }

    fn has_ended(&self) -> bool {
        self.ended
    }
}

/// The result for the driver to pass to the kernel: zero or a negative error number.
fn system(error: Errno) -> i32 {
    let known = match error {
        Errno::EPERM => System::EPERM,
        Errno::ENOMEM => System::ENOMEM,
        Errno::EINVAL => System::EINVAL,
        Errno::ENOSPC => System::ENOSPC,
        Errno::ENOTSUP => System::EOPNOTSUPP,
        _ => System::EIO,
    };
    known as i32
}

/// The offset of a tag's data in the driver's file.
const fn place(tag: u16) -> u64 {
    BYTES + ((tag as u64) << TAG)
}

impl AsFd for Ublk {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}

impl fmt::Debug for Ublk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ublk").field("waiting", &self.waiting).finish_non_exhaustive()
    }
}
