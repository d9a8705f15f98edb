//! The kernel's driver of a device: which driver makes the device, how its requests arrive, and its start
//! and end. `device` calls the functions in the order in which they stand here. `release` takes a device
//! away from outside.

use std::{
    fs, io, mem,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::PathBuf,
    process::Command,
};

use agent_contexts::FencingToken;
use nix::{
    errno::Errno,
    sys::socket::{setsockopt, sockopt},
};

use super::{
    AttachError,
    control::ask,
    export::Export,
    frontend::{Frontend, Socket},
    name::Device,
    netlink::{Connect, Driver as Nbd},
    saved::{Saved, facts_of},
    ublk::Driver as Ublk,
    wish::{Ready, Wish},
};
use crate::init;

/// The action in the error message when the saved facts cannot be read.
const LEFT: &str = "read what its last relay left";
/// Size of the buffer of each direction of a socket pair, in bytes.
const BUFFER: usize = 1 << 20;

/// Where the requests come from.
pub(super) enum Driver {
    /// Another program, through socket pairs whose other ends this process has.
    Played {
        ends: Vec<UnixStream>,
        /// The file for what the next relay has to know, as if this were a driver that keeps its device.
        facts: Option<PathBuf>,
        before: Option<Saved>,
    },
    Nbd {
        driver: Nbd,
        wanted: Option<u32>,
        /// The kernel's ends of the socket pairs.
        sockets: Vec<OwnedFd>,
    },
    Ublk {
        driver: Ublk,
        wanted: Option<u32>,
        /// The facts of a device that exists and whose relay is gone.
        before: Option<Saved>,
        /// The number of the device that was made or taken over.
        made: Option<u32>,
    },
}

impl Driver {
    /// Chooses the driver that was asked for, otherwise the one that the kernel has: ublk if possible,
    /// otherwise nbd. ublk is faster and keeps the device when the relay is killed.
    pub(super) fn choose(wish: &mut Wish) -> Result<Self, AttachError> {
        let ends = mem::take(&mut wish.ends);
        if !ends.is_empty() {
            let facts = wish.facts.take();
            let before = facts.clone().map(Saved::read).transpose();
            let before = before.map_err(AttachError::system(LEFT))?.flatten();
            return Ok(Self::Played { ends, facts, before });
        }
        match wish.device {
            Some(Device::Nbd(number)) => Ok(Self::nbd(nbd()?, Some(number))),
            Some(Device::Ublk(number)) => Self::ublk(ublk()?, Some(number)),
            None if wish.ublk => Self::ublk(ublk()?, None),
            None => match ublk() {
                Ok(driver) => Self::ublk(driver, None),
                Err(_) => Ok(Self::nbd(nbd()?, None)),
            },
        }
    }

    const fn nbd(driver: Nbd, wanted: Option<u32>) -> Self {
        Self::Nbd { driver, wanted, sockets: Vec::new() }
    }

    fn ublk(mut driver: Ublk, wanted: Option<u32>) -> Result<Self, AttachError> {
        let device = wanted.map(Device::Ublk);
        let known = device.map(facts_of).map(Saved::read);
        let known = known.transpose().map_err(AttachError::system(LEFT))?.flatten();
        // Facts without a device, or about another device, are left over from an earlier one.
        let is_there = wanted.is_some_and(|number| driver.has(number));
        let before = known.filter(|saved| is_there && device.is_some_and(|it| saved.is_of(it)));
        if let (Some(before), Some(number), Some(device)) = (&before, wanted, device) {
            // A relay that is alive must not lose its server to another one.
            if ask(device).is_some() || !driver.is_left(number).unwrap_or(false) {
                let source = Errno::EBUSY.into();
                return Err(ublk_refused(&device.to_string(), &before.uri, source));
            }
        }
        Ok(Self::Ublk { driver, wanted, before, made: None })
    }

    /// How many connections there have to be, if the driver determines it.
    pub(super) const fn count(&self) -> Option<usize> {
        match self {
            Self::Played { ends, .. } => Some(ends.len()),
            _ => None,
        }
    }

    /// The facts of a device that has lost its relay.
    pub(super) const fn before(&self) -> Option<&Saved> {
        match self {
            Self::Ublk { before, .. } | Self::Played { before, .. } => before.as_ref(),
            Self::Nbd { .. } => None,
        }
    }

