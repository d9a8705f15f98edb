//! Adds a vsock device to a running machine, and removes one.

use std::{os::fd::AsFd, time::Duration};

use qapi::qmp::{
    DEVICE_DELETED, DEVICE_UNPLUG_GUEST_ERROR, closefd, device_add, device_del, query_status,
};
use thiserror::Error;
use tokio::time;
use vsock_cid::GuestCid;

use super::{Backend, Device, Machine, Place, PlaceError, children, get, list, place};
use crate::{
    cid::{self, Claim, ClaimError, Range},
    qmp::{Client, Error, Heard, Refusal},
};

/// The name of the descriptor in QEMU until the device takes it.
const FD_NAME: &str = "agent-vhost-vsock";

/// Why a machine got no new vsock device.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PlugError {
    /// QEMU could not be asked, or refused.
    #[error(transparent)]
    Qmp(#[from] Error),
    /// The machine has no place for the device.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// No CID was claimed.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The machine has a vsock device; a guest uses only one.
    #[error("the machine has a vsock device already: {0}")]
    Present(Device),
    /// QEMU reports another CID than the device was to have.
    #[error(
        "the new device has {} and was to have CID {asked}; it stays in the machine",
        .has.map_or_else(|| "no CID".to_owned(), |has| format!("CID {has}"))
    )]
    Wrong {
        /// The CID that was claimed.
        asked: GuestCid,
        /// The CID that QEMU reports.
        has: Option<u64>,
    },
}

impl PlugError {
    /// What the user can do about the error, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Place(error) => error.hint(),
            Self::Claim(error) => error.hint().map(Into::into),
            Self::Qmp(error) => error.hint(),
            Self::Present(_) => {
                Some("use that one, or take it out first with 'agent qemu detach'".into())
            }
            Self::Wrong { .. } => None,
        }
    }
}

/// A new vsock device.
#[derive(Debug)]
pub struct Plugged {
    /// The machine that has it.
    pub machine: Machine,
    /// The device.
    pub device: Device,
    /// No other machine can have the CID while this exists, even after this machine has ended.
    pub claim: Claim,
}

/// Adds a vsock device with a CID of the range to a machine that has none.
///
/// # Errors
/// [`PlugError`]. After [`PlugError::Wrong`] the device stays in the machine. After a deadline QEMU may still add
/// it.
pub async fn plug(client: &mut Client, range: Range, id: &str) -> Result<Plugged, PlugError> {
    if let Some(present) = list(client).await?.into_iter().next() {
        return Err(PlugError::Present(present));
    }
    let place = place(client).await?;
    let claim = cid::claim(range)?;
    let device = plug_claimed(client, &place, &claim, id).await?;
    Ok(Plugged { machine: place.machine, device, claim })
}

/// Adds a vsock device at this place and with this claimed CID.
///
/// # Errors
/// As [`plug`].
pub async fn plug_claimed(
    client: &mut Client,
    place: &Place,
    claim: &Claim,
    id: &str,
) -> Result<Device, PlugError> {
    let driver = place.machine.bus.vhost_vsock();
    client.pass(FD_NAME, claim.device.as_fd()).await?;
    let arguments = [("guest-cid", claim.cid.get().into()), ("vhostfd", FD_NAME.into())];
    let add = device_add {
        driver: driver.into(),
        id: Some(id.into()),
        bus: place.port.clone(),
        arguments: arguments
            .map(|(key, value): (_, qapi::Any)| (key.to_owned(), value))
            .into_iter()
            .collect(),
    };
    if let Err(error) = client.execute(&add).await {
        if error.refusal().is_some() {
            // QEMU still has the descriptor, and with it the CID, unless the device took it and failed
            // afterwards.
            client.execute(&closefd { fdname: FD_NAME.into() }).await.ok();
        }
        return Err(error.into());
    }
    let path = format!("{}/{id}", super::NAMED);
    let has = get(client, &path, "guest-cid").await?.and_then(|cid| cid.as_u64());
    if has != Some(claim.cid.get().into()) {
        return Err(PlugError::Wrong { asked: claim.cid, has });
    }
    let id = Some(id.into());
    let cid = Some(claim.cid);
    Ok(Device { id, path: path.into(), driver: driver.into(), backend: Backend::Kernel, cid })
}

/// Why a device was not removed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum UnplugError {
    /// QEMU could not be asked, or refused.
    #[error(transparent)]
    Qmp(#[from] Error),
    /// The guest refused to release the device.
    #[error("the guest does not give {0} back")]
    Guest(Device),
    /// The guest did not answer in time.
    #[error("the guest has not released {device} within {after:?}; the machine is '{status}'")]
    Deadline {
        /// The device.
        device: Device,
        /// How long the guest had.
        after: Duration,
        /// The state of the machine, such as `running` or `paused`.
        status: String,
    },
}

impl UnplugError {
    /// What the user can do about the error, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Qmp(error) => error.hint(),
            Self::Guest(_) => Some("end what uses the vsock device in the guest".into()),
            Self::Deadline { .. } => Some(
                "QEMU has asked it, and it still may: its kernel has to run and to know hotplug"
                    .into(),
            ),
        }
    }
}

/// Removes a device from its machine, and waits until it is removed. The guest has to release the device.
///
/// # Errors
/// [`UnplugError`]. After [`UnplugError::Deadline`] the guest may still release the device later.
pub async fn unplug(
    client: &mut Client,
    device: &Device,
    deadline: Duration,
) -> Result<(), UnplugError> {
    if let Err(error) = client.execute(&device_del { id: device.path.as_str().into() }).await
        && !error.refusal().is_some_and(is_asked_already)
    {
        return Err(error.into());
    }
    if let Ok(result) = time::timeout(deadline, deleted(client, device)).await {
        return result;
    }
    let status = client.execute(&query_status {}).await;
    let status = status.map(|status| format!("{:?}", status.status));
    let status = status.unwrap_or_else(|_| "unknown".into());
    Err(UnplugError::Deadline { device: device.clone(), after: deadline, status })
}

/// Whether an earlier request to remove the device still waits for the guest.
///
/// QEMU's class for it is `GenericError`, as for a bus without hotplug, and no property of the device shows it: its
/// text is all there is to tell them apart. A text that QEMU changes makes the second `detach` fail at once.
fn is_asked_already(refusal: &Refusal) -> bool {
    refusal.desc.as_str().contains("already in the process of unplug")
}

async fn deleted(client: &mut Client, device: &Device) -> Result<(), UnplugError> {
    loop {
        let event = match client.event().await? {
            Heard::Event(event) => event,
            Heard::Lost(_) => {
                if children(client, device.path.as_str()).await?.is_empty() {
                    return Ok(());
                }
                continue;
            }
        };
        let path = match event.name.as_str() {
            "DEVICE_DELETED" => event.parse().map(|data: DEVICE_DELETED| data.path),
            "DEVICE_UNPLUG_GUEST_ERROR" => {
                event.parse().map(|data: DEVICE_UNPLUG_GUEST_ERROR| data.path)
            }
            _ => None,
        };
        if path.is_none_or(|path| device.path != *path) {
            continue;
        }
        if event.name == "DEVICE_DELETED" {
            return Ok(());
        }
        return Err(UnplugError::Guest(device.clone()));
    }
}
