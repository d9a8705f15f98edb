//! Limits how many connections are open at once, in all and per CID: nbdkit-limit-filter(1).

use std::sync::Arc;

use super::Entry;
use crate::{
    access::{Limit, parse_number},
    params::{Key, ParamError, Params},
};

pub(super) const ENTRY: Entry = Entry {
    name: "limit",
    about: "Limit how many clients are connected at once",
    keys: &[
        Key::once(
            "limit",
            "N",
            "Most clients; 0 is no limit [default: 1, or 0 with limit-per-cid]",
        ),
        Key::once(
            "limit-per-cid",
            "N",
            "Most clients per CID, over vsock; 0 is no limit [default: 0]",
        ),
    ],
    build: |params, stack, _| {
        // Last, as with nbdkit: a client that another gate denies takes no place.
        Ok(stack.with_last_gate(Arc::new(limit(params)?)))
    },
};

fn limit(params: &Params<'_>) -> Result<Limit, ParamError> {
    let number = |key| {
        params.parsed(key, "a number", |text| {
            parse_number(text)
                .and_then(|number| usize::try_from(number).ok())
                .ok_or("write a whole number; 0 is no limit")
        })
    };
    let each = number("limit-per-cid")?;
    let all = number("limit")?.unwrap_or_else(|| usize::from(each.is_none()));
    Ok(Limit::new(all, each.unwrap_or(0), ("limit=", "limit-per-cid=")))
}

#[cfg(test)]
mod tests {
    use vsock_cid::Cid;

    use super::*;
    use crate::{
        access::{Caller, Gate},
        peer::Peer,
    };

    /// How many of ten connections, five from each of two guests, are let in.
    fn let_in(words: &[(&str, &str)]) -> Result<usize, String> {
        let words: Vec<_> =
            words.iter().map(|(key, value)| (Some((*key).into()), (*value).into())).collect();
        let params = Params::of_filter("limit", ENTRY.keys, &mut words.iter().collect()).unwrap();
        let limit = limit(&params).map_err(|error| error.to_string())?;
        let peers =
            (0..10).map(|i| Peer::Vsock { cid: Cid::new(3 + i % 2), port: i, to: Cid::HOST });
        let passes: Vec<_> =
            peers.filter_map(|peer| limit.admit(&Caller::new(&peer, &|| None)).ok()).collect();
        Ok(passes.len())
    }

    #[test]
    fn the_default_is_one_client() {
        for (words, count) in [
            (&[][..], 1),
            (&[("limit", "3")], 3),
            (&[("limit", "0")], 10),
            (&[("limit-per-cid", "2")], 4),
            (&[("limit-per-cid", "0")], 10),
            (&[("limit", "3"), ("limit-per-cid", "2")], 3),
            (&[("limit", "0x7")], 7),
        ] {
            assert_eq!(let_in(words), Ok(count), "{words:?}");
        }
        for wrong in ["", "-1", "many", "1.5", "4294967296"] {
            assert!(let_in(&[("limit", wrong)]).is_err(), "{wrong}");
        }
    }
}
