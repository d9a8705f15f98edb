//! Opens connections by URI on the calling thread, and waits for them with poll(2).

use std::{fs::File, sync::Arc};

use nbd::{Framing, Uri, negotiate::Ready, wire::BASE_ALLOCATION};
use rustls::crypto::CryptoProvider;

use crate::{
    client::Client,
    connect::{Connected, Negotiation, Security, Server},
    dial::{DialError, dial},
    error::ClientError,
    timeout::Timeout,
    tls::{Config, Options},
    wait::{Block, block_on},
};

/// How this program connects to servers. A clone has the same settings.
#[derive(Debug, Clone)]
pub struct Connector {
    timeout: Timeout,
    provider: Arc<CryptoProvider>,
}

impl Connector {
    /// A connector whose servers may owe an answer for `timeout`, with the cryptography of `ring`.
    #[cfg(feature = "ring")]
    pub fn new(timeout: Timeout) -> Self {
        Self::with_provider(timeout, crate::tls::ring())
    }

    /// Like `new`, with other cryptography.
    pub const fn with_provider(timeout: Timeout, provider: Arc<CryptoProvider>) -> Self {
        Self { timeout, provider }
    }

    /// How long a server may owe an answer.
    pub const fn timeout(&self) -> Timeout {
        self.timeout
    }

    /// Connects a blocking socket and sends nothing on it, not even for TLS.
    ///
    /// # Errors
    /// All of `DialError` except `DialError::Tls`.
    pub fn dial(&self, uri: &Uri) -> Result<File, DialError> {
        let name = uri.to_string();
        let socket = block_on(dial(&uri.place, &name, self.timeout, &Block))?;
        socket.into_blocking().map_err(|source| DialError::SetUp { name, source })
    }

    /// Connects, negotiates as much as the server supports, and enters the export of `uri`, with the
    /// extents of `base:allocation` if the server has them.
    ///
    /// # Errors
    /// All of `ClientError` except those of requests.
    pub fn open(&self, uri: &Uri) -> Result<Client, ClientError> {
        self.open_with(uri, BASE_ALLOCATION)
    }

    /// Like `open`, but extents are those of another metadata context, if the server has it.
    ///
    /// # Errors
    /// As `open`.
    pub fn open_with(&self, uri: &Uri, context: &str) -> Result<Client, ClientError> {
        let (talk, ready) = self.begin(uri, Framing::Extended)?;
        let connected = block_on(talk.enter(ready, &uri.export, Some(context)))?;
        Client::over(uri.to_string(), connected, self.timeout)
    }

    /// Like `open`, for an export that was open before with `size` bytes. An export of another size is
    /// another disk.
    ///
    /// # Errors
    /// As `open`; `ClientError::Changed`.
    pub fn reopen(&self, uri: &Uri, size: u64) -> Result<Client, ClientError> {
        let client = self.open(uri)?;
        let now = client.described().size;
        if now == size {
            return Ok(client);
        }
        client.close();
        Err(ClientError::Changed { name: uri.to_string(), before: size, now })
    }

    /// Asks which metadata contexts match the queries, and enters the export without any. The names
    /// are `None` if the server cannot be asked for contexts.
    ///
    /// # Errors
    /// As `open`.
    pub fn open_asking(
        &self,
        uri: &Uri,
        queries: &[&str],
    ) -> Result<(Client, Option<Vec<String>>), ClientError> {
        let (mut talk, ready) = self.begin(uri, Framing::Extended)?;
        let (ready, names) = block_on(talk.contexts(ready, &uri.export, queries))?;
        let connected = block_on(talk.enter(ready, &uri.export, None))?;
        Ok((Client::over(uri.to_string(), connected, self.timeout)?, names))
    }

    /// Connects and enters the export in the way that the kernel's own client needs: compact requests
    /// and simple replies.
    ///
    /// # Errors
    /// As `open`.
    pub fn open_for_kernel(&self, uri: &Uri) -> Result<Connected, ClientError> {
        let (talk, ready) = self.begin(uri, Framing::Simple)?;
        block_on(talk.enter(ready, &uri.export, None))
    }

    /// Asks for everything about the export of `uri`, and ends the session.
    ///
    /// # Errors
    /// As `open`.
    pub fn describe(&self, uri: &Uri) -> Result<Server, ClientError> {
        let (talk, ready) = self.begin(uri, Framing::Extended)?;
        block_on(talk.describe(ready, &uri.export))
    }

    /// Asks for the exports of the server of `uri` and for its description of each, and ends the
    /// session.
    ///
    /// # Errors
    /// As `open`.
    pub fn list(&self, uri: &Uri) -> Result<Server, ClientError> {
        let (talk, ready) = self.begin(uri, Framing::Extended)?;
        block_on(talk.list_all(ready))
    }

    fn begin(
        &self,
        uri: &Uri,
        framing: Framing,
    ) -> Result<(Negotiation<Block>, Ready), ClientError> {
        let name = uri.to_string();
        let wrong = |source| DialError::Tls { name: name.clone(), source };
        // Reports a problem with the TLS files before it connects.
        let tls = uri.tls.then(|| Config::load(&Options::of_uri(uri), &self.provider));
        let tls = tls.transpose().map_err(wrong)?;
        let security = tls.as_ref().map_or(Security::Plain, Security::Required);
        block_on(async {
            let socket = dial(&uri.place, &name, self.timeout, &Block).await?;
            Negotiation::begin(&name, socket, security, framing, (self.timeout, Block)).await
        })
    }
}
