//! Every interleaving of a few threads, tested with loom: `cargo test -p disk --features loom
//! --lib`.

use std::io;

use loom::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use super::{Member, Registry, Witness};
use crate::{
    Identity,
    auditor::{Audit, Begun},
    inode::Inode,
};

const INODE: Inode = Inode { device: 0, inode: None };

/// A descriptor of a file whose writeback has failed. The first sync gets the error.
#[derive(Debug, Clone)]
struct Failed(Arc<AtomicBool>);

impl Failed {
    fn new() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }
}

impl Witness for Failed {
    fn sync(&self) -> io::Result<()> {
        if self.0.swap(false, Ordering::AcqRel) { Err(io::ErrorKind::Other.into()) } else { Ok(()) }
    }

    fn is_unlinked(&self) -> bool {
        false
    }

    fn begin(&self) -> Begun {
        Begun::default()
    }

    fn audit(&self, _: Begun) -> Audit {
        Audit::Unknown
    }
}

fn open(registry: &Registry<Failed>, witness: &Failed) -> Member<Failed> {
    registry.join(INODE).unwrap_or_else(|| {
        let identity = Identity::of("loom", &[]);
        registry.join_with(INODE, identity, String::new(), witness.clone())
    })
}

#[test]
fn two_flushes_at_the_same_time_both_report_a_loss() {
    loom::model(|| {
        let (registry, witness) = (Registry::new(), Failed::new());
        let [one, other] = [(); 2].map(|()| open(&registry, &witness));
        let flushing = thread::spawn(move || other.flush().is_err());
        assert!(one.flush().is_err());
        assert!(flushing.join().unwrap());
        assert!(open(&registry, &witness).flush().is_ok(), "it has been told");
    });
}

#[test]
fn a_durable_write_that_fails_hides_nothing_from_a_flush_at_the_same_time() {
    loom::model(|| {
        let (registry, witness) = (Registry::new(), Failed::new());
        let [one, other] = [(); 2].map(|()| open(&registry, &witness));
        let writing = thread::spawn(move || {
            other.write_durably(|| Err(io::ErrorKind::Other.into())).unwrap_err();
            assert!(other.flush().is_err());
        });
        assert!(one.flush().is_err());
        writing.join().unwrap();
        assert!(one.flush().is_err());
    });
}

#[test]
fn a_loss_found_by_the_last_that_leaves_is_reported_to_the_next_that_comes() {
    loom::model(|| {
        let (registry, witness) = (Registry::new(), Failed::new());
        let one = open(&registry, &witness);
        one.change(|| Ok(())).unwrap();
        let leaving = thread::spawn(move || drop(one));
        let next = open(&registry, &witness);
        let told = next.flush().is_err();
        leaving.join().unwrap();
        drop(next);
        let mut last = open(&registry, &witness);
        if !told {
            assert!(last.flush().is_err());
            last = open(&registry, &witness);
        }
        assert!(last.flush().is_ok());
    });
}