    /// The frontends whose requests the relay has to answer.
    pub(super) fn frontends(
        &mut self,
        facts: &mut Ready,
        export: &Export,
    ) -> Result<Vec<Box<dyn Frontend>>, AttachError> {
        let boxed = |ends: Vec<UnixStream>| {
            let frontend = |end| Ok(Box::new(Socket::new(end)?) as Box<dyn Frontend>);
            let frontends: io::Result<Vec<_>> = ends.into_iter().map(frontend).collect();
            frontends.map_err(AttachError::system("set up the sockets"))
        };
        match self {
            Self::Played { ends, .. } => boxed(mem::take(ends)),
            Self::Nbd { sockets, .. } => {
                let (kernels, ours) = pairs(facts.connections)?;
                *sockets = kernels;
                boxed(ours)
            }
            Self::Ublk { driver, wanted, before, made } => {
                let refused = |source| ublk_refused(&facts.device, &facts.uri, source);
                let frontend = if let (Some(number), Some(_)) = (*wanted, before) {
                    driver.take_over(number).map_err(refused)?;
                    *made = Some(number);
                    Ublk::frontend(number).map_err(refused)?
                } else {
                    let number = driver.add(*wanted).map_err(refused)?;
                    *made = Some(number);
                    let described = driver.describe(number, export, facts.block);
                    described.and_then(|()| Ublk::frontend(number)).map_err(|source| {
                        // No other process has seen the device yet.
                        driver.delete(number).ok();
                        refused(source)
                    })?
                };
                facts.device = made.map(Device::Ublk).map_or_else(String::new, |d| d.to_string());
                Ok(vec![Box::new(frontend)])
            }
        }
    }

    /// Starts the device, or resumes it. The relay runs already.
    pub(super) fn start(
        &mut self,
        facts: &Ready,
        export: &Export,
    ) -> Result<Option<Device>, AttachError> {
        match self {
            Self::Played { .. } => Ok(None),
            Self::Nbd { driver, wanted, sockets } => {
                let asked = driver.connect(&Connect {
                    index: *wanted,
                    sockets,
                    size: facts.size,
                    block: facts.block,
                    flags: export.for_kernel().bits(),
                    identifier: &facts.uri,
                });
                // Only the kernel may hold these ends from now on. If it does not, the relay ends.
                sockets.clear();
                let number = asked.map_err(|source| nbd_refused(&facts.device, &facts.uri, source));
                number.map(Device::Nbd).map(Some)
            }
            Self::Ublk { driver, before, made, .. } => {
                let Some(number) = *made else { return Ok(None) };
                let started =
                    if before.is_some() { driver.go_on(number) } else { driver.start(number) };
                started.map_err(|source| ublk_refused(&facts.device, &facts.uri, source))?;
                Ok(Some(Device::Ublk(number)))
            }
        }
    }

    /// Writes what the next relay of a device has to know, if the driver keeps the device.
    pub(super) fn saved(
        &self,
        facts: &Ready,
        export: &Export,
        fencing: FencingToken,
    ) -> Result<Option<Saved>, AttachError> {
        let path = match self {
            Self::Ublk { made: Some(number), .. } => facts_of(Device::Ublk(*number)),
            Self::Played { facts: Some(path), .. } => path.clone(),
            _ => return Ok(None),
        };
        let (uri, export) = (facts.uri.clone(), export.clone());
        let has = |what: fn(&Saved) -> bool| self.before().is_some_and(what);
        let (untold, unflushed) = (has(|before| before.untold), has(|before| before.unflushed));
        let saved = Saved { path, uri, export, block: facts.block, fencing, untold, unflushed };
        saved.write().map_err(AttachError::system("write what the next relay has to know"))?;
        Ok(Some(saved))
    }

    /// Gives the device up after an error before it could be used. Returns whether the relay ends.
    pub(super) fn gives_up(&mut self) -> bool {
        match self {
            Self::Ublk { before: Some(_), .. } => false,
            Self::Ublk { driver, made: Some(number), .. } => driver.stop(*number).is_ok(),
            _ => true,
        }
    }

