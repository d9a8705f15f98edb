//! Metadata contexts at the server's end ("Metadata querying"): what an export offers, what a query
//! finds, and what a client has selected.

use crate::{AgreedContext, wire::fit};

/// A metadata context that a server registers for an export ([`Export::contexts`](super::Export)).
///
/// ```
/// use nbd::{negotiate::Context, wire::BASE_ALLOCATION};
///
/// let contexts = vec![
///     Context::with_extents(BASE_ALLOCATION),
///     Context::with_extents("qemu:dirty-bitmap:backup"),
///     Context::fact("x-example:serial", "x-example:serial=12ab"),
/// ];
/// # assert_eq!(contexts.len(), 3);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context(Kind);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Extents { name: String },
    Fact { query: String, answer: String },
}

impl Context {
    /// A context with extents, such as `base:allocation`.
    ///
    /// NBD_OPT_LIST_META_CONTEXT lists it when the client sends no query, its full name, or a prefix
    /// of its name that ends in a colon (`qemu:`, `qemu:dirty-bitmap:`). NBD_OPT_SET_META_CONTEXT
    /// selects it by its full name alone. A selected context is in [`Terms::contexts`](crate::Terms),
    /// and the server has to answer its extents to each NBD_CMD_BLOCK_STATUS.
    ///
    /// A name longer than 4096 bytes or with a NUL in it is never offered.
    pub fn with_extents(name: impl Into<String>) -> Self {
        Self(Kind::Extents { name: name.into() })
    }

    /// A fact about the export. NBD_OPT_LIST_META_CONTEXT answers `answer` to a query that is exactly
    /// `query`, and to no other query. Nobody can select it. It carries what a vendor's own clients
    /// want to know, in the vendor's namespace (`x-VENDOR:`); other clients see nothing of it.
    ///
    /// An answer longer than 4096 bytes is cut, as is one with a NUL in it.
    pub fn fact(query: impl Into<String>, answer: impl Into<String>) -> Self {
        Self(Kind::Fact { query: query.into(), answer: answer.into() })
    }

    /// The name that NBD_OPT_LIST_META_CONTEXT answers to these queries. Unknown namespaces and leaves
    /// find nothing and are no error.
    fn listed(&self, queries: &[&str]) -> Option<&str> {
        match &self.0 {
            Kind::Extents { name } => {
                let finds = |query: &&str| {
                    name == query || (query.ends_with(':') && name.starts_with(query))
                };
                let found = queries.is_empty() || queries.iter().any(finds);
                Some(&**name).filter(|name| found && is_sendable(name))
            }
            Kind::Fact { query, answer } => {
                queries.contains(&&**query).then_some(answer).map(|answer| fit(answer))
            }
        }
    }

    /// The name under which it can be selected.
    fn selectable(&self) -> Option<&str> {
        match &self.0 {
            Kind::Extents { name } => Some(&**name).filter(|name| is_sendable(name)),
            Kind::Fact { .. } => None,
        }
    }
}

fn is_sendable(name: &str) -> bool {
    fit(name).len() == name.len()
}

/// The names that NBD_OPT_LIST_META_CONTEXT answers.
pub(super) fn list<'a>(
    contexts: &'a [Context],
    queries: &'a [&str],
) -> impl Iterator<Item = &'a str> {
    contexts.iter().filter_map(|context| context.listed(queries))
}

/// The contexts that NBD_OPT_SET_META_CONTEXT selects, each once, with ids from 1 on. (Any number is
/// allowed as an id. Lists use 0.)
pub(super) fn select(contexts: &[Context], queries: &[&str]) -> Vec<AgreedContext> {
    let mut agreed: Vec<AgreedContext> = Vec::new();
    let names = contexts.iter().filter_map(Context::selectable);
    for (name, id) in names.filter(|name| queries.contains(name)).zip(1..) {
        if agreed.iter().all(|context| context.name != name) {
            agreed.push(AgreedContext::new(id, name));
        }
    }
    agreed
}

/// What the last NBD_OPT_SET_META_CONTEXT selected, and for which export.
#[derive(Debug, Default)]
pub(super) struct Selection {
    export: String,
    contexts: Vec<AgreedContext>,
}

impl Selection {
    pub(super) const fn new(export: String, contexts: Vec<AgreedContext>) -> Self {
        Self { export, contexts }
    }

