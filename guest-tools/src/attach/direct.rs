//! `attach --direct`: the kernel is given the connections themselves, where it takes them, and nothing
//! stays behind the device: it ends with its server.

use nbd::wire::TransmissionFlags;

use super::{
    AttachError,
    device::{Ready, Wish, connections, driver, refused},
    device_name,
    export::Export,
    netlink::Connect,
};
use crate::greet::{Entered, enter_for_kernel};

/// Gives the kernel the server's own sockets, and no relay: the device ends with its server.
pub(crate) fn hand_over(wish: &Wish) -> Result<Ready, AttachError> {
    let mut driver = driver()?;
    let uri = wish.uri.to_string();
    let unfit = |why: &str| AttachError::Unfit { uri: uri.clone(), why: why.to_owned() };
    if wish.uri.tls {
        return Err(unfit("the kernel speaks no TLS, so --direct cannot be; a relay can"));
    }
    let entered = enter_for_kernel(&wish.uri)?;
    let terms = entered.client.terms().clone();
    let export = Export::of(&terms, wish.read_only, None);
    let block = export.block().map_err(|why| unfit(&why))?;
    let mut sockets = Vec::new();
    for _ in 1..connections(wish, &export) {
        sockets.push(enter_for_kernel(&wish.uri)?);
    }
    sockets.insert(0, entered);
    if sockets.iter().any(|entered| !entered.received.is_empty()) {
        return Err(unfit("the server said something that it was not asked for"));
    }
    let sockets: Vec<_> = sockets.into_iter().filter_map(Entered::into_plain).collect();
    let asked = driver.connect(&Connect {
        index: wish.index,
        sockets: &sockets,
        size: export.visible(block),
        block,
        flags: export.for_kernel().bits(),
        identifier: &uri,
    });
    let device = wish.index.map_or_else(|| "a device".to_owned(), device_name);
    let index = asked.map_err(|source| refused(&device, &uri, source))?;
    Ok(Ready {
        device: device_name(index),
        size: export.visible(block),
        block,
        connections: sockets.len(),
        read_only: export.flags.contains(TransmissionFlags::READ_ONLY),
        relay: false,
        uri,
    })
}
