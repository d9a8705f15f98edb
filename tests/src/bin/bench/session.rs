//! One connection of the client: fixed newstyle negotiation, and single requests for filling and
//! verifying. The timed load is in `load`.
//!
//! It is written against the specification and does not use the crate `nbd`, so that it does not
//! share the agent's mistakes and is not slowed down by conveniences.

use std::{
    io::{IoSlice, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
};

use crate::Failure;

const NBDMAGIC: u64 = 0x4e42_444d_4147_4943;
const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const FIXED_NEWSTYLE: u16 = 1;
const NO_ZEROES: u16 = 2;
const OPT_GO: u32 = 7;
const OPT_STRUCTURED_REPLY: u32 = 8;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const REP_IS_ERROR: u32 = 1 << 31;
const INFO_EXPORT: u16 = 0;

const REQUEST: u32 = 0x2560_9513;
pub(crate) const SIMPLE_REPLY: u32 = 0x6744_6698;
pub(crate) const STRUCTURED_REPLY: u32 = 0x668e_33ef;
pub(crate) const CMD_READ: u16 = 0;
pub(crate) const CMD_WRITE: u16 = 1;
pub(crate) const CMD_FLUSH: u16 = 3;
const CMD_DISC: u16 = 2;
pub(crate) const FLAG_DONE: u16 = 1;
pub(crate) const CHUNK_NONE: u16 = 0;
pub(crate) const CHUNK_OFFSET_DATA: u16 = 1;

/// The header of a request, encoded.
pub(crate) fn request(command: u16, cookie: u64, at: u64, len: u32) -> [u8; 28] {
    let mut header = [0; 28];
    header[..4].copy_from_slice(&REQUEST.to_be_bytes());
    header[6..8].copy_from_slice(&command.to_be_bytes());
    header[8..16].copy_from_slice(&cookie.to_be_bytes());
    header[16..24].copy_from_slice(&at.to_be_bytes());
    header[24..].copy_from_slice(&len.to_be_bytes());
    header
}

/// Decodes integers from the start of the remaining bytes.
pub(crate) trait Wire {
    fn u16_at(&self, i: usize) -> u16;
    fn u32_at(&self, i: usize) -> u32;
    fn u64_at(&self, i: usize) -> u64;
}

impl Wire for [u8] {
    fn u16_at(&self, i: usize) -> u16 {
        u16::from_be_bytes(self[i..i + 2].try_into().expect("two bytes"))
    }

    fn u32_at(&self, i: usize) -> u32 {
        u32::from_be_bytes(self[i..i + 4].try_into().expect("four bytes"))
    }

    fn u64_at(&self, i: usize) -> u64 {
        u64::from_be_bytes(self[i..i + 8].try_into().expect("eight bytes"))
    }
}

/// A connection in its transmission phase.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) stream: UnixStream,
    /// The size of the export, in bytes.
    pub(crate) size: u64,
    /// Whether replies to reads are structured.
    pub(crate) structured: bool,
}

impl Session {
    /// Connects and opens the default export. With `structured` the server must have structured
    /// replies.
    pub(crate) fn connect(path: &Path, structured: bool) -> Result<Self, Failure> {
        let stream = UnixStream::connect(path)
            .map_err(|error| format!("connecting to {}: {error}", path.display()))?;
        let mut session = Self { stream, size: 0, structured };
        session.negotiate().map_err(|failure| format!("negotiating: {failure}"))?;
        Ok(session)
    }

    fn negotiate(&mut self) -> Result<(), Failure> {
        let greeting = self.take::<18>()?;
        if greeting.u64_at(0) != NBDMAGIC || greeting.u64_at(8) != IHAVEOPT {
            return Err("the greeting is not newstyle NBD".into());
        }
        let flags = greeting.u16_at(16) & (FIXED_NEWSTYLE | NO_ZEROES);
        self.stream.write_all(&u32::from(flags).to_be_bytes())?;
        if self.structured {
            self.option(OPT_STRUCTURED_REPLY, &[])?;
            let (kind, _) = self.option_reply()?;
            if kind != REP_ACK {
                return Err(format!("structured replies are answered with {kind:#x}").into());
            }
        }
        // The default export (a name of 0 bytes), and no information beyond the required one.
        self.option(OPT_GO, &[0; 6])?;
        loop {
            match self.option_reply()? {
                (REP_ACK, _) => return Ok(()),
                (REP_INFO, data) if data.len() >= 12 && data.u16_at(0) == INFO_EXPORT => {
                    self.size = data.u64_at(2);
                }
                (kind, data) if kind & REP_IS_ERROR != 0 => {
                    let text = String::from_utf8_lossy(&data).into_owned();
                    return Err(format!("GO is answered with {kind:#x} {text}").into());
                }
                _ => {}
            }
        }
    }

