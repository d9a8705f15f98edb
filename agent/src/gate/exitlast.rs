//! Ends the agent when its last client leaves: nbdkit-exitlast-filter(1).

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use super::Entry;
use crate::{
    access::{Caller, Denied, Gate, Pass},
    lifecycle::Stop,
};

pub(super) const ENTRY: Entry = Entry {
    name: "exitlast",
    about: "End when the last client leaves",
    keys: &[],
    build: |_, stack, context| {
        let clients = Arc::new(Clients {
            connected: AtomicUsize::new(0),
            opened: AtomicBool::new(false),
            stop: context.lifecycle.stop(),
        });
        let opened = Arc::clone(&clients);
        let stack = stack.each(move |below, _| {
            opened.opened.store(true, Ordering::Release);
            Ok(below)
        });
        Ok(stack.with_last_gate(Arc::new(Counting(clients))))
    },
};

/// Counts connections, not opened exports, because a client may open several exports in turn. A connection that opens
/// no export, such as a probe of the port, does not end the agent.
#[derive(Debug)]
struct Clients {
    connected: AtomicUsize,
    /// A client has opened an export.
    opened: AtomicBool,
    stop: Stop,
}

#[derive(Debug)]
struct Counting(Arc<Clients>);

impl Gate for Counting {
    fn admit(&self, _: &Caller<'_>) -> Result<Pass, Denied> {
        self.0.connected.fetch_add(1, Ordering::AcqRel);
        Ok(Pass::holding(Client(Arc::clone(&self.0))))
    }
}

struct Client(Arc<Clients>);

impl Drop for Client {
    fn drop(&mut self) {
        let last = self.0.connected.fetch_sub(1, Ordering::AcqRel) == 1;
        if last && self.0.opened.load(Ordering::Acquire) {
            self.0.stop.now("the last client has left (filter exitlast)");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        exports::Permit,
        exports::Single,
        lifecycle::Lifecycle,
        params::Params,
        peer::Peer,
        stack::{Context, Stack},
    };
    use disk::MemoryDisk;

    #[tokio::test]
    async fn the_last_of_overlapping_clients_ends_the_agent_and_a_probe_does_not() {
        let mut lifecycle = Lifecycle::default();
        let stop = lifecycle.stop();
        let params = Params::of_filter("exitlast", ENTRY.keys, &mut Vec::new()).unwrap();
        let stack = Stack::new(Single(Arc::new(MemoryDisk::new(512))));
        let context = &mut Context {
            read_only: false,
            changes_user: false,
            lifecycle: &mut lifecycle,
            memory: Context::unlimited(),
        };
        let stack = (ENTRY.build)(&params, stack, context).unwrap();
        let connect = || {
            let peer = Peer::Pipe;
            stack.gates[0].admit(&Caller::new(&peer, &|| None)).unwrap()
        };
        let asked = || {
            let asked = std::pin::pin!(stop.asked());
            let waker = std::task::Waker::noop();
            asked.poll(&mut std::task::Context::from_waker(waker)).is_ready()
        };
        drop(connect());
        assert!(!asked(), "it opened nothing");
        let first = connect();
        drop(stack.exports.open("", &Permit::any()).await.unwrap());
        drop(stack.exports.open("", &Permit::any()).await.unwrap());
        assert!(!asked(), "it may open another");
        let second = connect();
        drop(first);
        assert!(!asked());
        drop(second);
        assert!(asked());
    }
}
