//! Limits on open connections, in all and per CID.
//!
//! A connection counts from when it is let in until it ends, including its handshake.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use vsock_cid::Cid;

use super::{Caller, Denied, Gate, Pass};
use crate::peer::Peer;

/// A limit that all connections share.
#[derive(Debug)]
pub(crate) struct Limit {
    all: Option<Most>,
    each: Option<Most>,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug)]
struct Most {
    connections: usize,
    /// The limit as the log shows it.
    words: String,
}

/// Open connections.
#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// Only machines with connections.
    each: HashMap<Machine, usize>,
}

/// A machine that has a limit of its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Machine {
    /// The guest of this host with this CID.
    Guest(Cid),
    /// The peer with this CID that is no guest of this host: another host numbers its guests itself.
    Other(Cid),
    /// The VM behind the socket with this path.
    Vm(Arc<Path>),
}

/// One place, given back when dropped.
struct Place {
    of: Option<Machine>,
    taken: Arc<Mutex<Taken>>,
}

impl Limit {
    /// At most `all` connections, and at most `each` from one CID; 0 is no limit. `words` are the names of both limits for
    /// the log.
    pub(crate) fn new(all: usize, each: usize, words: (&str, &str)) -> Self {
        let most = |connections, word: &str| {
            (connections > 0).then(|| Most { connections, words: format!("{word}{connections}") })
        };
        Self { all: most(all, words.0), each: most(each, words.1), taken: Arc::default() }
    }
}

impl Gate for Limit {
    fn admit(&self, caller: &Caller<'_>) -> Result<Pass, Denied> {
        let full = |most: &Option<Most>, open: usize| {
            let most = most.as_ref().filter(|most| open >= most.connections)?;
            Some(Denied::new(format!("{}, and {open} open", most.words)))
        };
        let of = match caller.peer {
            _ if self.each.is_none() => None,
            Peer::Vsock { cid, .. } if caller.peer.is_guest() => Some(Machine::Guest(*cid)),
            Peer::Vsock { cid, .. } => Some(Machine::Other(*cid)),
            Peer::Vm { path, .. } => Some(Machine::Vm(Arc::clone(path))),
            _ => None,
        };
        let mut taken = lock(&self.taken);
        let from_it = of.as_ref().and_then(|of| taken.each.get(of)).copied().unwrap_or(0);
        if let Some(denied) = full(&self.each, from_it).or_else(|| full(&self.all, taken.all)) {
            return Err(denied);
        }
        taken.all += 1;
        if let Some(of) = &of {
            taken.each.insert(of.clone(), from_it + 1);
        }
        Ok(Pass::holding(Place { of, taken: Arc::clone(&self.taken) }))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        taken.all -= 1;
        if let Some(of) = &self.of
            && let Some(count) = taken.each.get_mut(of)
        {
            *count -= 1;
            if *count == 0 {
                taken.each.remove(of);
            }
        }
    }
}

/// Locks the counts. No code panics half-way through a change of them.
fn lock(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admit(limit: &Limit, peer: &Peer) -> Result<Pass, String> {
        limit.admit(&Caller::new(peer, &|| None)).map_err(|denied| denied.rule)
    }

    fn guest(cid: u32) -> Peer {
        Peer::Vsock { cid: Cid::new(cid), port: 1, to: Cid::HOST }
    }

    #[test]
    fn a_place_is_free_again_when_its_pass_is_dropped() {
        let limit = Limit::new(2, 0, ("limit=", "limit-per-cid="));
        let first = admit(&limit, &guest(3)).unwrap();
        let _second = admit(&limit, &Peer::Pipe).unwrap();
        assert_eq!(admit(&limit, &guest(3)).unwrap_err(), "limit=2, and 2 open");
        drop(first);
        let _third = admit(&limit, &guest(4)).unwrap();
        assert!(admit(&limit, &guest(3)).is_err());
    }

    #[test]
    fn each_cid_has_a_limit_of_its_own_and_others_have_none() {
        let limit = Limit::new(0, 1, ("--limit ", "--limit-per-cid "));
        let first = admit(&limit, &guest(3)).unwrap();
        assert_eq!(admit(&limit, &guest(3)).unwrap_err(), "--limit-per-cid 1, and 1 open");
        let second = admit(&limit, &guest(4)).unwrap();
        // Another machine's guest with the same number.
        let third =
            admit(&limit, &Peer::Vsock { cid: Cid::new(3), port: 1, to: Cid::new(5) }).unwrap();
        let unix = Peer::Unix { pid: 1, uid: 0, gid: 0 };
        let others = [admit(&limit, &unix).unwrap(), admit(&limit, &unix).unwrap()];
        drop((first, second, third, others));
        let _again = admit(&limit, &guest(3)).unwrap();
        assert_eq!(lock(&limit.taken).each.len(), 1, "a machine without connections is dropped");
        assert_eq!(lock(&limit.taken).all, 1);
    }

    #[test]
    fn a_connection_that_one_limit_denies_takes_no_place_of_the_other() {
        let limit = Limit::new(2, 1, ("", ""));
        let _first = admit(&limit, &guest(3)).unwrap();
        admit(&limit, &guest(3)).unwrap_err();
        let _second = admit(&limit, &guest(4)).unwrap();
        admit(&limit, &guest(5)).unwrap_err();
        assert!(!lock(&limit.taken).each.contains_key(&Machine::Guest(Cid::new(5))));
    }
}
