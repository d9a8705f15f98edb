//! A guest that says anything to its vsock device: packets, descriptors and rings, while sessions
//! send and receive (agent/vsock-device/src/testing/hostile.rs).

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| vsock_device::testing::hostile::play(input));
