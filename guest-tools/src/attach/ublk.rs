//! The kernel's ublk driver (<linux/ublk_cmd.h>): the commands that make a device, start it, remove it,
//! and hand it to another process. Requests arrive through `frontend::Ublk`.
//!
//! A device is made for recovery. When the process that serves it is gone, the kernel keeps the device,
//! holds new requests back, and gives the unanswered ones to the process that comes next.

use std::{
    io, process, thread,
    time::{Duration, Instant},
};

use nbd::wire::TransmissionFlags as Flags;
use nix::errno::Errno;

use super::{export::Export, frontend::Ublk};
use crate::sys::ublk::{Control, Queue};

/// The most requests in flight.
const DEPTH: u16 = 128;
/// The longest request, in bytes.
const LONGEST: u32 = 1 << 20;
/// The longest range to discard or zero in one request, in sectors. The frontend's numbers can
/// represent it.
const RANGE: u64 = 1 << 21;
const SECTOR: u32 = 512;
/// How long the previous process may take to exit.
const LEAVING: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(20);

/// `_IOR` and `_IOWR` of 'u' and a `struct ublksrv_ctrl_cmd`.
const READS: u32 = 0x8020_7500;
const CHANGES: u32 = 0xc020_7500;
const GET_DEV_INFO: u32 = READS | 0x02;
const ADD_DEV: u32 = CHANGES | 0x04;
const DEL_DEV: u32 = CHANGES | 0x05;
const START_DEV: u32 = CHANGES | 0x06;
const STOP_DEV: u32 = CHANGES | 0x07;
const SET_PARAMS: u32 = CHANGES | 0x08;
const START_USER_RECOVERY: u32 = CHANGES | 0x10;
const END_USER_RECOVERY: u32 = CHANGES | 0x11;
const GET_FEATURES: u32 = READS | 0x13;
const DEL_DEV_ASYNC: u32 = READS | 0x14;

/// The state of a device without a process.
const QUIESCED: u16 = 2;
/// Recovery, unanswered requests given again, and data through pread(2) and pwrite(2).
const FEATURES: u64 = 1 << 3 | 1 << 4 | 1 << 7;
const READ_ONLY: u32 = 1;
const ROTATIONAL: u32 = 1 << 1;
const VOLATILE_CACHE: u32 = 1 << 2;
const FUA: u32 = 1 << 3;

/// A connection to the driver.
pub(super) struct Driver(Box<Control>);

impl Driver {
    /// Fails with ENOENT if there is no such driver or it is not loaded, and with EOPNOTSUPP if it is
    /// older than Linux 6.5.
    pub(super) fn open() -> io::Result<Self> {
        let mut driver = Self(Box::new(Control::open()?));
        let mut features = [0; 8];
        let asked = driver.command(GET_FEATURES, u32::MAX, 0, &mut features);
        if asked.is_err() || u64::from_ne_bytes(features) & FEATURES != FEATURES {
            return Err(Errno::EOPNOTSUPP.into());
        }
        Ok(driver)
    }

    /// Makes a device that is not started, and returns its number.
    pub(super) fn add(&mut self, wanted: Option<u32>) -> io::Result<u32> {
        let number = wanted.unwrap_or(u32::MAX);
        let mut info = [0; 64];
        put(&mut info, 0, &1_u16.to_ne_bytes());
        put(&mut info, 2, &DEPTH.to_ne_bytes());
        put(&mut info, 8, &LONGEST.to_ne_bytes());
        put(&mut info, 12, &number.to_ne_bytes());
        put(&mut info, 24, &FEATURES.to_ne_bytes());
        self.command(ADD_DEV, number, 0, &mut info)?;
        let number = info[12..16].first_chunk().copied().map_or(0, u32::from_ne_bytes);
        let given = info[24..32].first_chunk().copied().map_or(0, u64::from_ne_bytes);
        if given & FEATURES != FEATURES {
            self.delete(number)?;
            return Err(Errno::EOPNOTSUPP.into());
        }
        Ok(number)
    }

    /// Sets the properties of the device.
    pub(super) fn describe(&mut self, number: u32, export: &Export, block: u32) -> io::Result<()> {
        self.command(SET_PARAMS, number, 0, &mut parameters(export, block))
    }

    /// Opens the device's request queue. Fails with EBUSY while another process has it.
    pub(super) fn frontend(number: u32) -> io::Result<Ublk> {
        Queue::open(&format!("/dev/ublkc{number}"), DEPTH).map(Ublk::new)
    }

    /// Starts the device. Blocks until the frontend has begun and answers the first requests.
    pub(super) fn start(&mut self, number: u32) -> io::Result<()> {
        self.command(START_DEV, number, u64::from(process::id()), &mut [])
    }

