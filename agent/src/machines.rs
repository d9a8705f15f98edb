//! Virtual machines whose guests are served. They are wired by QMP at start, and followed to their end.
//!
//! `startup` wires the machines of `--qmp`. Each has a lease from then on, which this module holds. When the machine
//! ends, or can no longer be followed, the lease is withdrawn.

#[cfg(test)]
mod tests;

use std::{error::Error, fmt, path::PathBuf, sync::Arc};

use human::chain;
use qemu::{
    cid::{Claim, ClaimError, Range},
    life::{Happening, Life},
    qmp::{self, Client, Limits},
    text::{Text, list},
    vsock::{self, Device, Machine, PlugError, Plugged},
};
use thiserror::Error;

use crate::{
    diagnosis,
    lease::{Lease, Leases, Taken},
    log::Allowance,
};

/// The id of a device that is plugged in here.
const ID: &str = "vsock0";

/// The machines to serve, by their QMP sockets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Machines {
    pub sockets: Vec<PathBuf>,
    /// The CIDs for machines that have no vsock device yet.
    pub cids: Range,
}

/// Why a machine cannot be served.
#[derive(Debug, Error)]
pub(crate) enum MachineError {
    #[error(transparent)]
    Qmp(#[from] qmp::Error),
    #[error("{machine} cannot be given a vsock device")]
    Plug { machine: Name, source: PlugError },
    #[error("the CID of {machine} cannot be known: it has {}", list(.devices))]
    NoCid { machine: Name, devices: Vec<Device> },
    #[error("{machine} cannot be served")]
    Taken { machine: Name, source: Taken },
}

impl MachineError {
    /// What to do about it, if that is known and not in the message already.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Qmp(error) => error.hint(),
            Self::Plug { source, .. } => hint_of_plug(source),
            Self::NoCid { .. } => Some(
                "--qmp needs one device of the kernel's (vhost-vsock); 'agent qemu detach' takes \
                 others out"
                    .into(),
            ),
            Self::Taken { .. } => Some("two sockets of one machine? Name each machine once".into()),
        }
    }
}

/// What to do about a machine that cannot be given a vsock device. If the kernel's device cannot be opened, the hint
/// comes from crate `doctor`.
pub(crate) fn hint_of_plug(error: &PlugError) -> Option<String> {
    match error {
        PlugError::Claim(ClaimError::Open(_, error)) => {
            error.raw_os_error().and_then(diagnosis::hint_of_device)
        }
        other => other.hint(),
    }
}

/// A machine, as named in messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name {
    given: Option<Text>,
    socket: PathBuf,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("machine ")?;
        if let Some(given) = &self.given {
            write!(f, "'{given}' ")?;
        }
        write!(f, "({})", self.socket.display())
    }
}

impl Machines {
    pub(crate) fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    /// Connects to each machine, makes sure that it has a vsock device, and grants its guest a lease.
    pub(crate) async fn wire(&self, leases: &Arc<Leases>) -> Result<Vec<Wired>, MachineError> {
        let mut wired = Vec::new();
        for socket in &self.sockets {
            let client = Client::connect(socket, Limits::default()).await?;
            wired.push(wire(client, self.cids, leases).await?);
        }
        Ok(wired)
    }
}

async fn wire(
    mut client: Client,
    cids: Range,
    leases: &Arc<Leases>,
) -> Result<Wired, MachineError> {
    let machine = Machine::ask(&mut client).await?;
    let name = Name { given: machine.given, socket: client.socket().into() };
    let devices = vsock::list(&mut client).await?;
    let (device, claim) = match &devices[..] {
        [] => match vsock::plug(&mut client, cids, ID).await {
            Ok(Plugged { device, claim, .. }) => {
                tracing::info!("{name} has a new vsock device: {device}");
                (device, Some(claim))
            }
            Err(source) => return Err(MachineError::Plug { machine: name, source }),
        },
        [device] => (device.clone(), None),
        _ => return Err(MachineError::NoCid { machine: name, devices }),
    };
    let Some(cid) = device.cid else {
        return Err(MachineError::NoCid { machine: name, devices: vec![device] });
    };
    // The claim reserves the CID until the last session is closed, so that the next machine cannot get it before.
    let claim: Option<Claim> = claim;
    let lease = leases.grant(cid, &name.to_string(), claim);
    let lease = lease.map_err(|source| MachineError::Taken { machine: name.clone(), source })?;
    tracing::info!("CID {cid} is granted to {name} as long as it lives");
    Ok(Wired { life: Life::new(client), device, name, lease })
}

/// A machine with a lease.
#[derive(Debug)]
#[must_use = "a machine that nobody follows has no lease"]
pub(crate) struct Wired {
    life: Life,
    device: Device,
    name: Name,
    lease: Lease,
}

impl Wired {
    /// Follows the machine to its end, and then withdraws its lease.
    pub(crate) async fn follow(mut self) {
        // The guest can reboot as often as it likes, so its log lines are limited.
        let log = Arc::new(Allowance::new(self.name.to_string()));
        let why = log.charge(self.end()).await;
        tracing::info!("{why}: CID {} is not granted any more", self.lease.cid());
        self.lease.withdraw(&why);
    }

    async fn end(&mut self) -> String {
        let name = self.name.clone();
        loop {
            // If QEMU sends events without end, `next` never waits. The listeners and the signals are on this thread
            // too, so it yields here.
            tokio::task::yield_now().await;
            match self.life.next().await {
                Ok(Happening::Shutdown(cause)) => {
                    return format!("{name} has ended ({})", cause.reason);
                }
                Ok(Happening::Reset(cause)) => {
                    // The guest's kernel has lost the sessions, and this side would never be notified of that.
                    let why = format!("{name} starts again ({})", cause.reason);
                    tracing::info!("{why}: its sessions are closed");
                    self.lease.reset(&why);
                }
                Ok(Happening::DeviceDeleted { path, .. }) if path == self.device.path => {
                    return format!("the vsock device was taken out of {name}");
                }
                Ok(Happening::Lost(count)) => {
                    // Any of the lost events may have been a reset, or the removal of the device.
                    self.lease.reset(&format!("{count} events of {name} were lost"));
                    match vsock::list(self.life.client()).await {
                        Ok(devices) if devices.contains(&self.device) => {}
                        Ok(_) => return format!("the vsock device was taken out of {name}"),
                        Err(error) => return lost(&name, &error),
                    }
                }
                Ok(_) => {}
                Err(error) => return lost(&name, &error),
            }
        }
    }
}

fn lost(name: &Name, error: &qmp::Error) -> String {
    // The error names the socket, and so does `name`. Only its cause is added.
    let why = error.source().map_or_else(String::new, |cause| format!(": {}", chain(cause)));
    format!("{name} is not followed any more{why}")
}
