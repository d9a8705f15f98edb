//! The filters that change disks or the names of exports. Each builds a stack around the stack below it.
//!
//! `filter` finds them by name and builds them. A layer is one file. It parses its parameters when it is built and
//! holds no more than it needs.

mod blocksize_policy;
mod cow;
mod delay;
mod error;
mod exportname;
mod fua;
mod log;
mod multi_conn;
mod nocache;
mod noextents;
mod nozero;
mod offset;
mod partition;
mod pause;
mod protect;
mod rate;
mod readonly;
mod stats;
mod truncate;
mod window;

use std::{error::Error, io};

use crate::{exports::OpenError, params::absolute, stack::Entry};
use disk::{DiskError, Kind as DiskKind, Verb};

/// In the order of their names.
pub(crate) const BUILT_IN: &[Entry] = &[
    blocksize_policy::ENTRY,
    cow::ENTRY,
    delay::ENTRY,
    error::ENTRY,
    exportname::ENTRY,
    fua::ENTRY,
    log::ENTRY,
    multi_conn::ENTRY,
    nocache::ENTRY,
    noextents::ENTRY,
    nozero::ENTRY,
    offset::ENTRY,
    partition::ENTRY,
    pause::ENTRY,
    protect::ENTRY,
    rate::ENTRY,
    readonly::ENTRY,
    stats::ENTRY,
    truncate::ENTRY,
];

/// Whether the layer writes nothing to the disk below.
pub(crate) fn only_reads_below(layer: &Entry) -> bool {
    layer.name == cow::NAME
}

/// The error for an export that the layer cannot be put around. `why` is logged.
fn refuse(why: impl Into<Box<dyn Error + Send + Sync>>) -> OpenError {
    let source = Some(io::Error::other(why));
    OpenError::Failed(DiskError { source, ..DiskError::new(DiskKind::Invalid, Verb::Open, (0, 0)) })
}
