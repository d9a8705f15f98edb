//! The parts of the agent that are fuzzed, compiled by their paths.

#[path = "../src/virtio/mod.rs"]
pub mod virtio;

/// What they need of it.
#[path = "../src/sys"]
mod sys {
    pub(crate) mod aio;
    pub(crate) mod eventfd;
    pub(crate) mod shared;
}
