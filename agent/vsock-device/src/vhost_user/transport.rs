//! A VMM's socket: receives whole messages with their descriptors and sends replies, without blocking.

use std::{
    io::{self, Write},
    mem,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
};

use super::{
    Refused,
    message::{HEADER, Header, MOST_REGIONS},
};
use crate::{foreign::Foreign, sys::socket::receive};

/// What the VMM has sent.
#[derive(Debug)]
pub(crate) enum Incoming {
    Message(Header, Vec<u8>, Vec<Foreign>),
    /// No whole message has arrived.
    Nothing,
    /// The VMM has closed the connection.
    End,
}

/// A VMM's connection.
#[derive(Debug)]
pub(crate) struct Transport {
    socket: UnixStream,
    /// The header that is being received or was received.
    head: [u8; HEADER],
    header: Option<Header>,
    body: Vec<u8>,
    /// Bytes of the header or of the body that have arrived.
    got: usize,
    files: Vec<Foreign>,
    /// Replies that the VMM has not read.
    unsent: Vec<u8>,
}

/// Whether an error means that the VMM has closed the connection.
fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

impl Transport {
    pub(crate) fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            head: [0; HEADER],
            header: None,
            body: Vec::new(),
            got: 0,
            files: Vec::new(),
            unsent: Vec::new(),
        })
    }

    /// Whether replies wait for the VMM to read them. Nothing is received until then.
    pub(crate) fn is_stuck(&self) -> bool {
        !self.unsent.is_empty()
    }

    pub(crate) fn receive(&mut self) -> Result<Incoming, TransportError> {
        loop {
            // Not beyond the end of a message: descriptors come with the first byte of their message.
            let into = match self.header {
                None => &mut self.head[self.got..],
                Some(_) => &mut self.body[self.got..],
            };
            if !into.is_empty() {
                let received = match receive(self.socket.as_fd(), into) {
                    Ok(received) => received,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        return Ok(Incoming::Nothing);
                    }
                    Err(error) if is_end(&error) => return Ok(Incoming::End),
                    Err(error) => return Err(error.into()),
                };
                self.files.extend(received.files);
                if received.cut || self.files.len() > MOST_REGIONS {
                    return Err(Refused::Descriptors(self.files.len()).into());
                }
                if received.bytes == 0 {
                    return Ok(Incoming::End);
                }
                self.got += received.bytes;
            }
            match self.header {
                None if self.got == HEADER => {
                    let header = Header::parse(&self.head)?;
                    self.body.resize(header.len, 0);
                    (self.header, self.got) = (Some(header), 0);
                }
                Some(header) if self.got == header.len => {
                    (self.header, self.got) = (None, 0);
                    let (body, files) = (mem::take(&mut self.body), mem::take(&mut self.files));
                    return Ok(Incoming::Message(header, body, files));
                }
                _ => {}
            }
        }
    }

    /// Sends as much as possible of the pending replies and of `reply`.
    pub(crate) fn send(&mut self, reply: &[u8]) -> io::Result<()> {
        self.unsent.extend_from_slice(reply);
        while !self.unsent.is_empty() {
            match self.socket.write(&self.unsent) {
                Ok(n) => drop(self.unsent.drain(..n)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The next receive reports it as well.
                Err(error) if is_end(&error) => self.unsent.clear(),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl AsFd for Transport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Why a connection cannot be used any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransportError {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("its socket: {0}")]
    System(#[from] io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        testing::vmm::{Vmm, code},
        vhost_user::message::Kind,
    };

    fn pair() -> (Transport, Vmm) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Transport::new(ours).unwrap(), Vmm::over(theirs).unwrap())
    }

    #[test]
    fn messages_in_pieces_of_any_length_are_received_whole_with_their_descriptors() {
        let (mut ours, vmm) = pair();
        let fd = vmm.memory.as_fd();
        vmm.say(code::SET_VRING_KICK, &1_u64.to_ne_bytes(), &[fd]).unwrap();
        vmm.say(code::SET_OWNER, &[], &[]).unwrap();
        let Ok(Incoming::Message(header, body, files)) = ours.receive() else { panic!("one") };
        assert_eq!((header.kind, body.len(), files.len()), (Kind::SetVringKick, 8, 1));
        let Ok(Incoming::Message(header, body, files)) = ours.receive() else { panic!("two") };
        assert_eq!((header.kind, body.len(), files.len()), (Kind::SetOwner, 0, 0));
        // Byte by byte, with a descriptor in the middle of the message.
        let bytes = [2_u32, 1, 8, 5, 0].map(u32::to_ne_bytes).concat();
        for (i, byte) in bytes.iter().enumerate() {
            assert!(matches!(ours.receive(), Ok(Incoming::Nothing)), "{i}");
            vmm.send(&[*byte], &[fd][..usize::from(i == 13)]).unwrap();
        }
        let Ok(Incoming::Message(header, body, files)) = ours.receive() else { panic!("three") };
        assert_eq!((header.kind, body[0], files.len()), (Kind::SetFeatures, 5, 1));
        drop(vmm);
        assert!(matches!(ours.receive(), Ok(Incoming::End)));
    }

    #[test]
    fn more_descriptors_than_any_message_has_are_refused() {
        let (mut ours, vmm) = pair();
        let fds = [vmm.memory.as_fd(); 30];
        vmm.send(&[1], &fds).unwrap();
        assert!(matches!(ours.receive(), Ok(Incoming::Nothing)));
        vmm.send(&[0], &fds).unwrap();
        assert!(matches!(ours.receive(), Err(TransportError::Refused(Refused::Descriptors(60)))));
    }

    #[test]
    fn replies_that_the_vmm_does_not_read_are_kept() {
        let (mut ours, vmm) = pair();
        let reply = vec![7; 100_000];
        while !ours.is_stuck() {
            ours.send(&reply).unwrap();
        }
        let mut bytes = vec![0; 10_000_000];
        vmm.socket.set_nonblocking(true).unwrap();
        let taken = io::Read::read(&mut (&vmm.socket), &mut bytes).unwrap();
        assert!(taken > 0);
        while ours.is_stuck() {
            ours.send(&[]).unwrap();
            io::Read::read(&mut (&vmm.socket), &mut bytes).ok();
        }
    }
}
