//! The locks and threads of the modules whose interleavings are tried with loom: the standard library's, or
//! loom's with the feature `loom`.

#[cfg(feature = "loom")]
pub(crate) use loom::{
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread,
};
#[cfg(not(feature = "loom"))]
pub(crate) use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread,
};
