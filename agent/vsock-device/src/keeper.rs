//! What holds a VM's descriptors while no process of the agent runs: systemd's store of descriptors, or a
//! supervisor.

use std::{
    fmt, io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::Arc,
};

use nix::sys::socket::{SockType, UnixAddr, getsockname, getsockopt, sockopt};

use crate::{
    log::Log,
    record::Record,
    setup::{Earlier, Setup},
};

/// Keeps descriptors by name for the process that comes after this one.
pub trait Keeper: fmt::Debug + Send + Sync {
    /// Keeps a descriptor.
    ///
    /// # Errors
    /// It could not be handed over, or there is no room for it.
    fn keep(&self, name: &str, file: BorrowedFd<'_>) -> io::Result<()>;

    /// Forgets all descriptors of this name.
    fn forget(&self, name: &str);
}

/// Descriptors of a VM that an earlier process has left, by their names.
pub type Left = Vec<(String, OwnedFd)>;

/// The name of the record, and of the connection of the VMM. Other descriptors have numbers.
const RECORD: &str = "record";
const VMM: &str = "vmm";

/// A VM's names.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    keeper: Arc<dyn Keeper>,
    log: Arc<Log>,
}

impl Names {
    pub(crate) fn new(keeper: Arc<dyn Keeper>, log: Arc<Log>) -> Self {
        Self { keeper, log }
    }

    /// Begins to keep a new VM. `None` if it cannot be kept.
    pub(crate) fn begin(self, vmm: &UnixStream) -> Option<(Arc<Record>, Self)> {
        let record = Record::new().and_then(|record| {
            self.keep(RECORD, record.as_fd())?;
            self.keep(VMM, vmm.as_fd())?;
            Ok(Arc::new(record))
        });
        match record {
            Ok(record) => Some((record, self)),
            Err(error) => {
                self.forget_all();
                self.lost(&error);
                None
            }
        }
    }

    pub(crate) fn keep(&self, name: &str, file: BorrowedFd<'_>) -> io::Result<()> {
        crate::fault::step();
        self.keeper.keep(name, file)
    }

    pub(crate) fn forget(&self, name: &str) {
        crate::fault::step();
        self.keeper.forget(name);
    }

    /// Forgets what makes a VM: without these two names the others mean nothing.
    pub(crate) fn forget_all(&self) {
        self.forget(VMM);
        self.forget(RECORD);
    }

    /// Logs that the VM will not survive the end of this process.
    pub(crate) fn lost(&self, error: &io::Error) {
        self.log.warn(format_args!(
            "the VM's descriptors cannot be kept: {error}; its vsock device would not survive the end of this agent"
        ));
    }
}

/// A VM of an earlier process.
#[derive(Debug)]
pub(crate) struct Takeover {
    pub(crate) vmm: UnixStream,
    pub(crate) record: Arc<Record>,
    pub(crate) setup: Setup,
    pub(crate) earlier: Earlier,
}

impl Takeover {
    /// Takes over what was left under these names.
    ///
    /// # Errors
    /// It is not whole, or not of this version.
    pub(crate) fn of(left: Left, names: &Names) -> io::Result<Self> {
        let (mut record, mut vmm, mut files) = (None, None, Vec::new());
        for (name, file) in left {
            match (name.as_str(), name.parse()) {
                (RECORD, _) => record = Some(file),
                (VMM, _) => vmm = Some(file),
                (_, Ok(number)) => files.push((number, file)),
                _ => {}
            }
        }
        let missing = |what| {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!("cannot take over the VM of the agent before: no {what} was kept"),
            )
        };
        let vmm = vmm.ok_or_else(|| missing("connection of the VMM"))?;
        // Another kind of descriptor could block the thread.
        getsockname::<UnixAddr>(vmm.as_raw_fd())?;
        if getsockopt(&vmm, sockopt::SockType)? != SockType::Stream {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let record = Arc::new(Record::over(record.ok_or_else(|| missing("record"))?)?);
        let (setup, earlier) = Setup::over(Arc::clone(&record), names, &files)?;
        Ok(Self { vmm: vmm.into(), record, setup, earlier })
    }
}
