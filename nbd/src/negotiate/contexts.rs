//! Meta contexts: what a query selects, and for which export that counts ("Metadata querying").

use crate::wire::{BASE_ALLOCATION, MAX_STRING, Reader, ReplyCode};

use super::Refusal;

/// The id under which `base:allocation` is selected.
pub(super) const ALLOCATION_ID: u32 = 1;

/// A selection that a client made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Selected {
    /// It counts for this export only.
    pub(super) export: String,
    pub(super) allocation: bool,
}

/// The data of LIST_META_CONTEXT or SET_META_CONTEXT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Queries {
    pub(super) export: String,
    /// Some query asks for `base:allocation`.
    pub(super) allocation: bool,
}

/// Reads queries. `list`: no query means all, and "base:" means all of that namespace.
pub(super) fn parse(data: &[u8], list: bool) -> Result<Queries, Refusal> {
    let mut reader = Reader::new(data);
    let export = name(&mut reader)?;
    let count = reader.u32().map_err(invalid)?;
    let mut allocation = list && count == 0;
    for _ in 0..count {
        // A query is at least its length: a count that lies ends here.
        let query = reader.counted_string().map_err(invalid)?;
        allocation |= query == BASE_ALLOCATION || (list && query == "base:");
    }
    reader.finish().map_err(invalid)?;
    Ok(Queries { export, allocation })
}

/// A counted export name; one that is too long is TOO_BIG, everything else INVALID.
pub(super) fn name(reader: &mut Reader<'_>) -> Result<String, Refusal> {
    let len = reader.u32().map_err(invalid)?;
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    if len > MAX_STRING && len <= reader.rest().len() {
        let text = format!("an export name of {len} bytes, over the limit of 4096");
        return Err(Refusal::new(ReplyCode::ERR_TOO_BIG, text));
    }
    reader.string(len).map(ToOwned::to_owned).map_err(invalid)
}

pub(super) fn invalid(error: impl std::fmt::Display) -> Refusal {
    Refusal::new(ReplyCode::ERR_INVALID, error.to_string())
}
