//! Where a lane waits: for its sockets, and for the flush at the end.

use std::sync::atomic::Ordering;

use nbd::wire::TransmissionFlags;
use nix::{
    errno::Errno,
    poll::{PollFlags, poll},
};

use super::{
    super::{
        ends::{Side, until},
        error::CopyError,
    },
    Lane, good, heed,
};
use crate::{
    link::{Link, Order, Verb, least},
    patience::poll_timeout,
};

impl Lane<'_> {
    /// Waits until a server or a stream can go on. `patience`: silence is an error in time.
    pub(super) fn wait(&mut self, patience: bool) -> Result<(), CopyError> {
        let (source, target) = (self.source.poll(), self.target.poll());
        let wanted = !self.exhausted && !self.is_full();
        let stream = self.source.poll_stream().filter(|_| wanted);
        let places = (source.is_some(), target.is_some());
        let mut fds = vec![until(&self.job.halt)];
        fds.extend(source.into_iter().chain(target).chain(stream));
        let silent = least(self.source.linked().into_iter().chain(self.target.linked()));
        let silent = silent.filter(|_| patience);
        match poll(&mut fds, poll_timeout(silent.and_then(Link::left))) {
            Ok(0) => {
                self.broken = places;
                return silent.map_or(Ok(()), |link| Err(link.silent().into()));
            }
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(()),
            Err(errno) => return Err(CopyError::watch(errno)),
        }
        let mut ready = fds
            .iter()
            .skip(1)
            .map(|fd| fd.revents().unwrap_or(PollFlags::empty()) != PollFlags::empty());
        let source = places.0 && ready.next().unwrap_or(false);
        let target = places.1 && ready.next().unwrap_or(false);
        let stream = ready.next().unwrap_or(false);
        drop(ready);
        drop(fds);
        self.readable |= stream;
        if let Some(link) = self.source.link().filter(|_| source) {
            heed(link.turn(), &mut self.broken.0)?;
        }
        if let Some(link) = self.target.link().filter(|_| target) {
            heed(link.turn(), &mut self.broken.1)?;
        }
        Ok(())
    }

    /// All lanes are through: the length of a file that was a stream, and the flush.
    pub(super) fn finish(&mut self) -> Result<(), CopyError> {
        if let (Side::Stream(_), Side::File(local)) = (&self.source, &self.target) {
            local.lengthen(self.at)?;
        }
        if !self.job.rules.flush {
            return Ok(());
        }
        let undurable = |source| CopyError::Undurable {
            name: self.names.1.to_owned(),
            source: Box::new(source),
        };
        let flushed = match &mut self.target {
            Side::Link(link) if link.terms().flags.contains(TransmissionFlags::SEND_FLUSH) => {
                link.submit(Order::bare(Verb::Flush, 0, 0)).map_err(|e| undurable(e.into()))?;
                self.flush_link().map_err(undurable)?;
                true
            }
            Side::File(local) => local.flush().map_err(undurable)?,
            _ => false,
        };
        self.job.flushed.store(flushed, Ordering::Relaxed);
        Ok(())
    }

    /// A flush takes as long as it takes.
    pub(super) fn flush_link(&mut self) -> Result<(), CopyError> {
        loop {
            self.push()?;
            if let Some(done) = self.target.link().and_then(Link::pop) {
                return good(&mut self.target, done).map(drop);
            }
            if self.job.halt.is_raised() {
                return Err(CopyError::Interrupted);
            }
            self.wait(false)?;
        }
    }
}
