use proptest::{collection::vec, prelude::*};

use super::*;

fn bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

#[test]
fn headers_of_other_versions_replies_and_long_ones_are_refused() {
    let header = |code: u32, flags: u32, len: u32| {
        let bytes = [code, flags, len].map(u32::to_ne_bytes).concat();
        Header::parse(&bytes.try_into().unwrap())
    };
    let good = header(2, 9, 8).unwrap();
    assert_eq!(good, Header { kind: Kind::SetFeatures, need_reply: true, len: 8 });
    for (code, flags, len) in [(2, 0, 8), (2, 2, 8), (2, 3, 8), (2, 5, 8), (2, 1, 4097)] {
        assert!(matches!(header(code, flags, len), Err(Refused::Header(..))), "{flags} {len}");
    }
    // Messages that rust-vmm and QEMU know and that this device does not offer.
    for code in [0, 6, 7, 17, 20, 21, 31, 32, 36, 37, 38, 42, u32::MAX] {
        assert!(matches!(header(code, 1, 8), Err(Refused::Unknown(_))), "{code}");
    }
}

#[test]
fn messages_of_another_length_are_refused() {
    let pair = bytes(&[1 << 32 | 1]);
    let tables = [1, 0x1000, 0x2000, 0x3000, 0x4000];
    for (kind, body) in [
        (Kind::GetFeatures, vec![]),
        (Kind::SetFeatures, bytes(&[5])),
        (Kind::SetOwner, vec![]),
        (Kind::ResetDevice, vec![]),
        (Kind::SetMemTable, bytes(&tables)),
        (Kind::SetVringNum, pair.clone()),
        (Kind::SetVringAddr, bytes(&[1, 2, 3, 4, 5])),
        (Kind::SetVringBase, pair.clone()),
        (Kind::GetVringBase, pair.clone()),
        (Kind::SetVringKick, bytes(&[1])),
        (Kind::SetVringEnable, pair),
        (Kind::GetConfig, [8_u32, 4, 0, 0].map(u32::to_ne_bytes).concat()),
    ] {
        Request::parse(kind, &body).unwrap();
        let long = [body.as_slice(), &[0]].concat();
        assert!(Request::parse(kind, &long).is_err(), "{kind}");
        if let Some((_, short)) = body.split_last() {
            assert!(Request::parse(kind, short).is_err(), "{kind}");
        }
    }
}

#[test]
fn values_that_a_message_cannot_have_are_refused() {
    for (kind, body) in [
        // No region, more than there may be, fewer than it says.
        (Kind::SetMemTable, bytes(&[0])),
        (Kind::SetMemTable, bytes(&[[33].as_slice(), &[1; 33 * 4]].concat())),
        (Kind::SetMemTable, bytes(&[2, 1, 2, 3, 4])),
        // A log of writes, which is not offered.
        (Kind::SetVringAddr, bytes(&[1 << 32, 2, 3, 4, 5])),
        (Kind::SetVringBase, bytes(&[0x1_0000 << 32])),
        (Kind::SetVringEnable, bytes(&[2 << 32])),
        (Kind::GetConfig, [0_u32, 257, 0].map(u32::to_ne_bytes).concat()),
    ] {
        assert!(Request::parse(kind, &body).is_err(), "{kind}");
    }
}

#[test]
fn replies_are_laid_out_as_the_protocol_has_them() {
    let base = Reply::Base(1, 7).bytes(Kind::GetVringBase);
    assert_eq!(base, [11_u32, 5, 8, 1, 7].map(u32::to_ne_bytes).concat());
    let config = Reply::Config(4, vec![1, 2]).bytes(Kind::GetConfig);
    let head = [24_u32, 5, 14, 4, 2, 0].map(u32::to_ne_bytes).concat();
    assert_eq!(config, [head.as_slice(), &[1, 2]].concat());
}

proptest! {
    #[test]
    fn no_bytes_cause_a_panic(code in 0_u32..40, body in vec(any::<u8>(), 0..300)) {
        if let Some(kind) = Kind::from_wire(code) {
            Request::parse(kind, &body).ok();
        }
    }
}
