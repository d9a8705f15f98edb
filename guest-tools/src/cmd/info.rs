//! `info`: prints the properties and abilities of an export.

use clap::Args;
use nbd_client::{ClientError, Connector};

use super::{
    CommandError,
    print::{print, print_json},
    question::Question,
    show,
};
use crate::target::Target;

const EXAMPLES: &str = "\
Examples:
  guest-tools info                             the default export of this guest's host
  guest-tools info nbd+vsock://2:10810/data --json
  guest-tools info --size nbd+unix:///?socket=/run/nbd.sock
  guest-tools info --can write && echo 'it can be written'

Keys of --json: protocol, TLS, structured, extended, and exports, a list of one: export-name,
description, export-size (bytes), export-size-str, uri, contexts, is_read_only, is_rotational,
can_WHAT, and block_size_minimum, _preferred and _maximum (bytes, if the server told them).
With --size it is a number, with --can and --is true or false.

Exit codes: 0; 2 when the answer to --can or --is is no; 1 when there is none.";

/// What was said.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Info {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Print the size alone, in bytes
    #[arg(long, conflicts_with = "question")]
    size: bool,
    #[command(flatten)]
    asked: Asked,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[group(id = "question", multiple = false)]
struct Asked {
    /// Print nothing; exit with 0 if it can, with 2 if it cannot: connect, read, write, flush, fua,
    /// trim, zero, fast-zero, cache, df, multi-conn, structured-reply, extended-headers
    #[arg(long, value_name = "WHAT")]
    can: Option<Question>,
    /// The same for what it is: read-only, rotational, tls
    #[arg(long, value_name = "WHAT")]
    is: Option<Question>,
    /// The same, as newer nbdinfo has it
    #[arg(long, value_name = "WHAT", hide = true)]
    has: Option<Question>,
}

pub(crate) fn run(words: &Info, connector: &Connector) -> Result<(), CommandError> {
    let uri = &words.target.uri;
    let Asked { can, is, has } = words.asked;
    let server = connector.describe(uri);
    if let Some(question) = can.or(is).or(has) {
        let yes = match server {
            Ok(server) => question.answer(&server),
            Err(ClientError::Dial(_)) if question == Question::Connect => false,
            Err(error) => return Err(error.into()),
        };
        if words.json {
            print_json(&yes.into())?;
        }
        return if yes { Ok(()) } else { Err(CommandError::No) };
    }
    let server = server?;
    if words.size {
        let described = server.exports.first().and_then(|export| export.described.as_ref().ok());
        return print(&format!("{}\n", described.map_or(0, |described| described.size)));
    }
    if words.json {
        return print_json(&show::json(&server, uri));
    }
    print(&show::text(&server, uri))
}
