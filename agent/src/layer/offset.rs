//! Serves part of a disk: nbdkit-offset-filter(1).

use std::sync::Arc;

use thiserror::Error;

use super::{Entry, refuse, window::Window};
use crate::params::Key;

pub(super) const ENTRY: Entry = Entry {
    name: "offset",
    about: "Serve part of the disk",
    keys: &[
        Key::once("offset", "SIZE", "Start of the part [default: 0]"),
        Key::once("range", "SIZE", "Length of the part [default: to the end]"),
    ],
    build: |params, stack, _| {
        let start = params.size("offset")?.unwrap_or(0);
        let range = params.size("range")?;
        Ok(stack.each(move |below, _| {
            let size = below.info().size;
            let len = range.or_else(|| size.checked_sub(start));
            let window = len.and_then(|len| Window::new(below, start, len));
            window
                .map(|window| Arc::new(window) as _)
                .ok_or_else(|| refuse(BeyondTheEnd { start, range, size }))
        }))
    },
};

#[derive(Debug, Error)]
#[error(
    "filter offset: offset={start} and range={range} lie beyond the end of a disk of {size} bytes",
    range = .range.map_or_else(|| "(to the end)".to_owned(), |range| range.to_string())
)]
struct BeyondTheEnd {
    start: u64,
    range: Option<u64>,
    size: u64,
}
