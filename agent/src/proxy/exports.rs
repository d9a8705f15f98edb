//! Who gets which link.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    far::{Far, FarError},
    greet::{self, Greeted},
    ledger::Ledger,
    link::Link,
    seat::Seat,
};
use crate::exports::{Exports, Listed, Listing, OpenError, Opened, Permit};
use disk::{Disk, DiskError, Kind, Verb};

/// The exports of a far server.
#[derive(Debug)]
pub struct Proxy(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    far: Arc<Far>,
    /// The one that is served under every name; `None`: the one that the client names.
    export: Option<String>,
    /// Tries to connect after the first.
    retry: u32,
    /// One link for all clients.
    shared: Option<Mutex<Option<Arc<Link>>>>,
    /// By the export's name; those that have links.
    ledgers: Mutex<HashMap<String, Arc<Ledger>>>,
}

impl Proxy {
    /// With `shared` it connects now, and else when a client comes.
    pub fn new(
        far: Arc<Far>,
        export: Option<String>,
        retry: u32,
        shared: bool,
    ) -> Result<Self, io::Error> {
        let proxy = Inner {
            far,
            export,
            retry,
            shared: shared.then(Mutex::default),
            ledgers: Mutex::default(),
        };
        if let Some(shared) = &proxy.shared {
            let name = proxy.export.clone().unwrap_or_default();
            let link = proxy.link(&name)?;
            *shared.lock().unwrap_or_else(PoisonError::into_inner) = Some(link);
        }
        Ok(Self(Arc::new(proxy)))
    }
}

impl Inner {
    fn link(&self, export: &str) -> io::Result<Arc<Link>> {
        let greeted: Greeted = self.enter(export).map_err(|error| match self.far.ended() {
            Some(why) => io::Error::new(error.kind(), format!("cannot use {}: {why}", self.far)),
            None => error,
        })?;
        let (far, shared) = (self.far.to_string(), self.shared.is_some());
        self.ledger(export).enter(|account| Link::new(greeted, far, shared, account))
    }

    fn enter(&self, export: &str) -> io::Result<Greeted> {
        let socket = self.far.connect(self.retry).map_err(of_far)?;
        greet::enter(socket, export).map_err(|error| self.told(error))
    }

    fn ledger(&self, export: &str) -> Arc<Ledger> {
        let mut ledgers = self.ledgers.lock().unwrap_or_else(PoisonError::into_inner);
        // Links hold theirs.
        let is_needed = |ledger: &Arc<Ledger>| Arc::strong_count(ledger) > 1 || ledger.is_untold();
        ledgers.retain(|name, ledger| name == export || is_needed(ledger));
        Arc::clone(ledgers.entry(export.to_owned()).or_default())
    }

    fn told(&self, error: greet::GreetError) -> io::Error {
        let error = io::Error::from(error);
        io::Error::new(error.kind(), format!("{}: {error}", self.far))
    }
}

fn of_far(error: FarError) -> io::Error {
    match error {
        FarError::Connect { source, far } => {
            io::Error::new(source.kind(), format!("cannot connect to {far}: {source}"))
        }
        other => io::Error::other(other.to_string()),
    }
}

impl Inner {
    fn list(&self) -> io::Result<Vec<Listed>> {
        if self.export.is_some() {
            return Ok(vec![Listed { name: String::new(), description: None }]);
        }
        let socket = self.far.connect(self.retry).map_err(of_far)?;
        let listed = greet::list(socket).map_err(|error| self.told(error))?;
        let description = |text: String| Some(text).filter(|text| !text.is_empty());
        Ok(listed
            .into_iter()
            .map(|one| Listed { name: one.name, description: description(one.description) })
            .collect())
    }

    fn open(&self, name: &str) -> Result<Arc<dyn Disk>, OpenError> {
        let failed = |error| {
            let source = Some(error);
            OpenError::Failed(DiskError { source, ..DiskError::new(Kind::Io, Verb::Open, (0, 0)) })
        };
        let name = self.export.as_deref().unwrap_or(name);
        let Some(shared) = &self.shared else {
            return Ok(Arc::new(Seat::on(self.link(name).map_err(failed)?)));
        };
        let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
        match &*shared {
            Some(link) if !link.is_broken() => Ok(Arc::new(Seat::on(Arc::clone(link)))),
            // Those who have the old one keep it, and its errors.
            _ => {
                let link = self.link(name).map_err(failed)?;
                *shared = Some(Arc::clone(&link));
                Ok(Arc::new(Seat::on(link)))
            }
        }
    }
}

impl Exports for Proxy {
    fn list<'a>(&'a self, permit: &'a Permit) -> Listing<'a> {
        let inner = Arc::clone(&self.0);
        Box::pin(async move { permit.blocking(move || inner.list()).await? })
    }

    fn open<'a>(&'a self, name: &'a str, permit: &'a Permit) -> Opened<'a> {
        let (inner, name) = (Arc::clone(&self.0), name.to_owned());
        Box::pin(async move { permit.blocking(move || inner.open(&name)).await? })
    }

    fn canonical<'a>(&'a self, name: &'a str) -> &'a str {
        self.0.export.as_deref().unwrap_or(name)
    }
}
