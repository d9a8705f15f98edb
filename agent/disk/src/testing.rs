//! Helpers for tests of disks and layers.

mod medium;
pub mod model;

use std::{
    sync::{Mutex, mpsc},
    thread,
};

pub use self::medium::{FlakyDisk, Medium, Mishap};
use super::{
    Answer, Data, Disk, DiskError, DiskInfo, Extent, Op, Pages, Piece, Progress, Turn, Verb,
    Waiter, execute_all, ring,
};

/// Executes a request as the engine does: `try_execute`, then `begin`, then `execute`.
pub fn run(disk: &dyn Disk, op: &mut Op<'_>) -> Result<Answer, DiskError> {
    let mut answer = Answer::default();
    if disk.try_execute(op, &mut answer)? == Turn::Done {
        return Ok(answer);
    }
    assert!(answer.pieces.is_empty() && answer.extents.is_empty(), "WouldBlock left an answer");
    if disk.begins() {
        if let Op::Write { at, data, fua } = op {
            let (at, fua) = (*at, *fua);
            let mut pages = Pages::copied(at, &data.copied().expect("memory")).expect("memory");
            let mut op = Op::Write { at, data: Data::Pages(&mut pages), fua };
            return match begun(disk, &mut op) {
                Begun::Done(answer) => Ok(answer),
                Begun::Blocks(mut pages) => {
                    let mut op = Op::Write { at, data: Data::Pages(&mut pages), fua };
                    execute_all(disk, &mut op, &mut answer).map(|()| answer)
                }
            };
        }
        if let Begun::Done(answer) = begun(disk, op) {
            return Ok(answer);
        }
    }
    execute_all(disk, op, &mut answer)?;
    Ok(answer)
}

/// The result of a request that was passed to `begin`.
#[derive(Debug)]
pub enum Begun {
    Done(Answer),
    /// A thread has to execute it, with this payload.
    Blocks(Pages),
}

/// Passes a request to `begin` and waits for the result. Runs the turns of the thread's ring meanwhile.
pub fn begun(disk: &dyn Disk, op: &mut Op<'_>) -> Begun {
    #[derive(Debug)]
    struct Told(mpsc::Sender<Begun>);
    impl Waiter for Told {
        fn done(self: Box<Self>, answer: Answer) {
            self.0.send(Begun::Done(answer)).ok();
        }
        fn blocks(self: Box<Self>, pages: Pages) {
            self.0.send(Begun::Blocks(pages)).ok();
        }
    }
    let turns = ring::attach();
    let (tell, told) = mpsc::channel();
    disk.begin(op, Box::new(Told(tell)));
    loop {
        turns.turn();
        match told.try_recv() {
            Ok(begun) => return begun,
            Err(mpsc::TryRecvError::Empty) => thread::yield_now(),
            Err(mpsc::TryRecvError::Disconnected) => panic!("nobody was told"),
        }
    }
}

/// The bytes of a read, which must cover its range.
pub fn try_read(disk: &dyn Disk, at: u64, len: u32) -> Result<Vec<Piece>, DiskError> {
    let pieces = run(disk, &mut Op::Read { at, len })?.pieces;
    assert_eq!(pieces.iter().map(Piece::len).sum::<u64>(), u64::from(len));
    assert!(pieces.iter().all(|piece| !piece.is_empty()));
    Ok(pieces)
}

pub fn read(disk: &dyn Disk, at: u64, len: u32) -> Vec<Piece> {
    try_read(disk, at, len).unwrap()
}

pub fn bytes_of(pieces: &[Piece]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Bytes(slice) => bytes.extend_from_slice(slice.as_ref()),
            Piece::Hole(len) => bytes.resize(bytes.len() + usize::try_from(*len).unwrap(), 0),
        }
    }
    bytes
}

pub fn try_write(disk: &dyn Disk, at: u64, data: &[u8], fua: bool) -> Result<(), DiskError> {
    run(disk, &mut Op::Write { at, data: Data::Bytes(data), fua }).map(drop)
}

pub fn write(disk: &dyn Disk, at: u64, data: &[u8]) {
    try_write(disk, at, data, false).unwrap();
}

pub fn trim(disk: &dyn Disk, at: u64, len: u64) {
    run(disk, &mut Op::Trim { at, len, fua: false }).unwrap();
}

pub fn zero(disk: &dyn Disk, at: u64, len: u64, may_trim: bool) {
    run(disk, &mut Op::Zero { at, len, fua: false, may_trim, fast: false }).unwrap();
}

/// The extents of a range, which must be within it and not empty.
pub fn extents(disk: &dyn Disk, at: u64, len: u64, one: bool) -> Vec<Extent> {
    let extents = run(disk, &mut Op::Extents { at, len, one }).unwrap().extents;
    assert!(!extents.is_empty() && extents.iter().all(|extent| extent.len > 0));
    assert!(extents.iter().map(|extent| extent.len).sum::<u64>() <= len);
    assert!(!one || extents.len() == 1);
    extents
}

/// A disk of 1 MiB that does nothing and records the requests.
#[derive(Debug, Default)]
pub struct Recorder(Mutex<Vec<String>>);

impl Recorder {
    /// The requests since the last call, in order.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl Disk for Recorder {
    fn info(&self) -> DiskInfo {
        DiskInfo::plain(1 << 20, None)
    }

    fn try_execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Turn, DiskError> {
        let (at, len) = op.range();
        let flags = match *op {
            Op::Write { fua, .. } | Op::Trim { fua, .. } => {
                [("fua", fua), ("", false), ("", false)]
            }
            Op::Zero { fua, may_trim, fast, .. } => {
                [("fua", fua), ("trim", may_trim), ("fast", fast)]
            }
            _ => [("", false); 3],
        };
        let mut line = match op.verb() {
            Verb::Flush => "flush".to_owned(),
            verb => format!("{verb} {at}+{len}"),
        };
        for (name, _) in flags.iter().filter(|(_, set)| *set) {
            line = format!("{line} {name}");
        }
        self.0.lock().unwrap().push(line);
        match *op {
            Op::Read { len, .. } => answer.pieces.push(Piece::Hole(len.into())),
            Op::Extents { len, .. } => {
                answer.extents.push(Extent { len, hole: false, zero: false });
            }
            _ => {}
        }
        Ok(Turn::Done)
    }

    fn execute(&self, op: &mut Op<'_>, answer: &mut Answer) -> Result<Progress, DiskError> {
        self.try_execute(op, answer).map(|_| Progress::Done)
    }
}
