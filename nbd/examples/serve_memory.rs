//! A whole NBD server: a disk in memory, over TCP on the loopback address, for one client.
//!
//! The crate `nbd` does no I/O, so all of it is here, by std alone. Copy this file and put your own
//! disk in the place of `Disk`.
//!
//! ```console
//! $ cargo run --package nbd --example serve_memory -- 10809
//! $ qemu-io -f raw -c 'write -P 7 0 1M' -c 'read -P 7 0 1M' nbd://127.0.0.1:10809
//! ```

use std::{
    env,
    error::Error,
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    ops::Range,
};

use nbd::{
    BlockSizes, Buffer, Gather, Refusal,
    negotiate::{Ask, Context, Export, Negotiated, Offers, Server, Step},
    transmit::{Checked, Extent, IN_PLACE, ReadPiece, Received, Receiver, Replies},
    wire::{BASE_ALLOCATION, DEFAULT_PORT, ExtentFlags, Request, TransmissionFlags},
};

/// Bytes of the disk.
const SIZE: usize = 64 << 20;
/// Bytes of a block; extents tell blocks of zeroes from others.
const BLOCK: usize = 4096;

fn main() -> Result<(), Box<dyn Error>> {
    let port = env::args().nth(1).map_or(Ok(DEFAULT_PORT), |port| port.parse())?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    println!("nbd://{}/", listener.local_addr()?);
    let (mut stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    if let Some(entered) = negotiate(&mut stream)? {
        transmit(&mut stream, entered)?;
    }
    Ok(())
}

/// A client that has chosen the export.
struct Entered {
    negotiated: Negotiated,
    /// Bytes that have been received already and belong to the transmission.
    received: Vec<u8>,
}

/// Negotiates until the client has chosen the export; `None` if it left.
fn negotiate(stream: &mut TcpStream) -> Result<Option<Entered>, Box<dyn Error>> {
    let (mut input, mut out) = (Vec::new(), Vec::new());
    let mut server = Server::start(Offers::default(), &mut out);
    loop {
        let (consumed, step) = server.step(&input, &mut out);
        input.drain(..consumed);
        // An answer gives the machine back; it may find another option in the rest of the input.
        let is_hungry = matches!(step, Step::Feed(_));
        let step = match step {
            Step::Ask(Ask::List(ask)) => ask.answer(Ok([("", Some("a disk in memory"))]), &mut out),
            Step::Ask(Ask::Export(ask)) => {
                let is_known = ask.name().is_empty();
                let answer =
                    if is_known { Ok(export()) } else { Err(Refusal::unknown(ask.name())) };
                ask.answer(answer, &mut out)
            }
            step => step,
        };
        stream.write_all(&out)?;
        out.clear();
        server = match step {
            Step::Feed(server) => server,
            Step::Done(negotiated) => return Ok(Some(Entered { negotiated, received: input })),
            Step::End(ending) => {
                println!("no transmission: {ending:?}");
                return Ok(None);
            }
            Step::Ask(_) | Step::StartTls(_) => unreachable!("TLS is not offered"),
        };
        if is_hungry {
            let mut piece = [0; 4096];
            match stream.read(&mut piece)? {
                0 => return Ok(None),
                n => input.extend_from_slice(&piece[..n]),
            }
        }
    }
}

fn export() -> Export {
    Export {
        size: SIZE as u64,
        flags: TransmissionFlags::SEND_FLUSH | TransmissionFlags::SEND_WRITE_ZEROES,
        blocks: BlockSizes::default(),
        unit: 1,
        name: None,
        description: Some("a disk in memory".to_owned()),
        contexts: vec![Context::with_extents(BASE_ALLOCATION)],
    }
}

/// Serves requests until the client disconnects.
fn transmit(stream: &mut TcpStream, entered: Entered) -> Result<(), Box<dyn Error>> {
    let Entered { negotiated, received } = entered;
    let mut disk = Disk(vec![0; SIZE]);
    let mut receiver = Receiver::new(negotiated, u64::MAX);
    // A short write waits in the buffer until it is whole.
    let mut buffer = Buffer::new(vec![0; 4 * IN_PLACE].into());
    buffer.spare()[..received.len()].copy_from_slice(&received);
    buffer.added(received.len());
    let mut out = Gather::default();
    // The payload of a long write.
    let mut payload = Vec::new();
    loop {
        match receiver.next(&mut buffer)? {
            Received::Incomplete => {
                send(stream, &mut out)?;
                match stream.read(buffer.spare())? {
                    0 => return Ok(()),
                    n => buffer.added(n),
                }
            }
            Received::Request { request, checked, payload } => {
                let bytes = buffer.filled()[..payload].to_vec();
                buffer.consume(payload);
                let mut replies = Replies { out: &mut out, terms: receiver.terms() };
                disk.answer(&mut replies, &request, checked, &bytes);
            }
            Received::Write { .. } => payload.clear(),
            Received::Payload(n) => {
                payload.extend_from_slice(&buffer.filled()[..n]);
                buffer.consume(n);
            }
            Received::Written { request, checked } => {
                let mut replies = Replies { out: &mut out, terms: receiver.terms() };
                disk.answer(&mut replies, &request, checked, &payload);
            }
            Received::Refused { request, refused } => {
                let mut replies = Replies { out: &mut out, terms: receiver.terms() };
                replies.error(&request, refused.errno, refused.text);
            }
            Received::End(_) => {
                send(stream, &mut out)?;
                return Ok(());
            }
        }
    }
}

fn send(stream: &mut TcpStream, out: &mut Gather<Vec<u8>>) -> io::Result<()> {
    while !out.is_empty() {
        let mut slices = Vec::new();
        out.slices(64, &mut slices);
        let sent = stream.write_vectored(&slices)?;
        out.advance(sent as u64);
    }
    Ok(())
}

struct Disk(Vec<u8>);

impl Disk {
    /// Executes a request, which the receiver has checked: its range lies within the disk.
    fn answer(
        &mut self,
        replies: &mut Replies<'_, Vec<u8>>,
        request: &Request,
        checked: Checked,
        payload: &[u8],
    ) {
        match checked {
            Checked::Read { at, len, df } => {
                let bytes = self.0[range(at, len.into())].to_vec();
                replies.read(request, df, [ReadPiece::Data(bytes)].into_iter());
            }
            Checked::Write { at, len, .. } => {
                self.0[range(at, len.into())].copy_from_slice(payload);
                replies.done(request);
            }
            Checked::Zero { at, len, .. } => {
                self.0[range(at, len)].fill(0);
                replies.done(request);
            }
            Checked::Extents { at, len, one } => {
                let blocks = || {
                    self.0[range(at, len)].chunks(BLOCK).map(|block| {
                        let is_zero = block.iter().all(|byte| *byte == 0);
                        let flags = if is_zero { ExtentFlags::ZERO } else { ExtentFlags::empty() };
                        Extent { len: block.len() as u64, flags }
                    })
                };
                // Only one context is offered, so the extents are those of `base:allocation`.
                replies.extents(request, one, |_| blocks());
            }
            // A flush has nothing to do here. Other commands were not offered.
            _ => replies.done(request),
        }
    }
}

fn range(at: u64, len: u64) -> Range<usize> {
    let to_index = |n| usize::try_from(n).expect("the disk is in memory");
    to_index(at)..to_index(at + len)
}
