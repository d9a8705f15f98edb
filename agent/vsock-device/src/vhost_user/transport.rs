//! A VMM's socket: receives whole messages with their descriptors and sends replies, without blocking.

use std::{
    io::{self, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::net::UnixStream,
    },
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv},
};

use super::{
    Refused,
    message::{HEADER, Header, MOST_REGIONS, Request},
};
use crate::{
    fault,
    foreign::Foreign,
    sys::socket::{Take, peek_from_start, receive},
};

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
    message: Vec<u8>,
    /// Bytes of the header or of the message that have arrived.
    got: usize,
    /// The number of descriptors that the message must have.
    wanted: usize,
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
        peek_from_start(socket.as_fd())?;
        Ok(Self {
            socket,
            head: [0; HEADER],
            header: None,
            message: Vec::new(),
            got: 0,
            wanted: 0,
            unsent: Vec::new(),
        })
    }

    /// Whether replies wait for the VMM to read them. Nothing is received until then.
    pub(crate) fn is_stuck(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Receives the next message. It stays in the socket until `consume` is called, so that a process that takes the
    /// connection over receives it too if this process ends before it has executed the message.
    pub(crate) fn receive(&mut self) -> Result<Incoming, TransportError> {
        loop {
            let into = match self.header {
                None => &mut self.head[self.got..],
                Some(_) => &mut self.message[self.got..],
            };
            let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
            match recv(self.socket.as_raw_fd(), into, flags).map_err(io::Error::from) {
                Ok(0) => return Ok(Incoming::End),
                Ok(n) => self.got += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Incoming::Nothing);
                }
                Err(error) if is_end(&error) => return Ok(Incoming::End),
                Err(error) => return Err(error.into()),
            }
            match self.header {
                None if self.got == HEADER => {
                    let header = Header::parse(&self.head)?;
                    self.message.resize(HEADER + header.len, 0);
                    (self.header, self.got) = (Some(header), 0);
                    peek_from_start(self.socket.as_fd())?;
                }
                Some(header) if self.got == self.message.len() => {
                    let files = self.files(header)?;
                    return Ok(Incoming::Message(header, self.message.split_off(HEADER), files));
                }
                _ => {}
            }
        }
    }

    /// The descriptors of the message, if it must have some.
    fn files(&mut self, header: Header) -> Result<Vec<Foreign>, TransportError> {
        // The handler reports a message that cannot be parsed.
        let parsed = Request::parse(header.kind, self.message.get(HEADER..).unwrap_or_default());
        self.wanted = parsed.map_or(0, |request| request.files());
        let mut files = Vec::new();
        if self.wanted > 0 {
            peek_from_start(self.socket.as_fd())?;
            let mut rest = &mut self.message[..];
            while !rest.is_empty() {
                let received = receive(self.socket.as_fd(), rest, Take::Look)?;
                files.extend(received.files);
                if received.cut || files.len() > MOST_REGIONS {
                    return Err(Refused::Descriptors(files.len()).into());
                }
                rest = &mut rest[received.bytes..];
            }
        }
        Ok(files)
    }

    /// Removes the message that was received last from the socket.
    pub(crate) fn consume(&mut self) -> Result<(), TransportError> {
        let Some(header) = self.header.take() else { return Ok(()) };
        fault::step();
        let (mut left, mut files) = (HEADER + header.len, 0);
        self.message.resize(left, 0);
        while left > 0 {
            // The bytes are there, so this does not wait.
            let received = receive(self.socket.as_fd(), &mut self.message[..left], Take::Off)?;
            files += received.files.len();
            left -= received.bytes.max(1);
        }
        fault::step();
        self.got = 0;
        peek_from_start(self.socket.as_fd())?;
        if files == self.wanted {
            Ok(())
        } else {
            Err(Refused::Files(header.kind, files, self.wanted).into())
        }
    }

    /// Whether the VMM has sent something that was not received.
    pub(crate) fn has_input(&self) -> io::Result<bool> {
        let mut socket = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        Ok(poll(&mut socket, PollTimeout::ZERO)? > 0)
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
    use std::io::Read;

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
    fn messages_in_pieces_are_received_whole_with_their_descriptors_until_they_are_consumed() {
        let (mut ours, vmm) = pair();
        let fd = vmm.memory.as_fd();
        vmm.say(code::SET_VRING_KICK, &1_u64.to_ne_bytes(), &[fd]).unwrap();
        vmm.say(code::SET_OWNER, &[], &[]).unwrap();
        let Ok(Incoming::Message(header, body, files)) = ours.receive() else { panic!("one") };
        assert_eq!((header.kind, body.len(), files.len()), (Kind::SetVringKick, 8, 1));
        ours.consume().unwrap();
        let Ok(Incoming::Message(header, body, files)) = ours.receive() else { panic!("two") };
        assert_eq!((header.kind, body.len(), files.len()), (Kind::SetOwner, 0, 0));
        ours.consume().unwrap();
        // Byte by byte, with a descriptor in the middle of the message.
        let bytes = [code::SET_VRING_CALL, 1, 8, 5, 0].map(u32::to_ne_bytes).concat();
        for (i, byte) in bytes.iter().enumerate() {
            assert!(matches!(ours.receive(), Ok(Incoming::Nothing)), "{i}");
            vmm.send(&[*byte], &[fd][..usize::from(i == 13)]).unwrap();
        }
        let Ok(Incoming::Message(header, body, files)) = ours.receive() else { panic!("three") };
        assert_eq!((header.kind, body[0], files.len()), (Kind::SetVringCall, 5, 1));
        // As another process does that has the socket too.
        let mut next = Transport::new(ours.socket.try_clone().unwrap()).unwrap();
        let Ok(Incoming::Message(header, body, files)) = next.receive() else { panic!("again") };
        assert_eq!((header.kind, body[0], files.len()), (Kind::SetVringCall, 5, 1));
        next.consume().unwrap();
        drop(vmm);
        assert!(matches!(next.receive(), Ok(Incoming::End)));
    }

    #[test]
    fn more_descriptors_than_a_message_has_are_refused() {
        let (mut ours, vmm) = pair();
        let fds = [vmm.memory.as_fd(); 30];
        for (code, body, expected) in
            [(code::SET_OWNER, &[][..], 0), (code::SET_VRING_KICK, &[0; 8], 1)]
        {
            vmm.say(code, body, &fds).unwrap();
            assert!(matches!(ours.receive(), Ok(Incoming::Message(..))));
            let refused = ours.consume();
            assert!(
                matches!(refused, Err(TransportError::Refused(Refused::Files(_, 30, n))) if n == expected),
                "{refused:?}"
            );
        }
        let bytes = [code::SET_VRING_CALL, 1, 8, 0, 0].map(u32::to_ne_bytes).concat();
        vmm.send(&bytes[..9], &fds).unwrap();
        assert!(matches!(ours.receive(), Ok(Incoming::Nothing)));
        vmm.send(&bytes[9..], &fds).unwrap();
        assert!(matches!(ours.receive(), Err(TransportError::Refused(Refused::Descriptors(60)))));
    }

    #[test]
    fn a_message_has_not_the_descriptors_of_the_next() {
        let (mut ours, vmm) = pair();
        vmm.say(code::SET_FEATURES, &[0; 8], &[]).unwrap();
        vmm.say(code::SET_OWNER, &[], &[]).unwrap();
        vmm.say(code::SET_VRING_KICK, &[0; 8], &[vmm.memory.as_fd()]).unwrap();
        for expected in [0, 0, 1] {
            let Ok(Incoming::Message(_, _, files)) = ours.receive() else { panic!("a message") };
            assert_eq!(files.len(), expected);
            ours.consume().unwrap();
        }
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
        let taken = (&vmm.socket).read(&mut bytes).unwrap();
        assert!(taken > 0);
        while ours.is_stuck() {
            ours.send(&[]).unwrap();
            drop((&vmm.socket).read(&mut bytes));
        }
    }
}
