//! Reads and writes of any length on one connection, in pieces of at most 1 MiB, 4 of them in flight.

use std::{
    collections::VecDeque,
    io::{Read, Write},
};

use nbd::wire::TransmissionFlags;

use crate::{
    client::{Client, Order},
    error::ClientError,
};

/// The longest read or write, in bytes.
const PIECE: u64 = 1 << 20;
/// The most reads or writes in flight.
const DEPTH: usize = 4;

/// How a write becomes durable.
#[derive(Debug, Clone, Copy)]
pub struct Durability {
    /// Make each piece durable before it is answered.
    pub fua: bool,
    /// Flush at the end.
    pub flush: bool,
}

/// Copies `len` bytes of the export from `at` on to `sink`.
///
/// # Errors
/// As `Client::next_good`; `ClientError::Output` if the sink fails.
pub fn read(link: &mut Client, at: u64, len: u64, sink: &mut dyn Write) -> Result<(), ClientError> {
    let done = read_pieces(link, at, len, sink);
    settled(link, done)
}

/// Copies all of `source` to the export from `at` on. Returns the number of bytes.
///
/// # Errors
/// As `Client::next_good`; `ClientError::Input` if the source fails.
pub fn write(
    link: &mut Client,
    at: u64,
    source: &mut dyn Read,
    durability: Durability,
) -> Result<u64, ClientError> {
    let done = write_pieces(link, at, source, durability.fua);
    let written = settled(link, done)?;
    if durability.flush {
        flush(link)?;
    }
    Ok(written)
}

/// Makes the written data durable. A server without NBD_CMD_FLUSH is not asked: either it has nothing to
/// lose, or it makes no promise.
///
/// # Errors
/// As `Client::flush`.
pub fn flush(link: &mut Client) -> Result<(), ClientError> {
    if !link.terms().flags.contains(TransmissionFlags::SEND_FLUSH) {
        return Ok(());
    }
    link.flush()
}

fn read_pieces(
    link: &mut Client,
    at: u64,
    len: u64,
    sink: &mut dyn Write,
) -> Result<(), ClientError> {
    let piece = piece(link);
    let end = at.saturating_add(len);
    let mut next = at;
    // In the order of their offsets. Pieces that have arrived wait for earlier ones.
    let mut pieces: VecDeque<(u64, Option<Vec<u8>>)> = VecDeque::new();
    let mut spare = Vec::new();
    while next < end || !pieces.is_empty() {
        while next < end && pieces.len() < DEPTH {
            let len = piece.min(end - next);
            link.submit(Order::read(next, len, spare.pop().unwrap_or_default()))?;
            pieces.push_back((next, None));
            next += len;
        }
        let order = link.next_good()?.order;
        if let Some((_, bytes)) = pieces.iter_mut().find(|(at, _)| *at == order.at) {
            *bytes = Some(order.bytes);
        }
        while let Some((_, Some(bytes))) = pieces.pop_front_if(|(_, bytes)| bytes.is_some()) {
            sink.write_all(&bytes).map_err(ClientError::Output)?;
            spare.push(bytes);
        }
    }
    sink.flush().map_err(ClientError::Output)
}

fn write_pieces(
    link: &mut Client,
    at: u64,
    source: &mut dyn Read,
    fua: bool,
) -> Result<u64, ClientError> {
    let piece = piece(link);
    let mut next = at;
    let mut spare = Vec::new();
    let mut ended = false;
    while !ended || link.under_way() > 0 {
        if !ended && link.under_way() < DEPTH {
            let mut payload: Vec<u8> = spare.pop().unwrap_or_default();
            payload.clear();
            source.take(piece).read_to_end(&mut payload).map_err(ClientError::Input)?;
            ended = payload.is_empty();
            if !ended {
                let len = payload.len() as u64;
                link.submit(Order::write(next, payload, fua))?;
                link.turn()?;
                next += len;
            }
            continue;
        }
        spare.push(link.next_good()?.order.bytes);
    }
    Ok(next - at)
}

/// Waits for all answers after an error that leaves the connection usable.
fn settled<T>(link: &mut Client, done: Result<T, ClientError>) -> Result<T, ClientError> {
    if done.as_ref().is_err_and(ClientError::is_of_one_request) {
        link.settle();
    }
    done
}

/// The length of one read or write: a multiple of the block size, within the server's limit.
pub fn piece(link: &Client) -> u64 {
    let longest = PIECE.min(link.longest_payload());
    longest - longest % u64::from(link.terms().blocks.minimum.max(1))
}
