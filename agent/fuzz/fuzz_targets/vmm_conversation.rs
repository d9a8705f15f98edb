//! A VMM that says anything by vhost-user, between what its guest puts into the rings and what sessions
//! send and receive (agent/vsock-device/src/testing/conversation.rs).

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| vsock_device::testing::conversation::play(input));
