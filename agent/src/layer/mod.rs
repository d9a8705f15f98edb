//! Layers, which nbdkit calls filters: each makes a stack out of the one below it, by wrapping the
//! disks, changing the names, or putting up a gate.
//!
//! `plan` stacks them as the command line says, the first named nearest to the client. A layer is one
//! file; it parses its parameters when it is built and holds no more than it needs.

mod blocksize_policy;
mod cow;
mod delay;
mod error;
mod exitlast;
mod exitwhen;
mod exportname;
mod fua;
mod ip;
mod limit;
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

use std::{
    fmt,
    future::ready,
    io,
    path::{self, PathBuf},
    sync::Arc,
};

use crate::{
    exports::{Exports, Listing, OpenError, Opened, Permit},
    params::{Key, Kind, Params, Word},
    stack::{BuildError, Context, Stack},
};
use disk::{Disk, DiskError, Kind as DiskKind, Verb};

/// A layer that is built in.
#[derive(Debug)]
pub struct Entry {
    pub name: &'static str,
    /// One line for people.
    pub about: &'static str,
    pub keys: &'static [Key],
    build: fn(&Params<'_>, Stack, &mut Context<'_>) -> Result<Stack, BuildError>,
}

/// In the order of their names.
pub const BUILT_IN: &[Entry] = &[
    blocksize_policy::ENTRY,
    cow::ENTRY,
    delay::ENTRY,
    error::ENTRY,
    exitlast::ENTRY,
    exitwhen::ENTRY,
    exportname::ENTRY,
    fua::ENTRY,
    ip::ENTRY,
    limit::ENTRY,
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

/// nbdkit's other filters, so that who knows them is told plainly.
const NOT_BUILT_IN: &[&str] = &[
    "blocksize",
    "bzip2",
    "cache",
    "cacheextents",
    "checkwrite",
    "ddrescue",
    "evil",
    "ext2",
    "extentlist",
    "gzip",
    "luks",
    "lzip",
    "nofilter",
    "noparallel",
    "openonce",
    "qcow2dec",
    "readahead",
    "retry",
    "retry-request",
    "scan",
    "swab",
    "tar",
];

/// The built-in layer of that name.
pub fn find(name: &str) -> Result<&'static Entry, BuildError> {
    BUILT_IN.iter().find(|entry| entry.name == name).ok_or_else(|| {
        let built_in = BUILT_IN.iter().map(|entry| entry.name).collect();
        let (kind, name) = (Kind::Filter, name.to_owned());
        if NOT_BUILT_IN.contains(&name.as_str()) {
            BuildError::NotBuiltIn { kind, name, built_in }
        } else {
            BuildError::Unknown { kind, name, built_in }
        }
    })
}

/// A layer with the words that are for it.
#[derive(Debug)]
pub struct Chosen<'a> {
    entry: &'static Entry,
    params: Params<'a>,
}

/// Finds the layers by name, the first nearest to the client, and takes the words that each knows
/// out of `words`.
pub fn choose<'a>(
    names: &[String],
    words: &mut Vec<&'a Word>,
) -> Result<Vec<Chosen<'a>>, BuildError> {
    let choose = |name: &String| {
        let entry = find(name)?;
        Ok(Chosen { entry, params: Params::of_filter(entry.name, entry.keys, words)? })
    };
    names.iter().map(choose).collect()
}

/// What is below the layers is only read: nothing that is written passes `cow`.
pub fn spare_below(layers: &[Chosen<'_>]) -> bool {
    layers.iter().any(|layer| layer.entry.name == cow::NAME)
}

/// Puts the layers around `stack`.
pub fn wrap(
    stack: Stack,
    layers: &[Chosen<'_>],
    context: &mut Context<'_>,
) -> Result<Stack, BuildError> {
    layers
        .iter()
        .rev()
        .try_fold(stack, |stack, layer| (layer.entry.build)(&layer.params, stack, context))
}

/// A path that stays the same when the agent goes into the background, and to `/` with it.
fn absolute(path: &str) -> PathBuf {
    // It fails for an empty path, which then is told by whoever opens it.
    path::absolute(path).unwrap_or_else(|_| path.into())
}

/// An export that the layer cannot make anything of; `why` stands in the log.
fn refuse(why: String) -> OpenError {
    let source = Some(io::Error::other(why));
    OpenError::Failed(DiskError { source, ..DiskError::new(DiskKind::Invalid, Verb::Open, (0, 0)) })
}

/// Puts every disk that is opened, each time, into what `around` makes of it at once.
fn each<F>(stack: Stack, around: F) -> Stack
where
    F: Fn(Arc<dyn Disk>, &Permit) -> Result<Arc<dyn Disk>, OpenError> + Send + Sync + 'static,
{
    each_later(stack, move |below, permit| Box::pin(ready(around(below, permit))))
}

/// As `each`, where `around` waits for something.
fn each_later<F>(stack: Stack, around: F) -> Stack
where
    F: Fn(Arc<dyn Disk>, &Permit) -> Opened<'_> + Send + Sync + 'static,
{
    let exports = Arc::new(Each { below: stack.exports, around });
    Stack { exports, gates: stack.gates }
}

struct Each<F> {
    below: Arc<dyn Exports>,
    around: F,
}

impl<F> fmt::Debug for Each<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Each").field("below", &self.below).finish_non_exhaustive()
    }
}

impl<F> Exports for Each<F>
where
    F: Fn(Arc<dyn Disk>, &Permit) -> Opened<'_> + Send + Sync,
{
    fn list<'a>(&'a self, permit: &'a Permit) -> Listing<'a> {
        self.below.list(permit)
    }

    fn open<'a>(&'a self, name: &'a str, permit: &'a Permit) -> Opened<'a> {
        Box::pin(async move {
            let below = self.below.open(name, permit).await?;
            (self.around)(below, permit).await
        })
    }

    fn canonical<'a>(&'a self, name: &'a str) -> &'a str {
        self.below.canonical(name)
    }
}
