//! `info`: what an export is and what it can do.

use std::io::{self, Write};

use nbd::{Framing, negotiate::Described, wire::TransmissionFlags};
use serde_json::json;

use super::CommandError;
use crate::{cli, link::Link, size::print_size};

/// The flags that people ask for, by name.
const ABILITIES: [(TransmissionFlags, &str); 8] = [
    (TransmissionFlags::SEND_FLUSH, "flush"),
    (TransmissionFlags::SEND_FUA, "fua"),
    (TransmissionFlags::SEND_TRIM, "trim"),
    (TransmissionFlags::SEND_WRITE_ZEROES, "zero"),
    (TransmissionFlags::SEND_FAST_ZERO, "fast-zero"),
    (TransmissionFlags::SEND_CACHE, "cache"),
    (TransmissionFlags::SEND_DF, "df"),
    (TransmissionFlags::CAN_MULTI_CONN, "multi-conn"),
];

pub(crate) fn run(words: &cli::Info) -> Result<(), CommandError> {
    let uri = &words.target.uri;
    let link = Link::open(uri)?;
    let terms = link.terms();
    let framing = match terms.framing {
        Framing::Simple => "simple",
        Framing::Structured => "structured",
        Framing::Extended => "extended",
    };
    let contexts: &[&str] =
        if terms.allocation.is_some() { &[nbd::wire::BASE_ALLOCATION] } else { &[] };
    let Described { size, flags, blocks, blocks_told, name, description } = link.described();
    let can: Vec<&str> =
        ABILITIES.iter().filter(|(flag, _)| flags.contains(*flag)).map(|(_, name)| *name).collect();
    let read_only = flags.contains(TransmissionFlags::READ_ONLY);
    let text = if words.json {
        let told = json!({
            "uri": uri.to_string(),
            "export": uri.export,
            "name": name,
            "description": description,
            "size": size,
            "read-only": read_only,
            "rotational": flags.contains(TransmissionFlags::ROTATIONAL),
            "can": can,
            "block-sizes": {
                "minimum": blocks.minimum,
                "preferred": blocks.preferred,
                "maximum": blocks.maximum,
                "told": blocks_told,
            },
            "framing": framing,
            "contexts": contexts,
        });
        format!("{told:#}\n")
    } else {
        let mut lines = vec![
            format!("uri: {uri}"),
            format!("export: {:?}", name.as_deref().unwrap_or(&uri.export)),
        ];
        if let Some(text) = description {
            lines.push(format!("description: {text:?}"));
        }
        lines.extend([
            format!("size: {}", print_size(*size)),
            format!("access: {}", if read_only { "read-only" } else { "read and write" }),
            format!("can: {}", list(&can)),
            format!(
                "block sizes: minimum {}, preferred {}, maximum {}{}",
                blocks.minimum,
                blocks.preferred,
                blocks.maximum,
                if *blocks_told { "" } else { " (assumed)" }
            ),
            format!("replies: {framing}"),
            format!("contexts: {}", list(contexts)),
        ]);
        lines.join("\n") + "\n"
    };
    link.close();
    io::stdout().write_all(text.as_bytes()).map_err(CommandError::Print)
}

fn list(words: &[&str]) -> String {
    if words.is_empty() { "none".to_owned() } else { words.join(" ") }
}