    /// Takes over a device whose process is gone.
    pub(super) fn take_over(&mut self, number: u32) -> io::Result<()> {
        let until = Instant::now() + LEAVING;
        loop {
            match self.command(START_USER_RECOVERY, number, 0, &mut []) {
                Err(error)
                    if error.raw_os_error() == Some(Errno::EBUSY as i32)
                        && Instant::now() < until =>
                {
                    thread::park_timeout(LOOK);
                }
                other => return other,
            }
        }
    }

    /// Resumes the device. As with `start`, the frontend has to begin first.
    pub(super) fn go_on(&mut self, number: u32) -> io::Result<()> {
        self.command(END_USER_RECOVERY, number, u64::from(process::id()), &mut [])
    }

    /// Removes the disk once all requests are answered, and ends the frontend.
    pub(super) fn stop(&mut self, number: u32) -> io::Result<()> {
        self.command(STOP_DEV, number, 0, &mut [])
    }

    /// Deletes the device, as soon as no process has it open.
    pub(super) fn delete(&mut self, number: u32) -> io::Result<()> {
        // Linux before 6.8 knows only the command that waits.
        self.command(DEL_DEV_ASYNC, number, 0, &mut []).or_else(|error| {
            match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::EOPNOTSUPP | Errno::EINVAL) => {
                    self.command(DEL_DEV, number, 0, &mut [])
                }
                _ => Err(error),
            }
        })
    }

    /// Whether the device exists.
    pub(super) fn has(&mut self, number: u32) -> bool {
        self.state(number).is_ok()
    }

    /// Whether the process of a device is gone, or exits within `LEAVING`.
    pub(super) fn is_left(&mut self, number: u32) -> io::Result<bool> {
        let until = Instant::now() + LEAVING;
        while self.state(number)? != QUIESCED {
            if Instant::now() >= until {
                return Ok(false);
            }
            thread::park_timeout(LOOK);
        }
        Ok(true)
    }

    fn state(&mut self, number: u32) -> io::Result<u16> {
        let mut info = [0; 64];
        self.command(GET_DEV_INFO, number, 0, &mut info)?;
        Ok(info[4..6].first_chunk().copied().map_or(0, u16::from_ne_bytes))
    }

    fn command(
        &mut self,
        operation: u32,
        number: u32,
        data: u64,
        payload: &mut [u8],
    ) -> io::Result<()> {
        let mut words = [0; 32];
        put(&mut words, 0, &number.to_ne_bytes());
        // No queue.
        put(&mut words, 4, &u16::MAX.to_ne_bytes());
        put(&mut words, 16, &data.to_ne_bytes());
        self.0.command(operation, words, payload)
    }
}

/// `struct ublk_params`, up to its part on discarding.
fn parameters(export: &Export, block: u32) -> [u8; 60] {
    let flags = export.for_kernel();
    let mut attributes = 0;
    for (flag, attribute) in [
        (Flags::READ_ONLY, READ_ONLY),
        (Flags::ROTATIONAL, ROTATIONAL),
        (Flags::SEND_FLUSH, VOLATILE_CACHE),
        (Flags::SEND_FUA, FUA),
    ] {
        if flags.contains(flag) {
            attributes |= attribute;
        }
    }
    let range = |flag| if flags.contains(flag) { RANGE } else { 0 };
    let (discard, zeroes) = (range(Flags::SEND_TRIM), range(Flags::SEND_WRITE_ZEROES));
    // The part that is required, and the part on discarding.
    let types: u32 = if discard + zeroes > 0 { 3 } else { 1 };
    let shift = u8::try_from(block.ilog2()).unwrap_or_default();
    let sectors = export.visible(block) / u64::from(SECTOR);
    let range = |sectors: u64| u32::try_from(sectors).unwrap_or(u32::MAX).to_ne_bytes();
    let mut out = [0; 60];
    put(&mut out, 0, &60_u32.to_ne_bytes());
    put(&mut out, 4, &types.to_ne_bytes());
    put(&mut out, 8, &u32::to_ne_bytes(attributes));
    // Logical and physical blocks, and the best and least length of a request.
    put(&mut out, 12, &[shift; 4]);
    put(&mut out, 16, &(LONGEST / SECTOR).to_ne_bytes());
    put(&mut out, 24, &sectors.to_ne_bytes());
    put(&mut out, 44, &block.to_ne_bytes());
    put(&mut out, 48, &range(discard));
    put(&mut out, 52, &range(zeroes));
    put(&mut out, 56, &1_u16.to_ne_bytes());
    out
}

fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = out.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}
