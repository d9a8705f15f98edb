//! Connections that stand in place of this client's older ones, by the contexts of the agent's own
//! (`x-agent:`). A server that does not know them answers nothing, and is used all the same.

use nbd::Uri;
use nbd_client::{Client, ClientError, Connector};

use crate::agent_contexts::{FencingToken, IDENTITY, INSTANCE, answer_to};

/// What a server says to a client that may have to come back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// Which disk the export is, where the server knows that.
    pub(super) identity: Option<String>,
    /// Which run of the server it is, where it says that.
    pub(super) instance: Option<String>,
    /// The connection stands in place of the client's older ones, which are over.
    pub(super) follows: bool,
}

/// Connects and enters the export in place of the connections that this client had before.
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
