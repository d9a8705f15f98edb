//! The parts of the agent that are fuzzed, compiled by their paths.

#[path = "../src/virtio/mod.rs"]
pub mod virtio;
