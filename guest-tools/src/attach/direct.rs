//! `attach --direct`: gives the kernel the connections themselves, where its driver accepts them. No
//! process serves the device, and it ends with its server.

use nbd::wire::TransmissionFlags;

use super::{
    AttachError,
    device::connections,
    driver::{nbd, nbd_refused},
    export::Export,
    fenced::Standing,
    name::Device,
    netlink::Connect,
    unfit::Unfit,
    wish::{Ready, Wish},
};

/// Gives the kernel the sockets to the server, without a relay. The device ends with its server.
pub(crate) fn hand_over(wish: &Wish) -> Result<Ready, AttachError> {
    let uri = wish.uri.to_string();
    let unfit = |why| AttachError::Unfit { uri: uri.clone(), why };
    let wanted = match wish.device {
        Some(Device::Nbd(number)) => Some(number),
        None if !wish.ublk => None,
        _ => return Err(unfit(Unfit::DirectUblk)),
    };
    let mut driver = nbd()?;
    if wish.uri.tls {
        return Err(unfit(Unfit::DirectTls));
    }
    let entered = wish.connector.open_for_kernel(&wish.uri)?;
    let terms = entered.machine.terms().clone();
    let export = Export::of(&terms, wish.read_only, Standing::default());
    let block = export.block().map_err(unfit)?;
    let mut sockets = Vec::new();
    for _ in 1..connections(wish, &export) {
        sockets.push(wish.connector.open_for_kernel(&wish.uri)?);
    }
    sockets.insert(0, entered);
    if sockets.iter().any(|entered| !entered.received.is_empty()) {
        return Err(unfit(Unfit::Unasked));
    }
    let plain = sockets.into_iter().filter_map(|entered| entered.into_plain().transpose());
    let plain: Result<Vec<_>, _> = plain.collect();
    let sockets = plain.map_err(AttachError::system("prepare the sockets for the kernel"))?;
    let asked = driver.connect(&Connect {
        index: wanted,
        sockets: &sockets,
        size: export.visible(block),
        block,
        flags: export.for_kernel().bits(),
        identifier: &uri,
    });
    let device = wanted.map(Device::Nbd).map_or_else(|| "a device".to_owned(), |d| d.to_string());
    let number = asked.map_err(|source| nbd_refused(&device, &uri, source))?;
    Ok(Ready {
        device: Device::Nbd(number).to_string(),
        size: export.visible(block),
        block,
        connections: sockets.len(),
        read_only: export.flags.contains(TransmissionFlags::READ_ONLY),
        relay: false,
        uri,
    })
}
