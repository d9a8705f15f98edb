//! The metadata contexts that the agent offers: `base:allocation`, and facts in its vendor namespace
//! `x-agent:`, which the crate `agent_contexts` explains. LIST_META_CONTEXT answers a fact only to the query that
//! names it in full, so other clients see nothing of them.

use std::sync::LazyLock;

use agent_contexts::{FencingToken, IDENTITY, INSTANCE, answer};
use nbd::{negotiate::Context, wire::BASE_ALLOCATION};

use disk::{DiskInfo, Identity};

/// The identity of this run, the answer to `INSTANCE`.
static THIS_RUN: LazyLock<Identity> = LazyLock::new(Identity::fresh);

/// The contexts that an export of this disk offers to every client.
pub(super) fn offered(info: &DiskInfo) -> Vec<Context> {
    let allocation = info.can_extents.then(|| Context::with_extents(BASE_ALLOCATION));
    let fact = |query: &str, value: Identity| Context::fact(query, answer(query, value));
    let identity = info.identity.map(|identity| fact(IDENTITY, identity));
    let instance = fact(INSTANCE, *THIS_RUN);
    allocation.into_iter().chain(identity).chain([instance]).collect()
}

/// The answer to a client's query: its older connections have ended.
pub(super) fn granted(fencing: FencingToken) -> Context {
    Context::fact(fencing.to_string(), fencing.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_without_extents_or_identity_offers_only_the_run() {
        let plain = DiskInfo::plain(1 << 20, None);
        let bare = DiskInfo { can_extents: false, ..plain.clone() };
        let instance = Context::fact("x-agent:instance", format!("x-agent:instance={}", *THIS_RUN));
        assert_eq!(offered(&bare), std::slice::from_ref(&instance));
        let identity = Identity::fresh();
        let all = DiskInfo { can_extents: true, identity: Some(identity), ..plain };
        let named = Context::fact("x-agent:identity", format!("x-agent:identity={identity}"));
        assert_eq!(offered(&all), [Context::with_extents("base:allocation"), named, instance]);
    }
}
