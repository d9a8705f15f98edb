//! Points at which a test ends the device as a kill would: between two stores of a record, and before and after each
//! use of the keeper and of the VMM's socket.

#[cfg(not(test))]
pub(crate) const fn step() {}

#[cfg(test)]
pub(crate) use self::armed::{arm, left, step};

#[cfg(test)]
mod armed {
    use std::{cell::Cell, panic::resume_unwind};

    thread_local! {
        static LEFT: Cell<Option<u32>> = const { Cell::new(None) };
    }

    /// The thread unwinds at this step from now on, counted from 0; `None`: at no step.
    pub(crate) fn arm(steps: Option<u32>) {
        LEFT.set(steps);
    }

    /// The steps that are left until then.
    pub(crate) fn left() -> Option<u32> {
        LEFT.get()
    }

    pub(crate) fn step() {
        match LEFT.get() {
            Some(0) => {
                LEFT.set(None);
                resume_unwind(Box::new("killed"));
            }
            Some(left) => LEFT.set(Some(left - 1)),
            None => {}
        }
    }
}
