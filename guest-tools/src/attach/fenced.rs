//! Connections that replace this client's older ones. They use metadata contexts of the agent's own
//! (`x-agent:`). A server that does not know these contexts answers nothing, and is used
//! nevertheless.

use agent_contexts::{FencingToken, IDENTITY, INSTANCE, answer_to};
use nbd::Uri;
use nbd_client::{Client, ClientError, Connector};

/// What a server reports to a client that may reconnect.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// Identifies the export's disk, if the server reports it.
    pub(super) identity: Option<String>,
    /// Identifies the run of the server, if the server reports it.
    pub(super) instance: Option<String>,
    /// Whether the connection has replaced the client's older ones, which have ended.
    pub(super) follows: bool,
}

/// Connects and enters the export, and so replaces the connections that this client had before.
pub(super) fn open_fenced(
    connector: &Connector,
    uri: &Uri,
    fencing: FencingToken,
) -> Result<(Client, Standing), ClientError> {
    let fencing = fencing.to_string();
    let (client, names) = connector.open_asking(uri, &[IDENTITY, INSTANCE, &fencing])?;
    let names = names.unwrap_or_default();
    let said = |query| names.iter().find_map(|name| answer_to(query, name)).map(str::to_owned);
    let (identity, instance) = (said(IDENTITY), said(INSTANCE));
    let follows = names.contains(&fencing);
    Ok((client, Standing { identity, instance, follows }))
}
