//! What a negotiation asks the exports for: their list, or one of them to be opened. While it waits, it notices when
//! its client leaves and when the agent shuts down. Then it drops the work of the exports.

use std::{
    future,
    io::{self, IoSliceMut},
    sync::Arc,
    time::Duration,
};

use human::chain;
use nbd::{BlockSizes, Buffer, Refusal, negotiate::Export, wire::TransmissionFlags};
use tokio::sync::watch;

use super::{
    contexts,
    end::{End, Life},
};
use crate::{
    exports::{Exports, Listed, OpenError, Permit},
    tenant::Account,
    transport::Transport,
};
use disk::{Disk, DiskError, DiskInfo};

/// How long an export may take to open for a client that has ended its sending. Such a client may still be there to
/// read the answer; a client that is gone looks the same.
const HALF_CLOSED: Duration = Duration::from_secs(1);

/// Bytes of the longest list and of the answer that is made of it: 10,000 names of 255 bytes.
const LIST: u64 = 6 << 20;

/// A client that waits for the exports.
pub(super) struct Waiting<'a> {
    pub(super) stream: &'a mut Transport,
    pub(super) buffer: &'a mut Buffer,
    pub(super) life: &'a mut watch::Receiver<Life>,
    pub(super) told: &'a mut Told,
}

/// The last failure to open an export that was logged. A connection that asks for the export again does not log it
/// again.
#[derive(Debug, Default)]
pub(super) struct Told(Option<(String, String)>);

impl Told {
    fn cannot_open(&mut self, export: &str, error: &DiskError) {
        let said = (export.to_owned(), chain(error).to_string());
        if self.0.as_ref() != Some(&said) {
            tracing::error!(export, error = %said.1, "export not opened");
            self.0 = Some(said);
        }
    }
}

impl Waiting<'_> {
    /// Returns the list for NBD_OPT_LIST. `memory` covers the list and its answer.
    pub(super) async fn list(
        self,
        exports: &dyn Exports,
        permit: &Permit,
        memory: &mut Account,
    ) -> Result<Result<Vec<Listed>, Refusal>, End> {
        let listing = async {
            memory.acquire(LIST.min(memory.most())).await;
            exports.list(permit).await.map_err(|error| {
                tracing::error!(%error, "exports not listed");
                Refusal::platform("the exports could not be listed; the server's log says why")
            })
        };
        let Self { stream, buffer, life, .. } = self;
        until(stream, buffer, life, listing).await
    }

    /// Opens the export that the permit covers.
    pub(super) async fn open(
        self,
        exports: &dyn Exports,
        permit: &Permit,
    ) -> Result<Result<Arc<dyn Disk>, Refusal>, End> {
        let name = permit.export().unwrap_or_default();
        let Self { stream, buffer, life, told } = self;
        let opened = async {
            exports.open(name, permit).await.map_err(|error| match error {
                OpenError::Unknown => Refusal::unknown(name),
                OpenError::Failed(error) => {
                    told.cannot_open(name, &error);
                    Refusal::platform("the export could not be opened; the server's log says why")
                }
            })
        };
        until(stream, buffer, life, opened).await
    }
}

/// Waits for `work` while its client stays connected and the agent serves.
async fn until<T>(
    stream: &mut Transport,
    buffer: &mut Buffer,
    life: &mut watch::Receiver<Life>,
    work: impl Future<Output = Result<T, Refusal>>,
) -> Result<Result<T, Refusal>, End> {
    let gone = async {
        let end = departed(stream, buffer).await;
        tokio::time::sleep(HALF_CLOSED).await;
        end
    };
    // An error: the sender of `life` has been dropped, so the agent has ended.
    let leaving = async { life.wait_for(|life| *life != Life::Serving).await.map(|life| *life) };
    tokio::select! {
        biased;
        done = work => Ok(done),
        end = gone => Err(end),
        life = leaving => match life {
            Ok(Life::Draining) => Ok(Err(Refusal::shutdown())),
            _ => Err(End::Cut),
        },
    }
}

/// Waits until the client leaves without an answer. Bytes that it sends meanwhile are kept in `buffer`. Nothing more is
/// received once `buffer` is full.
pub(super) async fn departed(stream: &mut Transport, buffer: &mut Buffer) -> End {
    loop {
        if buffer.spare().is_empty() {
            return future::pending().await;
        }
        match stream.try_recv(&mut [IoSliceMut::new(buffer.spare())]) {
            Ok(0) => return End::Closed,
            Ok(n) => buffer.added(n),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if let Err(error) = stream.readable().await {
                    return End::from_receive(&error);
                }
            }
            Err(error) => return End::from_receive(&error),
        }
    }
}

/// The description of a disk for a client. `read_only` is that of the agent.
pub(super) fn describe(info: &DiskInfo, read_only: bool) -> Export {
    let writable = !(info.read_only || read_only);
    let mut flags = TransmissionFlags::HAS_FLAGS;
    flags.set(TransmissionFlags::SEND_FLUSH, info.can_flush);
    flags.set(TransmissionFlags::READ_ONLY, !writable);
    flags.set(TransmissionFlags::SEND_FUA, writable && info.can_fua);
    flags.set(TransmissionFlags::ROTATIONAL, info.rotational);
    flags.set(TransmissionFlags::SEND_TRIM, writable && info.can_trim);
    flags.set(TransmissionFlags::SEND_WRITE_ZEROES, writable && info.can_zero);
    let fast_zero = writable && info.can_zero && info.can_fast_zero;
    flags.set(TransmissionFlags::SEND_FAST_ZERO, fast_zero);
    flags.set(TransmissionFlags::SEND_CACHE, info.can_cache);
    flags.set(TransmissionFlags::CAN_MULTI_CONN, info.multi_conn);
    Export {
        size: info.size,
        flags,
        blocks: BlockSizes {
            minimum: info.block_minimum.max(info.block_advertised),
            preferred: info.block_preferred,
            maximum: info.block_maximum.min(nbd::transmit::MAX_PAYLOAD),
        },
        unit: info.block_minimum,
        name: None,
        description: info.description.clone(),
        contexts: contexts::offered(info),
    }
}
