//! Noisy neighbours: one tenant does the worst it can while another is served as if it were alone.
//!
//! The noisy tenant comes over TCP (a tenant is an IPv4 address), the quiet one over a Unix socket (a tenant
//! is a uid). `disks` and `layers` have a row per plugin and filter, `rows` the exact cases that were seen,
//! `negotiate` and `status` storms of one kind of request.
//! `NEIGHBOURS_SEED` repeats a run, `NEIGHBOURS_MS` makes each row longer.

#[path = "../tls/certificates.rs"]
#[allow(dead_code, reason = "shared with the tests of TLS")]
mod certificates;
#[path = "../common/mod.rs"]
mod common;
mod disks;
mod host;
mod layers;
mod load;
mod medium;
mod negotiate;
mod noise;
mod quiet;
mod random;
mod rows;
mod status;
mod work;
