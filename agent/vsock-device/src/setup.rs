//! The setup of a device: the VMM's messages that made it what it is, and the descriptors that came with them.
//!
//! A process that takes a device over executes them as if the VMM had just sent them, so that they are parsed and
//! checked again by the same code. Only messages that still have an effect are kept.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use nix::sys::stat::fstat;

use crate::{
    fault,
    foreign::Foreign,
    keeper::Names,
    record::Record,
    vhost_user::message::{Header, Kind, MOST_BODY, MOST_REGIONS, NO_FILE},
};

/// Most messages. There are 3 of the whole device, one reset, and 6 of each queue.
const MOST: usize = 16;

/// A message of the setup.
#[derive(Debug, Clone)]
struct Message {
    kind: Kind,
    /// The queue that it is about.
    queue: Option<u32>,
    body: Vec<u8>,
    /// The numbers of its descriptors.
    files: Vec<u32>,
}

/// A descriptor that is kept.
#[derive(Debug)]
struct Kept {
    number: u32,
    file: Identity,
}

/// An open file, to recognize another descriptor of it: device, inode, and for an eventfd its id.
type Identity = (u64, u64, u64);

/// The messages, where they are recorded, and by what their descriptors are kept.
#[derive(Debug)]
pub(crate) struct Setup {
    messages: Vec<Message>,
    kept: Vec<Kept>,
    next: u32,
    /// `None`: nobody keeps descriptors, or not all of this VM could be kept.
    place: Option<(Arc<Record>, Names)>,
}

impl Setup {
    /// An empty setup.
    pub(crate) fn new(place: Option<(Arc<Record>, Names)>) -> Self {
        Self { messages: Vec::new(), kept: Vec::new(), next: 1, place }
    }

    /// Notes a message that was executed. It replaces an earlier one of its kind about the same queue. `files` are its
    /// descriptors, if they were accepted.
    pub(crate) fn note(&mut self, kind: Kind, body: &[u8], files: &[BorrowedFd<'_>]) {
        if self.place.is_none() {
            return;
        }
        let mut body = body.to_vec();
        let queue = queue_of(kind, &body);
        let events = matches!(kind, Kind::SetVringKick | Kind::SetVringCall);
        if events && files.is_empty() {
            // Otherwise the message would lack its descriptor.
            body[1] |= NO_FILE.to_ne_bytes()[1];
        }
        let Some(files) = self.keep(files) else { return };
        let message = Message { kind, queue, body, files };
        // The table of memory has to come before the queues that are in it, also when it changes later.
        let whole = queue.is_none() && kind != Kind::ResetOwner;
        let before = self.messages.iter().position(|old| (old.kind, old.queue) == (kind, queue));
        match before {
            Some(at) if whole => self.messages[at] = message,
            _ => {
                self.drop_message(kind, queue);
                self.messages.push(message);
            }
        }
    }

    /// Notes that a queue was stopped, at this place.
    pub(crate) fn stopped(&mut self, queue: u32, base: u16) {
        self.drop_message(Kind::SetVringKick, Some(queue));
        self.drop_message(Kind::SetVringCall, Some(queue));
        let body = [queue, base.into()].map(u32::to_ne_bytes).concat();
        self.note(Kind::SetVringBase, &body, &[]);
    }

    /// Notes that the device was reset. RESET_OWNER does the same as RESET_DEVICE, and belongs to no feature.
    pub(crate) fn reset(&mut self) {
        self.messages.retain(|message| {
            matches!(message.kind, Kind::SetVringKick | Kind::SetVringCall)
                || message.queue.is_none()
        });
        self.note(Kind::ResetOwner, &[], &[]);
    }

    fn drop_message(&mut self, kind: Kind, queue: Option<u32>) {
        self.messages.retain(|message| (message.kind, message.queue) != (kind, queue));
    }

    /// Keeps descriptors, and returns their numbers. A keeper such as systemd holds an open file once, whatever its
    /// names, so a file that is kept already is not kept again.
    fn keep(&mut self, files: &[BorrowedFd<'_>]) -> Option<Vec<u32>> {
        let mut numbers = Vec::new();
        for file in files {
            let kept = identity(*file).and_then(|identity| {
                if let Some(kept) = self.kept.iter().find(|kept| kept.file == identity) {
                    return Ok(kept.number);
                }
                let number = self.next;
                if let Some((_, names)) = &self.place {
                    names.keep(&number.to_string(), *file)?;
                }
                fault::step();
                self.next += 1;
                self.kept.push(Kept { number, file: identity });
                Ok(number)
            });
            match kept {
                Ok(number) => numbers.push(number),
                Err(error) => {
                    self.give_up(&error);
                    return None;
                }
            }
        }
        Some(numbers)
    }

    /// Records the setup, with a reply that the VMM waits for. Descriptors that it does not have any more are kept
    /// until then.
    pub(crate) fn commit(&mut self, reply: Option<&[u8]>) {
        let Some((record, names)) = &self.place else { return };
        if let Err(error) = record.set_setup(&self.encode(reply)) {
            return self.give_up(&error);
        }
        let used = |number| self.messages.iter().any(|message| message.files.contains(&number));
        self.kept.retain(|kept| {
            let stays = used(kept.number);
            if !stays {
                fault::step();
                names.forget(&kept.number.to_string());
            }
            stays
        });
    }

    /// This VM cannot be taken over any more.
    fn give_up(&mut self, error: &io::Error) {
        if let Some((_, names)) = &self.place {
            names.lost(error);
        }
        self.end();
    }

    /// The VM has ended: nothing of it is kept.
    pub(crate) fn end(&mut self) {
        if let Some((_, names)) = self.place.take() {
            self.kept.drain(..).for_each(|kept| names.forget(&kept.number.to_string()));
            names.forget_all();
        }
    }

    /// The messages of an earlier process's setup, in order, and the reply that the VMM may still wait for.
    /// `kept` are the descriptors. Descriptors that the setup does not name are forgotten.
    ///
    /// # Errors
    /// `InvalidData` if it is no setup, or descriptors are missing.
    pub(crate) fn over(
        record: Arc<Record>,
        names: &Names,
        kept: &[(u32, OwnedFd)],
    ) -> io::Result<(Self, Earlier)> {
        // The earlier process may have ended before the first message.
        let bytes = record.setup().unwrap_or_else(|| vec![0; 4]);
        let parsed = Encoded(&bytes).setup().ok_or(io::ErrorKind::InvalidData)?;
        let (mut messages, mut files) = (Vec::new(), Vec::new());
        for message in parsed.0 {
            let mut own = Vec::new();
            for number in &message.files {
                let (_, file) =
                    kept.iter().find(|(one, _)| one == number).ok_or(io::ErrorKind::NotFound)?;
                own.push(Foreign::new(file.try_clone()?));
                files.push((*number, identity(file.as_fd())?));
            }
            let header = Header { kind: message.kind, need_reply: false, len: message.body.len() };
            messages.push((header, message.body, own));
        }
        files.sort_unstable();
        files.dedup();
        let mut setup = Self::new(Some((record, names.clone())));
        setup.next = kept.iter().map(|(number, _)| *number).max().unwrap_or(0).saturating_add(1);
        let unknown = |(number, _): &&(u32, _)| files.iter().all(|(one, _)| one != number);
        for (number, _) in kept.iter().filter(unknown) {
            names.forget(&number.to_string());
        }
        setup.kept = files.into_iter().map(|(number, file)| Kept { number, file }).collect();
        Ok((setup, Earlier { messages, reply: parsed.1 }))
    }

    /// The messages with the numbers of their descriptors, and then the reply.
    fn encode(&self, reply: Option<&[u8]>) -> Vec<u8> {
        let mut bytes = Vec::new();
        put(&mut bytes, self.messages.len());
        for message in &self.messages {
            bytes.extend(message.kind.number().to_ne_bytes());
            put(&mut bytes, message.files.len());
            bytes.extend(message.files.iter().flat_map(|number| number.to_ne_bytes()));
            put(&mut bytes, message.body.len());
            bytes.extend(&message.body);
        }
        bytes.extend(reply.unwrap_or_default());
        bytes
    }
}

/// What an earlier process has left of a setup.
#[derive(Debug, Default)]
pub(crate) struct Earlier {
    pub(crate) messages: Vec<(Header, Vec<u8>, Vec<Foreign>)>,
    /// A reply that may not have been sent; empty if there is none.
    pub(crate) reply: Vec<u8>,
}

fn put(bytes: &mut Vec<u8>, number: usize) {
    bytes.extend(u32::try_from(number).unwrap_or(u32::MAX).to_ne_bytes());
}

/// The rest of an encoded setup.
struct Encoded<'a>(&'a [u8]);

impl<'a> Encoded<'a> {
    /// The messages, and the reply after them.
    fn setup(&mut self) -> Option<(Vec<Message>, Vec<u8>)> {
        let count = self.number(MOST)?;
        let messages = (0..count).map(|_| self.message()).collect::<Option<_>>()?;
        Some((messages, self.0.to_vec()))
    }

