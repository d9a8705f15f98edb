//! Tests the pieces against a model that remembers when each byte was changed last.

use proptest::prelude::*;

use super::*;

const SIZE: u64 = 64;

fn write(at: u64, len: u64, fill: u8) -> Order {
    Order::write(at, vec![fill; usize::try_from(len).unwrap()], false)
}

/// Everything that would be sent again.
fn all(unflushed: &Unflushed, longest: u64) -> Vec<Order> {
    let mut from = 0;
    let mut orders = Vec::new();
    while let Some(order) = unflushed.again(from, longest) {
        from = order.at + order.len;
        orders.push(order);
    }
    orders
}

#[test]
fn a_later_change_takes_the_place_of_an_earlier_one() {
    let mut unflushed = Unflushed::default();
    unflushed.put(write(0, 12, 1));
    unflushed.put(write(4, 4, 2));
    unflushed.put(Order::bare(Verb::Trim { fua: true }, 10, 10));
    let orders = all(&unflushed, 100);
    let seen: Vec<_> = orders.iter().map(|o| (o.at, o.len, o.bytes.first().copied())).collect();
    assert_eq!(seen, [(0, 4, Some(1)), (4, 4, Some(2)), (8, 2, Some(1)), (10, 10, None)]);
    assert_eq!(orders.last().unwrap().verb, Verb::Trim { fua: false });
}

#[test]
fn a_flush_takes_what_was_answered_before_it_was_asked_for() {
    let mut unflushed = Unflushed::default();
    unflushed.put(write(0, 4, 1));
    let mark = unflushed.mark();
    unflushed.put(write(2, 4, 2));
    unflushed.flushed(mark);
    let seen: Vec<_> = all(&unflushed, 3).iter().map(|o| (o.at, o.len)).collect();
    assert_eq!(seen, [(2, 3), (5, 1)]);
    unflushed.flushed(unflushed.mark());
    assert!(unflushed.is_empty());
    assert_eq!(unflushed.held(), 0);
}

#[test]
fn bytes_count_until_their_last_piece_goes() {
    let mut unflushed = Unflushed::default();
    unflushed.put(write(0, 1000, 1));
    unflushed.cut(1, 999);
    assert_eq!(unflushed.held(), 1000 + PIECE);
    unflushed.cut(0, 1);
    assert_eq!(unflushed.held(), 0);
}

#[derive(Debug, Clone)]
enum Step {
    Write(u64, u64),
    Zero(u64, u64),
    Durable(u64, u64),
    Flush,
}

fn step() -> impl Strategy<Value = Step> {
    let range = || (0..SIZE).prop_flat_map(|at| (Just(at), 1..=SIZE - at));
    prop_oneof![
        4 => range().prop_map(|(at, len)| Step::Write(at, len)),
        1 => range().prop_map(|(at, len)| Step::Zero(at, len)),
        1 => range().prop_map(|(at, len)| Step::Durable(at, len)),
        1 => Just(Step::Flush),
    ]
}

proptest! {
    #[test]
    fn a_server_that_lost_everything_since_the_flush_has_it_back(
        steps in proptest::collection::vec(step(), 1..60), longest in 1..20u64,
    ) {
        let mut unflushed = Unflushed::default();
        let (mut now, mut durable) = (vec![0_u8; 64], vec![0_u8; 64]);
        let index = |n: u64| usize::try_from(n).unwrap();
        let whole = |at: u64, len: u64| index(at)..index(at + len);
        for (n, step) in steps.into_iter().enumerate() {
            let fill = u8::try_from(n).unwrap() + 1;
            match step {
                Step::Write(at, len) => {
                    now[whole(at, len)].fill(fill);
                    unflushed.put(write(at, len, fill));
                }
                Step::Zero(at, len) => {
                    now[whole(at, len)].fill(0);
                    unflushed.put(Order::bare(Verb::Zero(CommandFlags::empty()), at, len));
                }
                Step::Durable(at, len) => {
                    now[whole(at, len)].fill(fill);
                    durable[whole(at, len)].fill(fill);
                    unflushed.cut(at, len);
                }
                Step::Flush => {
                    durable.copy_from_slice(&now);
                    unflushed.flushed(unflushed.mark());
                }
            }
            let mut disk = durable.clone();
            let mut end = 0;
            for order in all(&unflushed, longest) {
                prop_assert!(order.at >= end && order.len <= longest);
                end = order.at + order.len;
                match order.verb {
                    Verb::Write { .. } => disk[whole(order.at, order.len)].copy_from_slice(&order.bytes),
                    _ => disk[whole(order.at, order.len)].fill(0),
                }
            }
            prop_assert_eq!(&disk, &now);
        }
        unflushed.flushed(unflushed.mark());
        prop_assert_eq!(unflushed.held(), 0);
    }
}
