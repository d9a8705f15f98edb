//! Takes packets off the TX queue and applies each to its connection.

use std::sync::Arc;

use vsock_cid::Cid;

use crate::{
    broken::Broken,
    connection::Connection,
    connections::{AfterUnlock, BUF_ALLOC, MAX_CONNECTIONS},
    device::Device,
    flow::{ANSWERS, DESCRIPTORS, Flow, Intake, Rx},
    header::{self, Header, Op},
    inner::Inner,
    key::Key,
    queue::{Chain, For, Queue},
};

/// Most chains that all connections of a VM hold: half of Linux's queue stays free.
pub(crate) const ALL_LENT: usize = 64;
/// Most packets that are taken under the lock, during which sessions wait. QEMU's queue has this many.
const PACKETS: usize = 128;
/// Most bytes that are taken under the lock, and one packet more.
const BYTES: usize = 1 << 20;

/// The result of `take_in`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) packets: usize,
    /// The work was cut short, and there may be more packets.
    pub(crate) more: bool,
}

/// Takes packets off the TX queue.
pub(crate) fn take_in(
    device: &Arc<Device>,
    inner: &mut Inner,
    after: &mut AfterUnlock<'_>,
) -> Result<Taken, Broken> {
    let Inner { memory, rx, tx, flow, .. } = inner;
    let memory = memory.as_ref();
    let mut rx = Rx { ring: rx, memory };
    let Some(mut tx) = Queue::new(tx, memory) else {
        return Ok(Taken { packets: 0, more: false });
    };
    let (mut packets, mut bytes) = (0, 0);
    let more = loop {
        if packets >= PACKETS || bytes >= BYTES || tx.descriptors() >= DESCRIPTORS {
            break true;
        }
        if flow.answers.len() >= ANSWERS {
            flow.send_answers(&mut rx)?;
        }
        flow.intake = if flow.is_full() { Intake::Stalled } else { Intake::Open };
        if flow.intake == Intake::Stalled {
            break false;
        }
        let Some(mut chain) = tx.pop(For::Reading)? else { break false };
        packets += 1;
        let mut head = [0; Header::LEN];
        let whole = chain.read(tx.memory(), &mut head)? == Header::LEN;
        let header = Header::parse(&head);
        bytes += chain.len();
        let kept = if whole && header.len as usize == chain.len() {
            packet(device, flow, &mut tx, &header, chain, after)?
        } else {
            Some(chain)
        };
        if let Some(chain) = kept {
            tx.give_back(&chain, 0)?;
        }
    };
    tx.notify()?;
    flow.send_answers(&mut rx)?;
    Ok(Taken { packets, more })
}

/// Applies one packet. Returns its chain unless the connection holds it.
fn packet(
    device: &Arc<Device>,
    flow: &mut Flow,
    tx: &mut Queue<'_>,
    header: &Header,
    mut chain: Chain,
    after: &mut AfterUnlock<'_>,
) -> Result<Option<Chain>, Broken> {
    let cid = device.cid();
    let from_guest = header.src_cid == u64::from(cid.get());
    // The packet has a wrong source or destination: ignored, as by the kernel's vhost.
    if !from_guest || header.dst_cid != u64::from(Cid::HOST.get()) {
        return Ok(Some(chain));
    }
    let key = Key::of(header);
    if header.kind != header::STREAM {
        if header.op != Op::Reset {
            flow.answers.push_back(header.reset());
        }
        return Ok(Some(chain));
    }
    if header.op == Op::Request {
        request(device, flow, tx, header, key, after)?;
        return Ok(Some(chain));
    }
    let Some(state) = flow.connections.open.get_mut(&key) else {
        let closed = flow.connections.was_closed(key);
        let wants_to_know = header.op == Op::Shutdown || !closed;
        if header.op == Op::Reset || wants_to_know && closed {
            flow.connections.forget(key);
        }
        if header.op != Op::Reset && wants_to_know {
            flow.answers.push_back(header.reset());
        }
        return Ok(Some(chain));
    };
    (state.peer_buf_alloc, state.peer_fwd_cnt) = (header.buf_alloc, header.fwd_cnt);
    if state.writer.is_some() && state.credit() > 0 {
        state.wake_writer(after);
    }
    match header.op {
        Op::Data => {
            let fits =
                state.inbox.len().checked_add(header.len).is_some_and(|all| all <= BUF_ALLOC);
            if !fits || !state.guest.sends() || header.len == 0 {
                let port = key.guest_port;
                device.log().debug(format_args!("port {port}: the guest sent more than it may"));
                flow.answers.push_back(header.reset());
                flow.drop_connection(key, tx, after)?;
                return Ok(Some(chain));
            }
            state.wake_reader(after);
            if flow.held.lent < ALL_LENT && state.inbox.may_lend(&chain) {
                state.inbox.lend(chain, header.len, &mut flow.held);
                return Ok(None);
            }
            state.inbox.copy(&mut chain, header.len, tx.memory(), &mut flow.held)?;
        }
        Op::CreditRequest => {
            let update = state.header(key, cid, Op::CreditUpdate, 0, 0);
            flow.answers.push_back(update);
        }
        Op::Shutdown => {
            state.guest = state.guest.with(header.flags);
            state.wake_reader(after);
            state.wake_writer(after);
        }
        Op::CreditUpdate => {}
        Op::Reset => flow.drop_connection(key, tx, after)?,
        Op::Request | Op::Response | Op::Unknown(_) => {
            flow.answers.push_back(header.reset());
            flow.drop_connection(key, tx, after)?;
        }
    }
    Ok(Some(chain))
}

fn request(
    device: &Arc<Device>,
    flow: &mut Flow,
    tx: &mut Queue<'_>,
    header: &Header,
    key: Key,
    after: &mut AfterUnlock<'_>,
) -> Result<(), Broken> {
    let known = flow.connections.open.contains_key(&key);
    if known {
        flow.drop_connection(key, tx, after)?;
    }
    // The count includes ended connections whose sessions still exist. Otherwise a guest that connects in a loop
    // could have any number of sessions.
    if known || header.dst_port != device.port() || flow.sessions >= MAX_CONNECTIONS {
        flow.answers.push_back(header.reset());
        return Ok(());
    }
    let id = flow.connections.open(key, header);
    let state = flow.connections.get((key, id)).ok_or(Broken)?;
    let response = state.header(key, device.cid(), Op::Response, 0, 0);
    flow.answers.push_back(response);
    let connection = Connection::new(Arc::clone(device), key, id);
    // There is no listener: reset the connection, and drop the handle without taking the lock again.
    if let Err(refused) = device.accepted().try_send(connection) {
        refused.into_inner().forget();
        flow.answers.pop_back();
        flow.answers.push_back(header.reset());
        flow.drop_connection(key, tx, after)?;
    } else {
        flow.sessions += 1;
    }
    Ok(())
}