    fn option(&mut self, option: u32, data: &[u8]) -> Result<(), Failure> {
        let len = u32::try_from(data.len())?;
        let mut bytes = IHAVEOPT.to_be_bytes().to_vec();
        bytes.extend(option.to_be_bytes());
        bytes.extend(len.to_be_bytes());
        bytes.extend(data);
        Ok(self.stream.write_all(&bytes)?)
    }

    fn option_reply(&mut self) -> Result<(u32, Vec<u8>), Failure> {
        let header = self.take::<20>()?;
        if header.u64_at(0) != OPTION_REPLY {
            return Err("an option's reply has no magic".into());
        }
        let len = header.u32_at(16);
        if len > 64 * 1024 {
            return Err(format!("an option's reply has {len} bytes").into());
        }
        let mut data = vec![0; len as usize];
        self.stream.read_exact(&mut data)?;
        Ok((header.u32_at(12), data))
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Failure> {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Writes `data` at `at` and waits for the answer.
    pub(crate) fn write(&mut self, at: u64, data: &[u8]) -> Result<(), Failure> {
        let header = request(CMD_WRITE, at, at, u32::try_from(data.len())?);
        self.send(&header, data)?;
        self.reply(at, &mut []).map_err(|failure| format!("writing at {at}: {failure}").into())
    }

    /// Fills `data` from `at` on.
    pub(crate) fn read(&mut self, at: u64, data: &mut [u8]) -> Result<(), Failure> {
        self.stream.write_all(&request(CMD_READ, at, at, u32::try_from(data.len())?))?;
        self.reply(at, data).map_err(|failure| format!("reading at {at}: {failure}").into())
    }

    /// Sends a request and its payload with as few calls as possible.
    pub(crate) fn send(&mut self, header: &[u8], payload: &[u8]) -> Result<(), Failure> {
        let sent = self.stream.write_vectored(&[IoSlice::new(header), IoSlice::new(payload)])?;
        let into_payload = sent.saturating_sub(header.len());
        if sent < header.len() {
            self.stream.write_all(&header[sent..])?;
        }
        Ok(self.stream.write_all(&payload[into_payload..])?)
    }

    /// Receives the reply to the only request in flight, whose cookie is `at`, into `data`.
    fn reply(&mut self, at: u64, data: &mut [u8]) -> Result<(), Failure> {
        let mut got = 0;
        loop {
            let magic = self.take::<4>()?.u32_at(0);
            let done = match magic {
                SIMPLE_REPLY => {
                    let rest = self.take::<12>()?;
                    if rest.u32_at(0) != 0 || rest.u64_at(4) != at {
                        return Err(format!("error {} in a simple reply", rest.u32_at(0)).into());
                    }
                    self.stream.read_exact(data)?;
                    got = data.len();
                    true
                }
                STRUCTURED_REPLY => {
                    let rest = self.take::<16>()?;
                    let (flags, kind) = (rest.u16_at(0), rest.u16_at(2));
                    let len = rest.u32_at(12) as usize;
                    match kind {
                        CHUNK_NONE if len == 0 => {}
                        CHUNK_OFFSET_DATA if len > 8 => {
                            let from = usize::try_from(self.take::<8>()?.u64_at(0) - at)?;
                            let room = data
                                .get_mut(from..from + len - 8)
                                .ok_or("a chunk outside what was asked for")?;
                            self.stream.read_exact(room)?;
                            got += len - 8;
                        }
                        // A hole is never expected, because the disk is full of data.
                        _ => return Err(format!("a chunk of kind {kind:#x}, {len} bytes").into()),
                    }
                    flags & FLAG_DONE != 0
                }
                _ => return Err(format!("a reply with magic {magic:#x}").into()),
            };
            if done {
                return if got == data.len() {
                    Ok(())
                } else {
                    Err(format!("{got} bytes where {} were asked for", data.len()).into())
                };
            }
        }
    }

    /// Ends the session with NBD_CMD_DISC.
    pub(crate) fn close(mut self) -> Result<(), Failure> {
        Ok(self.stream.write_all(&request(CMD_DISC, 0, 0, 0))?)
    }
}