    fn message(&mut self) -> Option<Message> {
        let kind = Kind::from_wire(u32::try_from(self.number(usize::MAX)?).ok()?)?;
        let count = self.number(MOST_REGIONS)?;
        let files = (0..count)
            .map(|_| u32::try_from(self.number(usize::MAX)?).ok())
            .collect::<Option<_>>()?;
        let len = self.number(MOST_BODY)?;
        let body = self.bytes(len)?.to_vec();
        Some(Message { kind, queue: queue_of(kind, &body), files, body })
    }

    /// The next number, if it is at most `most`.
    fn number(&mut self, most: usize) -> Option<usize> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        usize::try_from(u32::from_ne_bytes(*first)).ok().filter(|number| *number <= most)
    }

    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (first, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(first)
    }
}

/// The queue that a message is about.
fn queue_of(kind: Kind, body: &[u8]) -> Option<u32> {
    match kind {
        Kind::SetVringKick | Kind::SetVringCall => body.first().map(|queue| u32::from(*queue)),
        Kind::SetVringNum | Kind::SetVringBase | Kind::SetVringAddr | Kind::SetVringEnable => {
            body.first_chunk().map(|number| u32::from_ne_bytes(*number))
        }
        _ => None,
    }
}

/// The identity of an open file.
fn identity(file: BorrowedFd<'_>) -> io::Result<Identity> {
    let found = fstat(file)?;
    // All eventfds have one inode.
    let about = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    let id = about.lines().find_map(|line| line.strip_prefix("eventfd-id:"));
    Ok((found.st_dev, found.st_ino, id.and_then(|id| id.trim().parse().ok()).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_a_setup_or_none(bytes in vec(any::<u8>(), 0..200)) {
            Encoded(&bytes).setup();
        }
    }
}
