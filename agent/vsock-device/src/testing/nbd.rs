//! A small NBD client for the guests of tests: it sends requests and counts replies.

use std::{
    io,
    time::{Duration, Instant},
};

use super::guest::Guest;

/// NBD's port.
pub const PORT: u32 = 10809;
/// NBD_CMD_READ and NBD_CMD_WRITE.
pub const READ: u16 = 0;
pub const WRITE: u16 = 1;
/// Bytes of a simple reply's header.
const REPLY: u64 = 16;

/// Opens the default export on a new connection (NBD_OPT_EXPORT_NAME); gives its own port.
pub fn open(guest: &mut Guest) -> io::Result<u32> {
    let own = guest.connect(PORT)?;
    guest.take(own, 18)?;
    let mut hello = 3_u32.to_be_bytes().to_vec();
    hello.extend(b"IHAVEOPT\x00\x00\x00\x01\x00\x00\x00\x00");
    guest.send(own, &hello);
    guest.take(own, 10)?;
    Ok(own)
}

/// A request's header.
pub fn request(command: u16, at: u64, len: u32) -> Vec<u8> {
    let mut bytes = 0x2560_9513_u32.to_be_bytes().to_vec();
    bytes.extend([0, 0]);
    bytes.extend(command.to_be_bytes());
    bytes.extend(7_u64.to_be_bytes());
    bytes.extend(at.to_be_bytes());
    bytes.extend(len.to_be_bytes());
    bytes
}

/// A load: requests of one kind for some time.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub command: u16,
    /// Bytes of a request.
    pub len: u32,
    /// Requests under way on a connection.
    pub depth: u64,
    pub time: Duration,
}

/// Keeps `depth` requests in flight on each connection. Returns the number of replies of each connection.
pub fn run(guest: &mut Guest, connections: &[u32], load: Load) -> io::Result<Vec<u64>> {
    let Load { command, len, depth, time } = load;
    let mut bytes = request(command, 0, len);
    let reply = if command == READ { REPLY + u64::from(len) } else { REPLY };
    if command == WRITE {
        bytes.resize(bytes.len() + usize::try_from(len).unwrap_or(0), 7);
    }
    let mut asked = vec![depth; connections.len()];
    let mut before = Vec::new();
    for own in connections {
        let socket = guest.sockets.get_mut(own).ok_or(io::ErrorKind::NotConnected)?;
        socket.discards = true;
        before.push(socket.bytes);
        guest.send(*own, &bytes.repeat(usize::try_from(depth).unwrap_or(1)));
    }
    let begun = Instant::now();
    let mut replies = vec![0; connections.len()];
    while begun.elapsed() < time {
        guest.turn(Duration::from_millis(10))?;
        for (i, own) in connections.iter().enumerate() {
            let socket = &guest.sockets[own];
            if socket.reset {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            replies[i] = (socket.bytes - before[i]) / reply;
            while asked[i] < replies[i] + depth {
                guest.send(*own, &bytes);
                asked[i] += 1;
            }
        }
    }
    Ok(replies)
}
