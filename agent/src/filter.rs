//! The filters of the command line: layers, which change disks, and gates, which do not.
//!
//! `plan` chooses and builds them. The filter that is named first is nearest to the client.

use crate::{
    gate, layer,
    params::{Kind, Params, Word},
    stack::{BuildError, Context, Entry, Stack},
};

/// nbdkit's filters that are not built in, so that an error for one of them can say so.
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

/// All built-in filters, in the order of their names.
pub(crate) fn built_in() -> Vec<&'static Entry> {
    let mut all: Vec<_> = layer::BUILT_IN.iter().chain(gate::BUILT_IN).collect();
    all.sort_unstable_by_key(|entry| entry.name);
    all
}

/// The built-in filter of that name.
///
/// # Errors
/// `BuildError::Unknown`, or `BuildError::NotBuiltIn` if nbdkit has a filter of that name.
pub(crate) fn find(name: &str) -> Result<&'static Entry, BuildError> {
    let all = built_in();
    all.iter().find(|entry| entry.name == name).copied().ok_or_else(|| {
        let built_in = all.iter().map(|entry| entry.name).collect();
        let (kind, name) = (Kind::Filter, name.to_owned());
        if NOT_BUILT_IN.contains(&name.as_str()) {
            BuildError::NotBuiltIn { kind, name, built_in }
        } else {
            BuildError::Unknown { kind, name, built_in }
        }
    })
}

/// A filter with its parameters.
#[derive(Debug)]
pub(crate) struct Chosen<'a> {
    entry: &'static Entry,
    params: Params<'a>,
}

/// Finds the filters by name, the first nearest to the client. Removes the parameters of each filter from `words`.
///
/// # Errors
/// As `find`, and if a filter is given a parameter twice.
pub(crate) fn choose<'a>(
    names: &[String],
    words: &mut Vec<&'a Word>,
) -> Result<Vec<Chosen<'a>>, BuildError> {
    let choose = |name: &String| {
        let entry = find(name)?;
        Ok(Chosen { entry, params: Params::of_filter(entry.name, entry.keys, words)? })
    };
    names.iter().map(choose).collect()
}

/// Whether the plugin's disk is only read, because a filter lets no write through.
pub(crate) fn only_reads_below(filters: &[Chosen<'_>]) -> bool {
    filters.iter().any(|filter| layer::only_reads_below(filter.entry))
}

/// Builds the filters around `stack`, the last one first.
///
/// # Errors
/// If the parameters of a filter are wrong, or if what it needs cannot be opened.
pub(crate) fn wrap(
    stack: Stack,
    filters: &[Chosen<'_>],
    context: &mut Context<'_>,
) -> Result<Stack, BuildError> {
    filters
        .iter()
        .rev()
        .try_fold(stack, |stack, filter| (filter.entry.build)(&filter.params, stack, context))
}
