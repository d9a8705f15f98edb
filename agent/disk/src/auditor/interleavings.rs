//! Every interleaving of durable writes whose writeback fails, by loom: none of them counts as durable.

use std::io;

use loom::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use super::{Audit, Auditor, Hears};

/// A model of a file in Linux: it counts errors of writeback, and a descriptor knows which it has reported.
#[derive(Debug)]
struct Descriptor {
    errors: Arc<AtomicU64>,
    told: AtomicU64,
}

impl Descriptor {
    fn new(errors: &Arc<AtomicU64>) -> Self {
        Self { errors: Arc::clone(errors), told: AtomicU64::new(0) }
    }

    /// Reports the error, once.
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
    /// Starts a thread whose write fails, and which returns whether the write is acknowledged.
    fn with_one_that_fails() -> (Arc<Self>, JoinHandle<bool>) {
        let errors = Arc::new(AtomicU64::new(0));
        let (written, heard) = (Descriptor::new(&errors), Descriptor::new(&errors));
        let lab = Arc::new(Self { written, auditor: Auditor::new(heard) });
        let other = Arc::clone(&lab);
        (lab, thread::spawn(move || other.writes(true)))
    }

    /// Whether a durable write on the descriptor is acknowledged.
    fn writes(&self, fails: bool) -> bool {
        let begun = self.auditor.begin();
        if fails {
            self.written.errors.fetch_add(1, Ordering::SeqCst);
        }
        self.written.check().is_ok() && matches!(self.auditor.audit(begun), Audit::Durable)
    }
}

#[test]
fn no_write_that_failed_is_acknowledged_whichever_write_gets_the_error() {
    loom::model(|| {
        let (lab, other) = Lab::with_one_that_fails();
        // A write that succeeds may also get the error of another one.
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
        // The last write may have left its error on the descriptor that is written to. It is reported once.
        lab.written.check().ok();
        assert!(lab.writes(false));
    });
}