    /// Each NBD_OPT_SET_META_CONTEXT replaces the selection, also one that fails.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// What holds in a transmission of `export`: nothing if the selection was for another export, and
    /// no context that the export has ceased to offer since.
    pub(super) fn take_for(self, export: &str, offered: &[Context]) -> Vec<AgreedContext> {
        if self.export != export {
            return Vec::new();
        }
        let is_offered = |agreed: &AgreedContext| {
            offered.iter().any(|context| context.selectable() == Some(&agreed.name))
        };
        self.contexts.into_iter().filter(is_offered).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::BASE_ALLOCATION;

    #[test]
    fn queries_find_full_names_and_prefixes_up_to_a_colon() {
        let offered = [Context::with_extents(BASE_ALLOCATION)];
        for (queries, lists, selects) in [
            (&[][..], true, false),
            (&["base:"], true, false),
            (&["base:allocation"], true, true),
            (&["base:allocation", "base:allocation"], true, true),
            (&["x-unknown:", "base:allocation"], true, true),
            (&["base:alloc"], false, false),
            (&["base:allocation2"], false, false),
            (&["base"], false, false),
            (&["BASE:ALLOCATION"], false, false),
            (&["qemu:allocation-depth"], false, false),
            (&[""], false, false),
        ] {
            assert_eq!(list(&offered, queries).count(), usize::from(lists), "{queries:?}");
            assert_eq!(select(&offered, queries).len(), usize::from(selects), "{queries:?}");
        }
    }

    #[test]
    fn contexts_of_one_namespace_are_found_apart_and_have_ids_of_their_own() {
        let offered = [
            Context::with_extents(BASE_ALLOCATION),
            Context::with_extents("qemu:dirty-bitmap:a"),
            Context::with_extents("qemu:dirty-bitmap:b"),
            Context::with_extents("qemu:allocation-depth"),
            Context::with_extents("qemu:dirty-bitmap:a"),
            Context::with_extents("x".repeat(4097)),
            Context::with_extents("nul\0"),
        ];
        let listed = |queries: &[&str]| list(&offered[..4], queries).count();
        assert_eq!((listed(&[]), listed(&["qemu:"]), listed(&["qemu:dirty-bitmap:"])), (4, 3, 2));
        assert_eq!(list(&offered[5..], &[]).count(), 0, "names that cannot be sent");
        let names = ["qemu:dirty-bitmap:b", "qemu:dirty-bitmap:a", "base:allocation", "nul\0"];
        let agreed = select(&offered, &names);
        let agreed: Vec<_> = agreed.iter().map(|context| (context.id, &*context.name)).collect();
        let due = [(1, "base:allocation"), (2, "qemu:dirty-bitmap:a"), (3, "qemu:dirty-bitmap:b")];
        assert_eq!(agreed, due);
    }

    #[test]
    fn a_fact_is_answered_to_its_own_query_only_and_selected_by_no_query() {
        let offered = [Context::fact("x-test:serial", "x-test:serial=7")];
        for (queries, answers) in [
            (&["x-test:serial"][..], 1),
            (&[], 0),
            (&["x-test:"], 0),
            (&["x-test:serial=7"], 0),
            (&["x-test:serial", "x-test:serial"], 1),
        ] {
            let listed: Vec<_> = list(&offered, queries).collect();
            assert_eq!(listed, vec!["x-test:serial=7"; answers], "{queries:?}");
            assert!(select(&offered, queries).is_empty(), "{queries:?}");
        }
    }

    #[test]
    fn a_selection_holds_for_its_export_and_the_contexts_it_still_offers() {
        let offered = [Context::with_extents("base:allocation"), Context::with_extents("x:y")];
        let selection =
            || Selection::new("a".to_owned(), select(&offered, &["base:allocation", "x:y"]));
        assert_eq!(Selection::default().take_for("", &offered), []);
        assert_eq!(selection().take_for("a", &offered).len(), 2);
        assert_eq!(selection().take_for("", &offered), []);
        let left = selection().take_for("a", &offered[1..]);
        assert_eq!(left, [AgreedContext::new(2, "x:y")]);
        let mut cleared = selection();
        cleared.clear();
        assert_eq!(cleared.take_for("a", &offered), []);
    }
}
