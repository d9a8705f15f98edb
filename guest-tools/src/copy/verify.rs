//! Reads both sides of a finished copy and compares them byte for byte. It does not rely on what a
//! server reports about holes.

use std::{collections::HashMap, sync::atomic::Ordering};

use nbd_client::{Client, Order, client::least, timeout::poll_timeout};
use nix::{
    errno::Errno,
    poll::{PollFlags, poll},
};

use super::{
    ends::{Side, until},
    error::CopyError,
    job::Job,
};

/// One thread of the verification.
#[derive(Debug)]
pub(super) struct Verifier<'a> {
    job: &'a Job,
    sides: [Side; 2],
    names: (&'a str, &'a str),
    /// The stride that this thread is working on.
    stride: Option<(u64, u64)>,
    /// By offset: one half of a piece, which waits for the other half.
    halves: HashMap<u64, Vec<u8>>,
    spare: Vec<Vec<u8>>,
    begun: usize,
}

impl<'a> Verifier<'a> {
    pub(super) fn new(job: &'a Job, sides: [Side; 2], names: (&'a str, &'a str)) -> Self {
        let (halves, spare) = (HashMap::new(), Vec::new());
        Self { job, sides, names, stride: None, halves, spare, begun: 0 }
    }

    pub(super) fn run(mut self) {
        let done = self.compare();
        let lost = done.as_ref().is_err_and(|error| !error.is_in_step());
        if let Err(error) = done {
            self.job.fail(error);
        }
        for side in self.sides {
            if !lost {
                side.settle();
            }
        }
    }

    fn compare(&mut self) -> Result<(), CopyError> {
        loop {
            if self.job.halt.is_raised() {
                return Err(CopyError::Interrupted);
            }
            let more = self.begin()?;
            for side in &mut self.sides {
                if let Some(client) = side.client() {
                    client.push()?;
                }
            }
            if self.pop()? || more {
                continue;
            }
            if self.begun == 0 {
                return Ok(());
            }
            self.wait()?;
        }
    }

    /// Asks both sides for the next piece. Returns whether there was one to ask for.
    fn begin(&mut self) -> Result<bool, CopyError> {
        let rules = self.job.rules;
        if self.begun >= rules.depth || self.begun as u64 * rules.request >= rules.queue {
            return Ok(false);
        }
        self.stride = self.stride.filter(|(at, end)| at < end).or_else(|| self.job.claim());
        let Some((at, end)) = self.stride else { return Ok(false) };
        let len = rules.request.min(end - at);
        self.stride = Some((at + len, end));
        self.begun += 1;
        for which in 0..2 {
            self.read(which, at, len)?;
        }
        Ok(true)
    }

    fn read(&mut self, which: usize, at: u64, len: u64) -> Result<(), CopyError> {
        let mut room = self.spare.pop().unwrap_or_default();
        let Some(side) = self.sides.get_mut(which) else { return Ok(()) };
        match side {
            Side::Client(client) => {
                // The other side ends within a block of this one.
                let minimum = u64::from(client.terms().blocks.minimum.max(1));
                let whole = len.next_multiple_of(minimum);
                Ok(client.submit(Order::read(at, whole, room).tagged(len))?)
            }
            Side::File(local) => {
                room.resize(usize::try_from(len).unwrap_or(usize::MAX), 0);
                local.read(at, &mut room)?;
                self.got(which, at, room)
            }
            Side::Stream(_) | Side::Null => Ok(()),
        }
    }

    fn pop(&mut self) -> Result<bool, CopyError> {
        let mut any = false;
        for which in 0..2 {
            while let Some(client) = self.sides.get_mut(which).and_then(Side::client) {
                let Some(done) = client.pop() else { break };
                any = true;
                let mut order = client.good(done)?.order;
                order.bytes.truncate(usize::try_from(order.tag).unwrap_or(usize::MAX));
                self.got(which, order.at, order.bytes)?;
            }
        }
        Ok(any)
    }

    /// Handles one half of a piece.
    fn got(&mut self, which: usize, at: u64, bytes: Vec<u8>) -> Result<(), CopyError> {
        let Some(other) = self.halves.remove(&at) else {
            self.halves.insert(at, bytes);
            return Ok(());
        };
        self.begun -= 1;
        if bytes != other {
            let (from, to) = if which == 0 { (&bytes, &other) } else { (&other, &bytes) };
            let mut pairs = from.iter().zip(to).enumerate();
            if let Some((place, (due, there))) = pairs.find(|(_, (due, there))| due != there) {
                return Err(CopyError::Differ {
                    from: self.names.0.to_owned(),
                    to: self.names.1.to_owned(),
                    at: at + place as u64,
                    there: *there,
                    due: *due,
                });
            }
        }
        self.job.data.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.spare.extend([bytes, other]);
        Ok(())
    }

    fn wait(&mut self) -> Result<(), CopyError> {
        let mut fds = vec![until(&self.job.halt)];
        fds.extend(self.sides.iter().filter_map(Side::poll));
        if fds.len() == 1 {
            return Err(CopyError::Stalled);
        }
        let silent = least(self.sides.iter().filter_map(Side::linked));
        match poll(&mut fds, poll_timeout(silent.and_then(Client::left))) {
            Ok(0) => return silent.map_or(Ok(()), |client| Err(client.silent().into())),
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(()),
            Err(errno) => return Err(CopyError::watch(errno)),
        }
        let ready = fds.iter().skip(1);
        let ready =
            ready.map(|fd| fd.revents().unwrap_or(PollFlags::empty()) != PollFlags::empty());
        let ready: Vec<_> = ready.collect();
        drop(fds);
        let owing = self.sides.iter_mut().filter(|side| side.under_way() > 0);
        for (side, _) in owing.zip(ready).filter(|(_, ready)| *ready) {
            side.client().map_or(Ok(()), Client::turn)?;
        }
        Ok(())
    }
}
