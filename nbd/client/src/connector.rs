//! Opens connections by URI on the calling thread, and waits for them by poll(2).

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

/// How this program connects to servers. A clone is the same.
#[derive(Debug, Clone)]
pub struct Connector {
    timeout: Timeout,
    provider: Arc<CryptoProvider>,
}

impl Connector {
    /// Connections by which a server may owe an answer for `timeout`, with the cryptography of `ring`.
    #[cfg(feature = "ring")]
    pub fn new(timeout: Timeout) -> Self {
        Self::with_provider(timeout, crate::tls::ring())
    }

    /// As `new`, with another cryptography.
    pub const fn with_provider(timeout: Timeout, provider: Arc<CryptoProvider>) -> Self {
        Self { timeout, provider }
    }

    /// How long a server may owe an answer.
    pub const fn timeout(&self) -> Timeout {
        self.timeout
    }

    /// Connects a blocking socket and says nothing on it, not even TLS.
    ///
    /// # Errors
    /// All of `DialError` but `DialError::Tls`.
    pub fn dial(&self, uri: &Uri) -> Result<File, DialError> {
        let name = uri.to_string();
        let socket = block_on(dial(&uri.place, &name, self.timeout, &Block))?;
        socket.into_blocking().map_err(|source| DialError::SetUp { name, source })
    }

    /// Connects, negotiates as much as the server has, and enters the export of `uri`, with the
    /// extents of `base:allocation` if the server has them.
    ///
    /// # Errors
    /// All of `ClientError` but those of requests.
    pub fn open(&self, uri: &Uri) -> Result<Client, ClientError> {
        self.open_with(uri, BASE_ALLOCATION)
    }

    /// As `open`; extents are those of another metadata context, if the server has it.
    ///
    /// # Errors
    /// As `open`.
    pub fn open_with(&self, uri: &Uri, context: &str) -> Result<Client, ClientError> {
        let (talk, ready) = self.begin(uri, Framing::Extended)?;
        let connected = block_on(talk.enter(ready, &uri.export, Some(context)))?;
        Client::over(uri.to_string(), connected, self.timeout)
    }

    /// As `open`, for an export that was open before with `size` bytes: another size is another disk.
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

    /// Asks which metadata contexts the queries find, and enters the export without any. The names
    /// are `None` where contexts cannot be asked for.
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

    /// Connects and enters the export as the kernel's own client needs it: compact requests, simple
    /// replies.
    ///
    /// # Errors
    /// As `open`.
    pub fn open_for_kernel(&self, uri: &Uri) -> Result<Connected, ClientError> {
        let (talk, ready) = self.begin(uri, Framing::Simple)?;
        block_on(talk.enter(ready, &uri.export, None))
    }

    /// Asks for everything about the export of `uri`, and leaves.
    ///
    /// # Errors
    /// As `open`.
    pub fn describe(&self, uri: &Uri) -> Result<Server, ClientError> {
        let (talk, ready) = self.begin(uri, Framing::Extended)?;
        block_on(talk.describe(ready, &uri.export))
    }

    /// Asks for the exports that the server of `uri` names and for what it says of each, and leaves.
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
        // What is missing for TLS is missed before anybody is connected to.
        let tls = uri.tls.then(|| Config::load(&Options::of_uri(uri), &self.provider));
        let tls = tls.transpose().map_err(wrong)?;
        let security = tls.as_ref().map_or(Security::Plain, Security::Required);
        block_on(async {
            let socket = dial(&uri.place, &name, self.timeout, &Block).await?;
            Negotiation::begin(&name, socket, security, framing, (self.timeout, Block)).await
        })
    }
}
