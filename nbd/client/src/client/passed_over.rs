//! A request that is not answered while later ones are. The bytes of the others are no sign of life for it.

use std::{collections::VecDeque, time::Instant};

/// The oldest request in flight, if later ones have been answered.
#[derive(Debug, Default)]
pub(super) struct PassedOver {
    /// Cookies in the order in which they were submitted. Some of the requests may have been answered.
    order: VecDeque<u64>,
    oldest: Option<(u64, Instant)>,
}

impl PassedOver {
    pub(super) fn submitted(&mut self, cookie: u64) {
        self.order.push_back(cookie);
    }

    /// Called after a request was answered. Cookies increase.
    pub(super) fn answered(&mut self, cookie: u64, in_flight: impl Fn(&u64) -> bool) {
        while self.order.front().is_some_and(|oldest| !in_flight(oldest)) {
            self.order.pop_front();
        }
        let oldest = self.order.front().copied();
        if self.oldest.is_none_or(|(before, _)| Some(before) != oldest) {
            let passed = oldest.filter(|oldest| *oldest < cookie);
            self.oldest = passed.map(|oldest| (oldest, Instant::now()));
        }
    }

    /// Since when later requests have been answered.
    pub(super) fn since(&self) -> Option<Instant> {
        self.oldest.map(|(_, since)| since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_request_counts_from_the_first_answer_to_a_later_one() {
        let mut requests = PassedOver::default();
        let mut in_flight = vec![1, 2, 3, 4];
        for cookie in 1..=4 {
            requests.submitted(cookie);
        }
        let mut answer = |cookie| {
            in_flight.retain(|one| *one != cookie);
            requests.answered(cookie, |one| in_flight.contains(one));
            requests.since()
        };
        assert_eq!(answer(1), None, "they are answered in order");
        let since = answer(3).expect("2 is passed over");
        assert_eq!(answer(4), Some(since));
        assert_eq!(answer(2), None);
    }
}
