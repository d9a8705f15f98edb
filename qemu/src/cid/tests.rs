//! Ranges, random choices, and the kernel's answers to a claim.

use vsock_cid::{Cid, GuestCid};

use super::*;

#[test]
fn a_range_is_auto_or_one_number_or_two() {
    assert_eq!("auto".parse::<Range>().unwrap(), Range::default());
    assert_eq!("7".parse::<Range>().unwrap().to_string(), "7");
    assert_eq!("3-4294967294".parse::<Range>().unwrap().to_string(), "3-4294967294");
    for (text, part) in [
        ("", "is no CID"),
        ("7-", "is no CID"),
        ("2-9", "CID 2 is the host's"),
        ("9-4294967295", "the word for any address"),
        ("9-8", "the range 9-8 is empty"),
    ] {
        let error = text.parse::<Range>().unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

fn taken() -> io::Error {
    io::Error::from_raw_os_error(libc::EADDRINUSE)
}

#[test]
fn the_only_free_cid_of_a_small_range_is_found_from_any_start() {
    let range: Range = "3-12".parse().unwrap();
    for start in (0..20).chain([u64::MAX]) {
        let claim = |cid: GuestCid| if cid.get() == 9 { Ok(()) } else { Err(taken()) };
        let cid = choose(range, Some(Cid::new(5)), || Ok(start), claim).unwrap();
        assert_eq!(cid.get(), 9, "from {start}");
    }
}

#[test]
fn this_machines_own_cid_is_never_claimed() {
    let range: Range = "5-6".parse().unwrap();
    for start in 0..4 {
        let cid = choose(range, Some(Cid::new(5)), || Ok(start), |_| Ok(())).unwrap();
        assert_eq!(cid.get(), 6);
    }
    let own = choose("5".parse().unwrap(), Some(Cid::new(5)), || Ok(0), |_| Ok(())).unwrap_err();
    assert!(matches!(own, ClaimError::Own(_)), "{own}");
}

#[test]
fn a_full_range_a_taken_cid_and_a_refusal_are_different_errors() {
    let mut claims = 0;
    let full = choose(Range::default(), None, random, |_| {
        claims += 1;
        Err(taken())
    });
    assert!(matches!(full, Err(ClaimError::NoneFree(_))), "{full:?}");
    assert_eq!(claims, DRAWS);
    let one = choose("9".parse().unwrap(), None, random, |_| Err(taken())).unwrap_err();
    assert_eq!(one.to_string(), "CID 9 is another machine's");
    let no = || io::Error::from_raw_os_error(libc::ENOTTY);
    let refused = choose(Range::default(), None, random, |_| Err(no())).unwrap_err();
    assert!(matches!(refused, ClaimError::Refused(..)), "{refused}");
}

#[test]
fn draws_are_in_the_range_and_differ() {
    let range: Range = "100000-200000".parse().unwrap();
    let mut drawn = std::collections::BTreeSet::new();
    for _ in 0..50 {
        let cid = choose(range, None, random, |_| Ok(())).unwrap();
        assert!((100_000..=200_000).contains(&cid.get()), "{cid}");
        drawn.insert(cid);
    }
    assert!(drawn.len() > 40, "{drawn:?}");
}

#[test]
fn a_device_that_is_missing_or_another_has_a_hint() {
    let missing = claim_on(Path::new("/nonexistent/vhost-vsock"), Range::default()).unwrap_err();
    assert_eq!(missing.to_string(), "cannot open /nonexistent/vhost-vsock");
    assert!(missing.hint().unwrap().contains("modprobe vhost_vsock"));
    let other = claim_on(Path::new("/dev/null"), Range::default()).unwrap_err();
    assert!(matches!(other, ClaimError::Refused(..)), "{other}");
}
