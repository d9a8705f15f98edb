//! Which meta contexts a client selected, and for which export ("Metadata querying").

use crate::wire::BASE_ALLOCATION;

/// The id under which `base:allocation` goes. Any number would do; not 0, which lists use.
pub(super) const ALLOCATION_ID: u32 = 1;

/// The selection of the last SET_META_CONTEXT: the name of the export it was for, if that
/// selected `base:allocation`.
#[derive(Debug, Default)]
pub(super) struct Selection(Option<String>);

impl Selection {
    /// Each SET_META_CONTEXT replaces what was set, a failed one too.
    pub(super) fn clear(&mut self) {
        self.0 = None;
    }

    pub(super) fn set(&mut self, export: String) {
        self.0 = Some(export);
    }

    /// The id for a transmission of `export`. Void for every other export than it was set for.
    pub(super) fn id_for(&self, export: &str) -> Option<u32> {
        (self.0.as_deref() == Some(export)).then_some(ALLOCATION_ID)
    }
}

/// Whether the queries of a LIST_META_CONTEXT find `base:allocation`: none at all find all, and
/// `base:` finds all of `base`. Unknown namespaces and leaves find nothing and are no error.
pub(super) fn lists_allocation(queries: &[&str]) -> bool {
    queries.is_empty() || queries.iter().any(|&query| query == "base:" || query == BASE_ALLOCATION)
}

/// Whether the queries of a SET_META_CONTEXT select `base:allocation`: only by its full name.
pub(super) fn selects_allocation(queries: &[&str]) -> bool {
    queries.contains(&BASE_ALLOCATION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
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
            assert_eq!(lists_allocation(queries), lists, "{queries:?}");
            assert_eq!(selects_allocation(queries), selects, "{queries:?}");
        }
    }

    #[test]
    fn a_selection_is_void_for_another_export() {
        let mut selection = Selection::default();
        assert_eq!(selection.id_for(""), None);
        selection.set("a".to_owned());
        assert_eq!(selection.id_for("a"), Some(ALLOCATION_ID));
        assert_eq!(selection.id_for(""), None);
        selection.clear();
        assert_eq!(selection.id_for("a"), None);
    }
}
