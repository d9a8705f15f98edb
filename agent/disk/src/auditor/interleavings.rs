//! Every interleaving of durable writes whose writeback fails, by loom: none of them is taken for durable.

use std::io;

use loom::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use super::{Audit, Auditor, Hears};

/// A file as Linux keeps it: it counts errors of writeback, and a descriptor knows which it has told.
#[derive(Debug)]
struct Descriptor {
    errors: Arc<AtomicU64>,
    told: AtomicU64,
}

impl Descriptor {
    fn new(errors: &Arc<AtomicU64>) -> Self {
        Self { errors: Arc::clone(errors), told: AtomicU64::new(0) }
    }

    /// The error, once.
    fn check(&self) -> io::Result<()> {
        let errors = self.errors.load(Ordering::SeqCst);
        if self.told.swap(errors, Ordering::SeqCst) < errors {
            return Err(io::ErrorKind::Other.into());
        }
        Ok(())
    }
}

impl Hears for Descriptor {
    fn hear(&self) -> io::Result<()> {
        self.check()
    }
}

struct Lab {
    written: Descriptor,
    auditor: Auditor<Descriptor>,
}

impl Lab {
    /// Another thread's write fails meanwhile; whether it is acknowledged.
    fn with_one_that_fails() -> (Arc<Self>, JoinHandle<bool>) {
        let errors = Arc::new(AtomicU64::new(0));
        let (written, heard) = (Descriptor::new(&errors), Descriptor::new(&errors));
        let lab = Arc::new(Self { written, auditor: Auditor::new(heard) });
        let other = Arc::clone(&lab);
        (lab, thread::spawn(move || other.writes(true)))
    }

    /// Whether a durable write on the one descriptor is acknowledged.
    fn writes(&self, fails: bool) -> bool {
        let begun = self.auditor.begin();
        if fails {
            self.written.errors.fetch_add(1, Ordering::SeqCst);
        }
        self.written.check().is_ok() && matches!(self.auditor.audit(begun), Audit::Durable)
    }
}

#[test]
fn no_write_that_failed_is_acknowledged_whoever_hears_of_it() {
    loom::model(|| {
        let (lab, other) = Lab::with_one_that_fails();
        // One that is well, or so it seems, may hear of the others' too.
        lab.writes(false);
        assert!(!lab.writes(true), "here");
        assert!(!other.join().unwrap(), "there");
    });
}

#[test]
fn a_write_that_begins_after_the_others_are_done_is_durable() {
    loom::model(|| {
        let (lab, other) = Lab::with_one_that_fails();
        lab.writes(true);
        other.join().unwrap();
        // Who wrote last may have left its error on the descriptor that is written by: that is told once.
        lab.written.check().ok();
        assert!(lab.writes(false));
    });
}