    /// Cleans up after the relay has ended.
    pub(super) fn end(&mut self) {
        match self {
            Self::Ublk { driver, made: Some(number), .. } => {
                Saved::remove(&facts_of(Device::Ublk(*number)));
                // Another process may have deleted it already.
                driver.delete(*number).ok();
            }
            Self::Played { facts: Some(path), .. } => Saved::remove(path),
            _ => {}
        }
    }
}

/// Opens the nbd driver, and loads it first if necessary.
pub(super) fn nbd() -> Result<Nbd, AttachError> {
    let opened =
        opened("nbd", Nbd::open).map_err(AttachError::system("ask the kernel's nbd driver"))?;
    opened.map_err(|source| AttachError::NoDriver {
        driver: "nbd",
        hint: "modprobe nbd, as root; it is in the package of the kernel's modules",
        source,
    })
}

/// Opens the ublk driver, and loads it first if necessary.
pub(super) fn ublk() -> Result<Ublk, AttachError> {
    let opened = opened("ublk_drv", Ublk::open)
        .map_err(AttachError::system("ask the kernel's ublk driver"))?;
    opened.map_err(|source| AttachError::NoDriver {
        driver: "ublk",
        hint: match source.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EOPNOTSUPP) => "it has to be that of Linux 6.5 or newer",
            _ => "modprobe ublk_drv, as root; it is in the package of the kernel's modules",
        },
        source,
    })
}

/// Calls `open`, and loads the module in between if the driver is missing. The inner error says that
/// there is no such driver.
fn opened<T>(module: &str, open: impl Fn() -> io::Result<T>) -> io::Result<Result<T, io::Error>> {
    let is_missing = |error: &io::Error| {
        let missing = [Errno::ENOENT, Errno::ENODEV, Errno::ENXIO, Errno::EOPNOTSUPP];
        missing.iter().any(|errno| error.raw_os_error() == Some(*errno as i32))
    };
    match open() {
        Err(error) if is_missing(&error) => {}
        other => return other.map(Ok),
    }
    // The result does not matter: the second `open` shows whether the driver is there.
    if Command::new("modprobe").arg(module).output().is_err() {
        init::load_driver(module).ok();
    }
    match open() {
        Err(error) if is_missing(&error) => Ok(Err(error)),
        other => other.map(Ok),
    }
}

/// Makes `count` socket pairs: the kernel's ends and ours.
fn pairs(count: usize) -> Result<(Vec<OwnedFd>, Vec<UnixStream>), AttachError> {
    let (mut kernels, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let pair = UnixStream::pair().map_err(AttachError::system("make a pair of sockets"))?;
        for end in [&pair.0, &pair.1] {
            // A smaller buffer works too.
            setsockopt(end, sockopt::SndBufForce, &BUFFER).ok();
        }
        kernels.push(pair.0.into());
        ours.push(pair.1);
    }
    Ok((kernels, ours))
}

/// Adds a hint to an error of the nbd driver.
pub(super) fn nbd_refused(device: &str, uri: &str, source: io::Error) -> AttachError {
    let hint = match source.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EPERM | Errno::EACCES) => "only root may: CAP_SYS_ADMIN is needed",
        Some(Errno::EBUSY) => {
            "another program has it, or has it open: see 'guest-tools status', fuser"
        }
        Some(Errno::EINVAL) if fs::exists("/sys/module/nbd").unwrap_or(false) => {
            "the kernel's driver refuses it: dmesg says why; without --direct it gets a relay's \
             sockets"
        }
        Some(Errno::ENOENT | Errno::ENODEV) => "there is no such device: leave --device out",
        _ => "dmesg may say why",
    };
    let (device, uri) = (device.to_owned(), uri.to_owned());
    AttachError::Connect { device, uri, hint, source }
}

/// Adds a hint to an error of the ublk driver.
fn ublk_refused(device: &str, uri: &str, source: io::Error) -> AttachError {
    let hint = match source.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EPERM | Errno::EACCES) => "only root may: CAP_SYS_ADMIN is needed",
        Some(Errno::EEXIST | Errno::EBUSY) => "another process has it: see 'guest-tools status'",
        Some(Errno::EOPNOTSUPP) => "the driver has to be that of Linux 6.5 or newer",
        _ => "dmesg may say why",
    };
    let (device, uri) = (device.to_owned(), uri.to_owned());
    AttachError::Connect { device, uri, hint, source }
}
