//! VMMs, drivers and guests that tests play. Only tests, benchmarks and the fuzz targets have them
//! (the feature `testing`).

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
