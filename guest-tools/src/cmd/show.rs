//! How `info` and `list` print a server and its exports: nbdinfo's words and order for people, its
//! keys for programs. Unlike nbdinfo it does not read the disk, so there is no `content`.

use human::exact_size;
use nbd::{
    Framing, Uri,
    negotiate::Described,
    wire::{TransmissionFlags, printable},
};
use nbd_client::{connect::Known, connect::Server};
use serde_json::{Map, Value, json};

use super::print::quoted;

/// nbdinfo's keys, in its order.
const FLAGS: [(&str, TransmissionFlags); 11] = [
    ("is_rotational", TransmissionFlags::ROTATIONAL),
    ("is_read_only", TransmissionFlags::READ_ONLY),
    ("can_block_status_payload", TransmissionFlags::BLOCK_STATUS_PAYLOAD),
    ("can_cache", TransmissionFlags::SEND_CACHE),
    ("can_df", TransmissionFlags::SEND_DF),
    ("can_fast_zero", TransmissionFlags::SEND_FAST_ZERO),
    ("can_flush", TransmissionFlags::SEND_FLUSH),
    ("can_fua", TransmissionFlags::SEND_FUA),
    ("can_multi_conn", TransmissionFlags::CAN_MULTI_CONN),
    ("can_trim", TransmissionFlags::SEND_TRIM),
    ("can_zero", TransmissionFlags::SEND_WRITE_ZEROES),
];

/// The text for people.
pub(super) fn text(server: &Server, uri: &Uri) -> String {
    let packets = match server.framing {
        Framing::Simple => "simple",
        Framing::Structured => "structured",
        Framing::Extended => "extended",
    };
    let with = if server.tls { "with" } else { "without" };
    let protocol = protocol(server);
    let mut lines = vec![format!("protocol: {protocol} {with} TLS, using {packets} packets\n")];
    for export in &server.exports {
        let Ok(described) = &export.described else {
            lines.push(format!("export={}:\n", quoted(&export.name)));
            lines.push(line("error", &refusal(export)));
            continue;
        };
        let Described { size, flags, blocks, blocks_told, .. } = described;
        lines.push(format!("export={}:\n", quoted(name(export, described))));
        let description = description(export);
        if !description.is_empty() {
            lines.push(line("description", &printable(description.as_bytes())));
        }
        let human = exact_size(*size).map(|size| format!(" ({size})")).unwrap_or_default();
        lines.push(line("export-size", &format!("{size}{human}")));
        lines.push(line("uri", &uri_of(uri, export).to_string()));
        if let Some(contexts) = &export.contexts {
            lines.push("\tcontexts:\n".to_owned());
            for context in contexts {
                lines.push(format!("\t\t{}\n", printable(context.as_bytes())));
            }
        }
        for (key, flag) in FLAGS {
            lines.push(line(key, &flags.contains(flag).to_string()));
        }
        if *blocks_told {
            lines.push(line("block_size_minimum", &blocks.minimum.to_string()));
            lines.push(line("block_size_preferred", &blocks.preferred.to_string()));
            lines.push(line("block_size_maximum", &blocks.maximum.to_string()));
        }
    }
    lines.concat()
}

/// The JSON for programs.
pub(super) fn json(server: &Server, uri: &Uri) -> Value {
    let exports = server.exports.iter().map(|export| export_json(export, uri));
    json!({
        "protocol": protocol(server),
        "TLS": server.tls,
        "structured": server.framing >= Framing::Structured,
        "extended": server.framing == Framing::Extended,
        "exports": exports.collect::<Vec<_>>(),
    })
}

fn export_json(export: &Known, uri: &Uri) -> Value {
    let mut told = Map::new();
    let mut put = |key: &str, value: Value| told.insert(key.to_owned(), value);
    put("uri", uri_of(uri, export).to_string().into());
    let Ok(described) = &export.described else {
        put("export-name", export.name.as_str().into());
        put("error", refusal(export).into());
        return told.into();
    };
    let Described { size, flags, blocks, blocks_told, .. } = described;
    put("export-name", name(export, described).into());
    let description = description(export);
    if !description.is_empty() {
        put("description", description.into());
    }
    put("export-size", (*size).into());
    put("export-size-str", exact_size(*size).unwrap_or_else(|| size.to_string()).into());
    if let Some(contexts) = &export.contexts {
        put("contexts", contexts.as_slice().into());
    }
    for (key, flag) in FLAGS {
        put(key, flags.contains(flag).into());
    }
    if *blocks_told {
        put("block_size_minimum", blocks.minimum.into());
        put("block_size_preferred", blocks.preferred.into());
        put("block_size_maximum", blocks.maximum.into());
    }
    told.into()
}

const fn protocol(server: &Server) -> &'static str {
    if server.fixed { "newstyle-fixed" } else { "newstyle" }
}

/// The server's own name for the export, if it has reported one.
fn name<'a>(export: &'a Known, described: &'a Described) -> &'a str {
    described.name.as_deref().unwrap_or(&export.name)
}

fn description(export: &Known) -> &str {
    if !export.description.is_empty() {
        return &export.description;
    }
    export.described.as_ref().ok().and_then(|told| told.description.as_deref()).unwrap_or_default()
}

fn refusal(export: &Known) -> String {
    export.described.as_ref().err().map(ToString::to_string).unwrap_or_default()
}

fn uri_of(uri: &Uri, export: &Known) -> Uri {
    Uri { export: export.name.clone(), ..uri.clone() }
}

fn line(key: &str, value: &str) -> String {
    format!("\t{key}: {value}\n")
}
