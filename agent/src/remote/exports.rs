//! Gives each client a link: one of its own, or a shared one.

use std::{
    collections::HashMap,
    io,
    panic::resume_unwind,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use human::chain;
use nbd_client::connect::Connected;
use tokio::{runtime::Builder, sync::Mutex as Turns};

use super::{
    certificates::Tls, connect, dirty::Dirty, endpoint::Endpoint, link::Link, runtime::runtime,
    share::Share,
};
use crate::{
    exports::{Exports, Listed, Listing, OpenError, Opened, Permit},
    tenant::Tenant,
};

/// The exports of a remote server.
#[derive(Debug)]
pub(crate) struct Remote {
    far: Arc<Endpoint>,
    tls: Tls,
    /// The export that is served under every name. `None`: the client's name selects it.
    export: Option<String>,
    /// Number of attempts to connect after the first.
    retry: u32,
    /// The one link for all clients. The first client that finds it broken makes a new one, and the others wait.
    shared: Option<Turns<Option<Arc<Link>>>>,
    /// State by export name, for exports with links.
    dirty: Mutex<HashMap<String, Arc<Dirty>>>,
}

impl Remote {
    /// With `shared` it connects now, otherwise when a client connects.
    pub(crate) fn new(
        (far, tls): (Arc<Endpoint>, Tls),
        export: Option<String>,
        retry: u32,
        shared: bool,
    ) -> Result<Self, io::Error> {
        // If the thread cannot be started, the agent's start fails instead of a client's request.
        runtime()?;
        let shared = shared.then(Turns::default);
        let mut remote = Self { far, tls, export, retry, shared, dirty: Mutex::default() };
        if remote.shared.is_some() {
            let name = remote.export.clone().unwrap_or_default();
            let link = at_start(remote.link(&name, None))?;
            remote.shared = Some(Turns::new(Some(link)));
        }
        Ok(remote)
    }

    async fn link(&self, export: &str, tenant: Option<&Arc<Tenant>>) -> io::Result<Arc<Link>> {
        let connected: Connected = match self.enter(export, tenant).await {
            Ok(connected) => connected,
            Err(error) => match self.far.ended().await {
                Some(why) => {
                    let why = format!("cannot use {}: {why}", self.far);
                    return Err(io::Error::new(error.kind(), why));
                }
                None => return Err(error),
            },
        };
        let (far, shared) = (self.far.to_string(), self.shared.is_some());
        self.dirty(export).enter(|account| Link::new(connected, far, shared, account))
    }

    async fn enter(&self, export: &str, tenant: Option<&Arc<Tenant>>) -> io::Result<Connected> {
        let socket = self.far.connect(self.retry, tenant).await.map_err(told)?;
        let far = self.far.to_string();
        connect::enter((&far, &self.tls), socket, export).await.map_err(told)
    }

    async fn names(&self, tenant: &Arc<Tenant>) -> io::Result<Vec<Listed>> {
        if self.export.is_some() {
            return Ok(vec![Listed { name: String::new(), description: None }]);
        }
        let socket = self.far.connect(self.retry, Some(tenant)).await.map_err(told)?;
        let far = self.far.to_string();
        let listed = connect::list((&far, &self.tls), socket).await.map_err(told)?;
        let description = |text: String| Some(text).filter(|text| !text.is_empty());
        Ok(listed
            .into_iter()
            .map(|one| Listed { name: one.name, description: description(one.description) })
            .collect())
    }

    async fn share(&self, name: &str, tenant: &Arc<Tenant>) -> io::Result<Share> {
        let name = self.export.as_deref().unwrap_or(name);
        let Some(shared) = &self.shared else {
            return Ok(Share::on(self.link(name, Some(tenant)).await?));
        };
        let mut shared = shared.lock().await;
        match &*shared {
            Some(link) if !link.is_broken() => Ok(Share::on(Arc::clone(link))),
            // Clients of the broken link keep it, and get its errors.
            _ => {
                let link = self.link(name, Some(tenant)).await?;
                *shared = Some(Arc::clone(&link));
                Ok(Share::on(link))
            }
        }
    }

    fn dirty(&self, export: &str) -> Arc<Dirty> {
        let mut dirty = self.dirty.lock().unwrap_or_else(PoisonError::into_inner);
        // Links hold a reference to theirs.
        let is_needed = |dirty: &Arc<Dirty>| Arc::strong_count(dirty) > 1 || dirty.is_untold();
        dirty.retain(|name, dirty| name == export || is_needed(dirty));
        Arc::clone(dirty.entry(export.to_owned()).or_default())
    }
}

/// An error with its causes.
fn told(error: impl std::error::Error + 'static) -> io::Error {
    io::Error::other(chain(&error).to_string())
}

/// Waits for a future while the agent starts. It runs on a runtime of its own, because the agent's runtime is busy with
/// the start.
fn at_start<T: Send>(work: impl Future<Output = io::Result<T>> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
            runtime.block_on(work)
        });
        waiting.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

impl Exports for Remote {
    fn list<'a>(&'a self, permit: &'a Permit) -> Listing<'a> {
        Box::pin(self.names(permit.tenant()))
    }

    fn open<'a>(&'a self, name: &'a str, permit: &'a Permit) -> Opened<'a> {
        Box::pin(async move {
            let share = self.share(name, permit.tenant()).await;
            let share = share.map_err(|error| OpenError::because(&error))?;
            Ok(Arc::new(share) as _)
        })
    }

    fn canonical<'a>(&'a self, name: &'a str) -> &'a str {
        self.export.as_deref().unwrap_or(name)
    }
}
