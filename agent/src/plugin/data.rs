//! A disk with contents from the command line: nbdkit-data-plugin(1).

mod content;
mod parse;
mod source;

use std::sync::Arc;

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use thiserror::Error;

use self::content::{Content, Stretch};
use super::{Entry, single};
use crate::{
    params::{Key, Params},
    stack::{BuildError, Context, Stack},
};
use disk::{Answer, Data, DiskError, MemoryDisk, Op, execute_all};

/// Most bytes that are written to memory. A short text such as `1*1000000000000` can mean more than there is.
const MOST: u64 = 4 << 30;
/// Bytes of one write.
const PIECE: usize = 1 << 20;

pub(super) const ENTRY: Entry = Entry {
    name: "data",
    about: "A memory disk with contents from the command line",
    keys: &[
        Key::once("data", "DATA", "Bytes, words, strings, files, offsets: nbdkit-data-plugin(1)"),
        Key::once("base64", "BASE64", "The contents in base64"),
        Key::once("raw", "TEXT", "The contents as plain text"),
        Key::once("size", "SIZE", "Size of the disk [default: the size of the contents]"),
        Key::once("allocator", "sparse", "Memory is allocated as it is written"),
        Key::free("VAR", "DATA", "Any other name: a variable, $VAR in data"),
    ],
    main: Some("data"),
    build: |params, context| build(params, context),
};

#[derive(Debug, Error)]
enum DataDiskError {
    #[error("plugin data: give exactly one of data, base64 and raw")]
    Not1,
    #[error("plugin data: only data uses variables, and these are given: {0}")]
    Unused(String),
    #[error("plugin data: more than {MOST} bytes that are not zero; put them into a file")]
    TooMuch,
    #[error("plugin data: there is no memory for the contents")]
    Memory(#[source] DiskError),
}

fn build(params: &Params<'_>, context: &Context<'_>) -> Result<Stack, BuildError> {
    params.choice("allocator", &["sparse"], &[()])?;
    let variable = |name: &str| {
        let given = params.free().filter(|(known, _)| *known == name).last();
        given.map(|(_, text)| text.to_owned()).or_else(|| std::env::var(name).ok())
    };
    let content = match ["data", "base64", "raw"].map(|key| params.value(key)) {
        [Some(text), None, None] => parse::parse(text, &variable)
            .map_err(|error| params.wrong("data", &excerpt(text), "data", error))?,
        [None, Some(text), None] => {
            let config = GeneralPurposeConfig::new()
                .with_decode_padding_mode(DecodePaddingMode::RequireCanonical);
            // As in nbdkit, the text may have line breaks.
            let text: String = text.split_ascii_whitespace().collect();
            let bytes = GeneralPurpose::new(&STANDARD, config).decode(&text);
            let wrong = |error| params.wrong("base64", &excerpt(&text), "base64", error);
            Content::bytes(bytes.map_err(wrong)?)
        }
        [None, None, Some(text)] => Content::bytes(text.as_bytes()),
        _ => return Err(own(DataDiskError::Not1)),
    };
    if params.value("data").is_none() && params.free().next().is_some() {
        let names: Vec<_> = params.free().map(|(name, _)| name).collect();
        return Err(own(DataDiskError::Unused(names.join(", "))));
    }
    let size = params.size("size")?.unwrap_or(content.len());
    let disk = MemoryDisk::within(size, Arc::clone(&context.memory));
    fill(&disk, &content, size).map_err(own)?;
    Ok(single(disk))
}

fn own(error: DataDiskError) -> BuildError {
    BuildError::Own(Box::new(error))
}

/// The beginning of a text, for an error.
fn excerpt(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

fn fill(disk: &MemoryDisk, content: &Content, size: u64) -> Result<(), DataDiskError> {
    if content.weight().min(size) > MOST {
        return Err(DataDiskError::TooMuch);
    }
    let mut pending: (u64, Vec<u8>) = (0, Vec::new());
    let flush = |pending: &mut (u64, Vec<u8>)| {
        let at = pending.0;
        let bytes = std::mem::take(&mut pending.1);
        if bytes.is_empty() {
            return Ok(());
        }
        run(disk, &mut Op::Write { at, data: Data::Bytes(&bytes), fua: false })
    };
    content.write((0, size), 0, false, &mut |at, stretch| match stretch {
        Stretch::Bytes(mut bytes) => {
            let mut at = at;
            while !bytes.is_empty() {
                let joins = pending.0 + pending.1.len() as u64 == at;
                if !joins || pending.1.len() >= PIECE {
                    flush(&mut pending)?;
                    pending.0 = at;
                }
                let (here, rest) = bytes.split_at(bytes.len().min(PIECE));
                pending.1.extend_from_slice(here);
                at += here.len() as u64;
                bytes = rest;
            }
            Ok(())
        }
        Stretch::Zeroes(len) => {
            flush(&mut pending)?;
            run(disk, &mut Op::Zero { at, len, fua: false, may_trim: true, fast: false })
        }
    })?;
    flush(&mut pending)
}

fn run(disk: &MemoryDisk, op: &mut Op<'_>) -> Result<(), DataDiskError> {
    execute_all(disk, op, &mut Answer::default()).map_err(DataDiskError::Memory)
}
