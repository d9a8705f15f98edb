//! VMMs, drivers and guests for tests, benchmarks and the fuzz targets (the feature `testing`).

#[cfg(any(test, fuzzing))]
pub mod conversation;
pub mod guest;
#[cfg(any(test, fuzzing))]
pub mod hostile;
#[cfg(any(test, fuzzing))]
mod input;
pub mod nbd;
pub mod rings;
#[cfg(any(test, fuzzing))]
pub(crate) mod test_driver;
pub mod vmm;
