//! Checks every interleaving of a connection and its replacement with loom: `cargo test -p agent --features loom --lib
//! interleavings`.

use super::*;
use loom::thread;

const fn of(generation: u64) -> FencingToken {
    FencingToken { token: 7, generation }
}

/// Either the old connection begins, and the new one waits for its end, or it does not begin at all.
#[test]
fn an_old_connection_that_begins_is_waited_for() {
    loom::model(|| {
        let clients = Arc::new(Fencing::default());
        let old = clients.enter(of(1)).unwrap();
        let (begins, after) = (Arc::clone(&old), Arc::clone(&clients));
        let beginning = thread::spawn(move || begins.begin());
        let new = after.enter(of(2)).unwrap();
        let waits = after.before(of(2)).is_some();
        assert_eq!(beginning.join().unwrap(), waits);
        drop(old);
        assert!(after.before(of(2)).is_none());
        assert!(new.begin());
    });
}

#[test]
fn of_two_new_connections_the_later_generation_is_let_in() {
    loom::model(|| {
        let clients = Arc::new(Fencing::default());
        let old = clients.enter(of(1)).unwrap();
        assert!(old.begin());
        let other = Arc::clone(&clients);
        let second = thread::spawn(move || other.enter(of(2)));
        let third = clients.enter(of(3)).unwrap();
        if let Some(second) = second.join().unwrap() {
            assert!(!second.begin());
        }
        assert!(clients.before(of(3)).is_some(), "the first one has not ended");
        drop(old);
        assert!(clients.before(of(3)).is_none() && third.begin());
    });
}
