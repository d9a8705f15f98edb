//! Where a worker waits: for its sockets, and for the flush at the end.

use std::{sync::atomic::Ordering, time::Duration};

use nbd::wire::TransmissionFlags;
use nbd_client::{Client, Order, Verb, client::least, timeout::poll_timeout};
use nix::{
    errno::Errno,
    poll::{PollFlags, poll},
};

use super::{
    super::{
        ends::{Side, until},
        error::CopyError,
    },
    Worker, good, heed,
};

impl Worker<'_> {
    /// Waits until a server or a stream is ready, at most for `most`.
    pub(super) fn wait(&mut self, most: Option<Duration>) -> Result<(), CopyError> {
        let (source, target) = (self.source.poll(), self.target.poll());
        let wanted = !self.exhausted && !self.is_full();
        let stream = self.source.poll_stream().filter(|_| wanted);
        let places = (source.is_some(), target.is_some());
        let mut fds = vec![until(&self.job.halt)];
        fds.extend(source.into_iter().chain(target).chain(stream));
        if fds.len() == 1 {
            // No server owes an answer and no stream is wanted, so nothing would end the wait.
            return Err(CopyError::Stalled);
        }
        let silent = least(self.source.linked().into_iter().chain(self.target.linked()));
        let left = silent.and_then(Client::left);
        match poll(&mut fds, poll_timeout(left.into_iter().chain(most).min())) {
            Ok(0) => {
                let silent =
                    silent.filter(|client| client.left().is_some_and(|left| left.is_zero()));
                let Some(client) = silent else { return Ok(()) };
                self.broken = places;
                return Err(client.silent().into());
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
        if let Some(client) = self.source.client().filter(|_| source) {
            heed(client.turn(), &mut self.broken.0)?;
        }
        if let Some(client) = self.target.client().filter(|_| target) {
            heed(client.turn(), &mut self.broken.1)?;
        }
        Ok(())
    }

    /// Called when all workers are done: sets the length of a file that was copied from a stream,
    /// checks that both sides were left alone meanwhile, and flushes.
    pub(super) fn finish(&mut self) -> Result<(), CopyError> {
        if let (Side::Stream(_), Side::File(local)) = (&self.source, &self.target) {
            local.lengthen(self.at)?;
        }
        self.source.is_unchanged()?;
        if let Side::File(local) = &self.target {
            local.has_size(self.job.rules.size.unwrap_or(self.at))?;
        }
        if !self.job.rules.flush {
            return Ok(());
        }
        let undurable = |source| CopyError::Undurable {
            name: self.names.1.to_owned(),
            source: Box::new(source),
        };
        let flushed = match &mut self.target {
            Side::Client(client)
                if client.terms().flags.contains(TransmissionFlags::SEND_FLUSH) =>
            {
                client.submit(Order::bare(Verb::Flush, 0, 0)).map_err(|e| undurable(e.into()))?;
                self.flush_link().map_err(undurable)?;
                true
            }
            Side::File(local) | Side::Stream(local) => local.flush().map_err(undurable)?,
            Side::Client(_) | Side::Null => false,
        };
        self.job.flushed.store(flushed, Ordering::Relaxed);
        Ok(())
    }

    /// Waits for a flush, without a limit while the server shows signs of life.
    pub(super) fn flush_link(&mut self) -> Result<(), CopyError> {
        let mut flushed = Ok(());
        while self.target.under_way() > 0 {
            let again = self.target.client().and_then(Client::inquire);
            self.push()?;
            match self.target.client().and_then(Client::pop) {
                Some(done) if done.order.verb == Verb::Flush => {
                    flushed = good(&mut self.target, done).map(drop);
                }
                Some(_) => {}
                None if self.job.halt.is_raised() => return Err(CopyError::Interrupted),
                None => self.wait(again)?,
            }
        }
        flushed
    }
}
