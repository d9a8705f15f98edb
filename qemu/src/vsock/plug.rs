//! A vsock device into a machine that runs, and out of it.

use std::{os::fd::AsFd, time::Duration};

use qapi::qmp::{
    DEVICE_DELETED, DEVICE_UNPLUG_GUEST_ERROR, closefd, device_add, device_del, query_status,
};
use thiserror::Error;
use tokio::time;

use super::{Backend, Device, Machine, Place, PlaceError, children, get, list, place};
use crate::{
    cid::{self, Claim, ClaimError, GuestCid, Range},
    qmp::{Client, Error, Heard, Refusal},
};

/// The descriptor's name in QEMU, until the device takes it.
const FD_NAME: &str = "agent-vhost-vsock";

/// Why a machine has no new vsock device.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PlugError {
    #[error(transparent)]
    Qmp(#[from] Error),
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error(transparent)]
    Claim(#[from] ClaimError),
    #[error("the machine has a vsock device already: {0}")]
    Present(Device),
    #[error(
        "the new device has {} and was to have CID {asked}; it stays in the machine",
        .has.map_or_else(|| "no CID".to_owned(), |has| format!("CID {has}"))
    )]
    Wrong { asked: GuestCid, has: Option<u64> },
}

impl PlugError {
    /// What to do about it, where that is known.
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
    pub machine: Machine,
    pub device: Device,
    /// As long as it lives, no other machine can have the CID, even when this one has ended.
    pub claim: Claim,
}

/// Puts a vsock device with a CID of the range into a machine that has none.
pub async fn plug(client: &mut Client, range: Range, id: &str) -> Result<Plugged, PlugError> {
    if let Some(present) = list(client).await?.into_iter().next() {
        return Err(PlugError::Present(present));
    }
    let place = place(client).await?;
    let claim = cid::claim(range)?;
    let device = plug_claimed(client, &place, &claim, id).await?;
    Ok(Plugged { machine: place.machine, device, claim })
}

/// The same with a place and a claim that are there already.
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
            // QEMU still has the descriptor, unless the device took it and failed afterwards; and
            // would hold the CID with it.
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
    Ok(Device { id, path: path.into(), driver: driver.into(), backend: Backend::Kernel, cid: has })
}

/// Why a device is still in its machine.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum UnplugError {
    #[error(transparent)]
    Qmp(#[from] Error),
    #[error("the guest does not give {0} back")]
    Guest(Device),
    #[error("the guest has not given {device} back after {after:?}; the machine is '{status}'")]
    Deadline { device: Device, after: Duration, status: String },
}

impl UnplugError {
    /// What to do about it, where that is known.
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

/// Takes a device out of its machine, which the guest has to allow; waits until it is out.
pub async fn unplug(
    client: &mut Client,
    device: &Device,
    deadline: Duration,
) -> Result<(), UnplugError> {
    if let Err(error) = client.execute(&device_del { id: device.path.as_str().into() }).await {
        // Asked before, and not answered by the guest yet. QEMU has no class of its own for it.
        let asked = |no: &Refusal| no.desc.as_str().contains("already in the process of unplug");
        if !error.refusal().is_some_and(asked) {
            return Err(error.into());
        }
    }
    if let Ok(result) = time::timeout(deadline, deleted(client, device)).await {
        return result;
    }
    let status = client.execute(&query_status {}).await;
    let status = status.map(|status| format!("{:?}", status.status));
    let status = status.unwrap_or_else(|_| "unknown".into());
    Err(UnplugError::Deadline { device: device.clone(), after: deadline, status })
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
